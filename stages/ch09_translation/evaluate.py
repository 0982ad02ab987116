"""Translate the test texts of chapter 9 and compare with what people wrote.

In: data/prepared/ch09/, data/models/ch09/transformer.safetensors. Out: metrics/ch09.json;
data/evaluated/ch09/translations.json, of every test text its source, reference, translation, that of the nearest
training text, and the translation's chrF, and BLEU by length of the source; data/evaluated/ch09/attention.npz, the
attention of every head of the last layer to one source, and the first sinusoids.

The program in the book's repository translates validation sentences, joins the tokens with blanks and scores that
against the plain references; here the scores are of plain texts, on sentences that nothing was chosen by.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch09_evaluate")  # loads MLflow while this process gets ready

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sacrebleu.metrics import BLEU, CHRF

from stages.ch09_translation.dataset import batch_numbers, make_batch
from stages.ch09_translation.memory import TranslationMemory
from stages.ch09_translation.model import sinusoids
from stages.ch09_translation.neighbours import Memory
from stages.ch09_translation.tokens import PAD, UNKNOWN, too_long
from stages.ch09_translation.translator import Translator, attention_maps, load_translator
from stages.common.arrays import save_arrays
from stages.common.devices import find_device, set_up_torch, takes_bfloat16
from stages.common.files import read_json, rounded, write_json
from stages.common.memory import keep_freed_memory
from stages.common.params import declared_parameters

CORPUS = Path("data/prepared/ch09/corpus")
TOKENIZERS = Path("data/prepared/ch09/tokenizers.json")
COUNTS = "data/prepared/ch09/counts.json"
TOO_LONG = "data/prepared/ch09/too_long.json"
MODEL = Path("data/models/ch09/transformer.safetensors")
TRANSLATIONS = "data/evaluated/ch09/translations.json"
ATTENTION = "data/evaluated/ch09/attention.npz"
TOKENS_PER_FORWARD = 4000
POSITIONS_SHOWN = 100
DRAWS = 1000  # of the test texts, for an interval
LENGTHS = [(1, 1), (2, 2), (3, 3), (4, 5), (6, 9), (10, 19), (20, None)]  # words of the source, from and to


def bleu(translations: Sequence[str], references: Sequence[str], longest: int = 4) -> float:
    """Return BLEU in percent (Papineni et al., 2002), of sequences of 1 to `longest` words.

    Where not one sequence of `longest` words is right it is 0, as without smoothing it is by its definition;
    sacrebleu's default then assumes a part of one.
    """
    return bleu_metric(longest).corpus_score(translations, [references]).score


def bleu_metric(longest: int = 4) -> BLEU:
    return BLEU(max_ngram_order=longest, smooth_method="none", force=True)  # no remark on full stops that stand alone


def chrf(translations: Sequence[str], references: Sequence[str]) -> float:
    """Return chrF in percent (Popović, 2015), of sequences of 1 to 6 characters, blanks left out."""
    return CHRF().corpus_score(translations, [references]).score


def intervals(translations: Sequence[str], references: Sequence[str], seed: int) -> dict[str, float]:
    """Return half the widths of the 95 % intervals of BLEU and chrF, in percent: how much the choice of the texts does.

    They are of 1,000 sets of as many texts, drawn from these with replacement (Koehn, 2004).
    """
    os.environ["SACREBLEU_SEED"] = str(seed)  # the only way to tell sacrebleu
    found = {}
    for name, metric in (("bleu", bleu_metric()), ("chrf", CHRF())):
        score = metric.corpus_score(translations, [references], n_bootstrap=DRAWS)
        # It has no public attribute for it.
        described = json.loads(score.format(width=4, signature=str(metric.get_signature()), is_json=True))
        found[f"{name}_interval"] = described.get("confidence_var", 0.0)  # sacrebleu has none of scores of 0
    return found


def scores(translations: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU and chrF in percent, and the error rates of letters and words.

    The error rates are edit distances over the references' length, and can exceed 1.
    """
    from torchmetrics.functional.text import char_error_rate, word_error_rate

    return {
        "bleu": bleu(translations, references),
        "chrf": chrf(translations, references),
        "cer": char_error_rate(list(translations), list(references)).item(),
        "wer": word_error_rate(list(translations), list(references)).item(),
    }


@torch.no_grad()
def token_accuracy(translator: Translator, sources: list[list[int]], targets: list[list[int]]) -> float:
    """Return the share of the reference's tokens, ends included, that are the likeliest after those before them.

    A word that the vocabulary lacks is never right, though the network may expect one.
    """
    right = total = 0
    device = next(translator.model.parameters()).device
    for numbers in batch_numbers(sources, targets, TOKENS_PER_FORWARD):
        batch = make_batch([sources[number] for number in numbers], [targets[number] for number in numbers])
        best = translator.model(batch.src.to(device), batch.tgt.to(device)).argmax(dim=-1).cpu()
        labelled = batch.labels != PAD
        right += int((best == batch.labels)[labelled & (batch.labels != UNKNOWN)].sum())
        total += int(labelled.sum())
    return right / total


