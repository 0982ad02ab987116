"""Translate the test texts of chapter 9 and compare with what people wrote.

In: data/prepared/ch09/, data/models/ch09/transformer.safetensors. Out: metrics/ch09.json;
data/evaluated/ch09/translations.json, of every test text its source, reference, translation, that of the nearest text
trained on, and the translation's chrF, and BLEU by length of the source; data/evaluated/ch09/attention.npz, the
attention of every head of the last layer to one source, and the first sinusoids.

The book's program translates validation sentences, joins the tokens with blanks and scores that against the plain
references; here the scores are of plain texts, on sentences that nothing was chosen by.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch09_evaluate")  # loads MLflow while this process gets ready

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from stages.ch09_translation.dataset import batch_numbers, make_batch
from stages.ch09_translation.model import sinusoids
from stages.ch09_translation.neighbours import Memory
from stages.ch09_translation.tokens import PAD, too_long
from stages.ch09_translation.translator import Translator, attention_maps, load_translator
from stages.common.arrays import save_arrays
from stages.common.devices import find_device, set_up_torch, takes_bfloat16
from stages.common.files import read_json, rounded, write_json
from stages.common.memory import keep_freed_memory
from stages.common.params import declared_parameters

CORPUS = Path("data/prepared/ch09/corpus")
TOKENIZERS = Path("data/prepared/ch09/tokenizers.json")
COUNTS = "data/prepared/ch09/counts.json"
MODEL = Path("data/models/ch09/transformer.safetensors")
TRANSLATIONS = "data/evaluated/ch09/translations.json"
ATTENTION = "data/evaluated/ch09/attention.npz"
TOKENS_PER_FORWARD = 4000
POSITIONS_SHOWN = 100
LENGTHS = [(1, 1), (2, 2), (3, 3), (4, 5), (6, 9), (10, 19), (20, None)]  # words of the source, from and to


def scores(translations: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU and chrF in percent, as sacrebleu has them, and the error rates of letters and words.

    Where not one sequence of four words is right BLEU is 0, as without smoothing it is by its definition; sacrebleu's
    default then assumes a part of one.

    BLEU (Papineni et al., 2002) counts sequences of 1 to 4 words, chrF (Popović, 2015) of 1 to 6 letters. The error
    rates are edit distances over the references' length, and can exceed 1.
    """
    from torchmetrics.functional.text import (
        char_error_rate,
        sacre_bleu_score,
        word_error_rate,
    )

    listed = [[reference] for reference in references]
    return {
        "bleu": 100 * sacre_bleu_score(list(translations), listed).item(),
        "chrf": chrf(translations, references),
        "cer": char_error_rate(list(translations), list(references)).item(),
        "wer": word_error_rate(list(translations), list(references)).item(),
    }


def chrf(translations: Sequence[str], references: Sequence[str], longest: int = 6, beta: float = 2.0) -> float:
    """Return chrF in percent: the F-score of mean precision and mean recall of sequences of 1 to `longest` letters.

    Blanks are left out. It is sacrebleu's chrF. torchmetrics' takes the mean of the F-scores instead, and counts the
    sequences of a translation whose reference is too short to have any: some hundredths more or less.
    """
    found = np.zeros((longest, 3))  # (letters, (of the translations, of the references, of both))
    for pair in zip(translations, references, strict=True):
        texts = ["".join(text.split()) for text in pair]
        for letters in range(1, longest + 1):
            own, other = (
                Counter(text[start : start + letters] for start in range(len(text) - letters + 1)) for text in texts
            )
            if other:
                found[letters - 1] += own.total(), other.total(), (own & other).total()
    found = found[(found[:, :2] > 0).all(axis=1)]
    if not found[:, 2].any():
        return 0.0
    precision, recall = (found[:, 2] / found[:, 0]).mean(), (found[:, 2] / found[:, 1]).mean()
    return float(100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall))


@torch.no_grad()
def token_accuracy(translator: Translator, sources: list[list[int]], targets: list[list[int]]) -> float:
    """Return the share of the reference's tokens, ends included, that are the likeliest after those before them."""
    right = total = 0
    device = next(translator.model.parameters()).device
    for numbers in batch_numbers(sources, targets, TOKENS_PER_FORWARD):
        batch = make_batch([sources[number] for number in numbers], [targets[number] for number in numbers])
        best = translator.model(batch.src.to(device), batch.tgt.to(device)).argmax(dim=-1).cpu()
        labelled = batch.labels != PAD
        right += int((best == batch.labels)[labelled].sum())
        total += int(labelled.sum())
    return right / total


def measure(
    sources: Sequence[str],
    references: Sequence[str],
    translations: Sequence[str],
    by_network: Sequence[str],
    remembered: Sequence[str],
) -> dict[str, float]:
    """Return the scores of the translations, and beside them those of three that do with less.

    They are the network without a memory, the memory's nearest text without a network, and the source as it stands.
    """
    exact = np.mean([own == other for own, other in zip(translations, references, strict=True)])
    compared = {"network": by_network, "memory": remembered, "copy": sources}
    found = {name: scores(texts, references) for name, texts in compared.items()}
    beside = {f"{name}_{score}": found[name][score] for name in ("network", "memory") for score in ("bleu", "chrf")}
    return {
        **scores(translations, references),
        "exact_match": float(exact),
        **beside,
        "copy_bleu": found["copy"]["bleu"],
    }


def bleu_by_length(texts: Sequence[Mapping[str, str]]) -> list[dict[str, str | float]]:
    """Return BLEU of the translations and of the memory by the words of the source, of each range that has texts.

    A text of one word has no sequence of four: of short texts BLEU counts sequences of at most their number of words.
    """
    from torchmetrics.functional.text import sacre_bleu_score

    rows = []
    for least, most in LENGTHS:
        own = [text for text in texts if least <= len(text["source"].split()) <= (most or 10**9)]
        if own:
            references = [[text["reference"]] for text in own]
            found = {
                name: 100 * sacre_bleu_score([text[name] for text in own], references, n_gram=min(4, least)).item()
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
    sources, references, known_translations = test["en"][:], test["ru"][:], train["ru"][:]
    memory = Memory.of(train, options)
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
        translator.memory = memory
        translations = translator.translate(sources, **search, label="ch09 with the memory")
    remembered = [known_translations[number] for (number,) in memory.texts.nearest(sources)]
    metrics = measure(sources, references, translations, by_network, remembered)
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
