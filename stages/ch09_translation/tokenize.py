"""Chapter 9, step 2: clean the texts, split them, learn the tokenizers and turn texts into tokens.

In: data/raw/ch09/. Out: data/prepared/ch09/corpus, a `datasets.DatasetDict` of train, val and test with the columns
`en`, `ru` and their tokens `src` and `tgt`; data/prepared/ch09/tokenizers.json, both; data/prepared/ch09/counts.json,
how many pairs there were and were left out; data/prepared/ch09/too_long.json, the training pairs left out as too long.

Departures from the book: the tokenizers see training texts alone; texts are cleaned, repeats dropped, and the split is
such that no test text is a training text with other digits or punctuation; a pair that is too long is left out of the
training and counted, where the book's program raises; a source has an end, and no start.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from stages.ch09_translation.corpus import (
    Pair,
    home_assistant_pairs,
    opus_books_pairs,
    some_pairs,
    split_pairs,
    unique_pairs,
)
from stages.ch09_translation.tokens import encode, fit_tokenizer, too_long
from stages.common.files import placed, write_json
from stages.common.params import declared_parameters

RAW = Path("data/raw/ch09")
CORPUS = Path("data/prepared/ch09/corpus")
TOKENIZERS = Path("data/prepared/ch09/tokenizers.json")
COUNTS = Path("data/prepared/ch09/counts.json")
TOO_LONG = Path("data/prepared/ch09/too_long.json")


def pairs_of(corpus: str) -> list[Pair]:
    """Return the pairs of a corpus as the download left it."""
    if corpus == "homeassistant":
        return home_assistant_pairs(RAW / "homeassistant.whl")
    return opus_books_pairs(RAW / "opus_books.parquet")


def tokenized(
    split: dict[str, list[Pair]], tokenizers: tuple[Tokenizer, Tokenizer], longest: int
) -> tuple[dict[str, dict[str, list]], dict[str, int]]:
    """Return the columns of each part, and how many pairs each part has and how many were too long to train on.

    Too long means more than `longest` tokens on a side, its end counted. Test pairs are all kept; validation and
    training pairs that are too long are not.
    """
    parts: dict[str, dict[str, list]] = {}
    counts: dict[str, int] = {}
    for part, pairs in split.items():
        english, russian = ([pair[language] for pair in pairs] for language in (0, 1))
        src, tgt = encode(tokenizers[0], english), encode(tokenizers[1], russian)
        long = too_long(src, tgt, longest)
        kept = range(len(pairs)) if part == "test" else np.flatnonzero(~long).tolist()
        columns = {"en": english, "ru": russian, "src": src, "tgt": tgt}
        parts[part] = {name: [values[number] for number in kept] for name, values in columns.items()}
        counts |= {f"{part}_pairs": len(kept), f"{part}_pairs_too_long": int(long.sum())}
    return parts, counts


def save_tokenizers(tokenizers: tuple[Tokenizer, Tokenizer], path: Path) -> None:
    """Write both to one file, so that nobody pairs one of an old fit with one of a new."""
    english, russian = (json.loads(tokenizer.to_str()) for tokenizer in tokenizers)
    write_json(path, {"en": english, "ru": russian})


def save_corpus(parts: dict[str, dict[str, list]], folder: Path, digest: str) -> None:
    """Write a `datasets.DatasetDict`; its fingerprint is the digest: by default it depends on the library's version."""
    import datasets

    datasets.disable_progress_bars()
    tokens = datasets.Sequence(datasets.Value("int32"))
    features = datasets.Features({"en": datasets.Value("string"), "ru": datasets.Value("string")})
    features |= {"src": tokens, "tgt": tokens}
    dataset = datasets.DatasetDict()
    for part, columns in parts.items():
        table = datasets.Dataset.from_dict(columns, datasets.Features(features))
        dataset[part] = datasets.Dataset(table.data, table.info, fingerprint=f"{digest}-{part}")
    with placed(folder) as temporary:
        dataset.save_to_disk(temporary)
        for path in temporary.rglob("*.json"):  # with Windows' ends of lines there
            path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parameters = declared_parameters("ch09_tokenize")
    ch09, recipe = parameters.ch09, parameters.ch09.active
    try:
        raw = pairs_of(ch09.corpus)
        pairs = unique_pairs(raw)
        split = split_pairs(pairs, ch09.val_share, ch09.test_share, ch09.split_seed)
        if recipe.pairs:
            split["train"] = some_pairs(split["train"], recipe.pairs, ch09.split_seed)
        english, russian = (
            fit_tokenizer(texts, recipe.tokenizer, recipe.vocabulary, recipe.min_frequency)
            for texts in zip(*split["train"], strict=True)
        )
        parts, counts = tokenized(split, (english, russian), recipe.longest)
        for part in ("train", "val"):
            if not parts[part]["src"]:
                raise ValueError(f"none of the {len(split[part])} pairs for {part} has at most {recipe.longest} tokens")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    save_tokenizers((english, russian), TOKENIZERS)
    kept = set(zip(parts["train"]["en"], parts["train"]["ru"], strict=True))
    write_json(TOO_LONG, [pair for pair in split["train"] if pair not in kept])
    # What the corpus holds: its folder has no hash of its own that a checkpoint could be told by.
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    save_corpus(parts, CORPUS, digest[:16])
    vocabularies = {"src_vocabulary": english.get_vocab_size(), "tgt_vocabulary": russian.get_vocab_size()}
    counts = {"read_pairs": len(raw), "unique_pairs": len(pairs), **counts, **vocabularies}
    write_json(COUNTS, {**counts, "digest": digest})
    print(", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