def measure(
    sources: Sequence[str],
    references: Sequence[str],
    translations: Sequence[str],
    by_network: Sequence[str],
    remembered: Sequence[str],
    seed: int,
) -> dict[str, float]:
    """Return the scores of the translations, and beside them those of three that do with less.

    They are the network without a memory, a memory's nearest text without a network, and the source as it stands.
    """
    exact = np.mean([own == other for own, other in zip(translations, references, strict=True)])
    compared = {"network": by_network, "memory": remembered, "copy": sources}
    found = {name: scores(texts, references) for name, texts in compared.items()}
    beside = {f"{name}_{score}": found[name][score] for name in ("network", "memory") for score in ("bleu", "chrf")}
    return {
        **scores(translations, references),
        **intervals(translations, references, seed),
        "exact_match": float(exact),
        **beside,
        "copy_bleu": found["copy"]["bleu"],
    }


def bleu_by_length(texts: Sequence[Mapping[str, str]]) -> list[dict[str, str | float]]:
    """Return BLEU of the translations and of the memory by the words of the source, of each range that has texts.

    A text of one word has no sequence of four: of short texts BLEU counts sequences of at most their number of words.
    """
    rows = []
    for least, most in LENGTHS:
        own = [text for text in texts if least <= len(text["source"].split()) <= (most or 10**9)]
        if own:
            references = [text["reference"] for text in own]
            found = {
                name: bleu([text[name] for text in own], references, min(4, least))
                for name in ("translation", "memory")
            }
            words = f"{least}+" if most is None else str(least) if least == most else f"{least}–{most}"
            rows.append({"words": words, "texts": len(own), **rounded(found, 4)})
    return rows


def example_of(sources: Sequence[str], translations: Sequence[str], by_text: Sequence[float]) -> int:
    """Return the number of the text whose attention is shown: the best translated of those of 5 to 8 words."""
    suitable = [
        number
        for number, source in enumerate(sources)
        if 5 <= len(source.split()) <= 8 and 4 <= len(translations[number].split()) <= 9
    ]
    return max(suitable or range(len(sources)), key=lambda number: (by_text[number], -number))


def main() -> None:
    parameters = declared_parameters("ch09_evaluate")
    keep_freed_memory()
    device = find_device(parameters.device)
    set_up_torch(parameters.seed, parameters.ch09.num_threads, device)
    recipe = parameters.ch09.active
    options = recipe.select("memory_pairs", "memory_nearest", "memory_temperature", "memory_reach")
    search = {"beams": recipe.beams, "penalty": recipe.length_penalty}

    import datasets

    corpus = datasets.load_from_disk(str(CORPUS))
    train, test = corpus["train"], corpus["test"]
    sources, references = test["en"][:], test["ru"][:]
    try:
        translator = load_translator(MODEL, TOKENIZERS, device)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    src, tgt = test["src"][:], test["tgt"][:]
    fitting = np.flatnonzero(~too_long(src, tgt, translator.longest))
    if not len(fitting):
        raise SystemExit(f"error: all {len(sources)} test texts have {translator.longest} tokens or more")
    translator.bfloat16 = takes_bfloat16(recipe.precision, device)
    by_network = translations = translator.translate(sources, **search, label="ch09 by the network")
    if options["memory_pairs"]:
        translator.memory = Memory.of(train, options)
        translations = translator.translate(sources, **search, label="ch09 with the memory")
    # A memory of texts alone has those, too, that are too long for the network.
    left_out = read_json(TOO_LONG)
    known = [*train["en"][:], *(english for english, _ in left_out)]
    known_translations = [*train["ru"][:], *(russian for _, russian in left_out)]
    remembered = [known_translations[number] for (number,) in TranslationMemory(known).nearest(sources)]
    metrics = measure(sources, references, translations, by_network, remembered, parameters.seed)
    metrics["token_accuracy"] = token_accuracy(
        translator, [src[number] for number in fitting], [tgt[number] for number in fitting]
    )
    counts = read_json(COUNTS)
    counts.pop("digest")
    write_json("metrics/ch09.json", {**rounded(metrics, 4), **counts})

    by_text = [round(chrf([own], [other]), 2) for own, other in zip(translations, references, strict=True)]
    names = ("source", "reference", "translation", "memory", "chrf")
    rows = zip(sources, references, translations, remembered, by_text, strict=True)
    texts = [dict(zip(names, row, strict=True)) for row in rows]
    write_json(TRANSLATIONS, {"texts": texts, "by_length": bleu_by_length(texts)})
    shown = example_of(sources, translations, by_text)
    maps, words, written = attention_maps(translator, sources[shown], **search)
    d_model = translator.model.tgt_embedding.table.embedding_dim
    save_arrays(
        ATTENTION,
        maps=maps,
        words=np.array(words),
        written=np.array(written),
        positions=sinusoids(POSITIONS_SHOWN, d_model).numpy(),
    )

    tracking.record_results(
        "ch09_evaluate",
        MODEL,
        {f"test_{name}": value for name, value in metrics.items()},
        {**recipe.select("beams", "length_penalty"), **options},
    )


if __name__ == "__main__":
    main()
