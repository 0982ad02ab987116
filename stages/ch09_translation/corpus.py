"""Pairs of texts in two languages: read from a source, cleaned, and split so that no test text was trained on.

A pair is (English, Russian).
"""

import json
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

Pair = tuple[str, str]

TRANSLATIONS = re.compile(r"homeassistant/components/[^/]+/translations/ru\.json")
CYRILLIC = re.compile(r"[\u0400-\u04ff]")
PLACEHOLDER = re.compile(r"\{[^{}]*\}|\[%[^%]*%\]|<[^<>]*>|https?://\S+")
PARTS = ("train", "val", "test")


def texts(node: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every text of a nested dictionary with its path of keys."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from texts(value, (*path, key))
        elif isinstance(value, str):
            yield (*path, key), value


def home_assistant_pairs(wheel: Path) -> list[Pair]:
    """Return what Home Assistant's interface says in English and, under the same key, in Russian.

    Texts without a Cyrillic letter are not translated, mostly names, and left out.
    """
    pairs: list[Pair] = []
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in sorted(filter(TRANSLATIONS.fullmatch, names)):
            english = f"{name.removesuffix('ru.json')}en.json"
            if english in names:
                english_texts, russian_texts = (dict(texts(json.loads(archive.read(n)))) for n in (english, name))
                pairs += [
                    (text, russian_texts[key])
                    for key, text in english_texts.items()
                    if CYRILLIC.search(russian_texts.get(key, ""))
                ]
    return pairs


def opus_books_pairs(parquet: Path) -> list[Pair]:
    """Return the sentences of the book's corpus, a column `translation` of {"en": …, "ru": …}.

    Raises:
        ValueError: with one line, for a file that is laid out otherwise.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(parquet, columns=["translation"])["translation"].to_pylist()
        return [(row["en"], row["ru"]) for row in rows]
    except (pyarrow.ArrowException, KeyError, TypeError) as error:
        raise ValueError(f"{parquet}: no column translation of en and ru: {' '.join(str(error).split())}") from None


def cleaned(text: str) -> str:
    """Return a text in Unicode's composed form, without control characters, its white space single blanks."""
    composed = unicodedata.normalize("NFC", text)
    visible = "".join(" " if unicodedata.category(letter) in ("Cc", "Cf") else letter for letter in composed)
    return " ".join(visible.split())


def sameness(text: str) -> str:
    """Return what texts have in common that differ only in case, digits, punctuation, blanks or placeholders."""
    return "".join(letter for letter in PLACEHOLDER.sub("", text).casefold() if letter.isalpha())


def unique_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """Clean both texts of each pair, and leave out empty ones and repeats; the first of each kind stays, in order."""
    both = ((cleaned(english), cleaned(russian)) for english, russian in pairs)
    return list(dict.fromkeys((english, russian) for english, russian in both if sameness(english) and russian))


def split_pairs(pairs: list[Pair], val_share: float, test_share: float, seed: int) -> dict[str, list[Pair]]:
    """Draw which pairs are for training, validation and test.

    Pairs whose English texts are the same, as `sameness` has it, come into the same part; and since several English
    texts may have one Russian one, those whose Russian texts are the same do, too. The shares are of such groups.

    Raises:
        ValueError: with one line, if a part would be empty.
    """
    group_of = groups(pairs)
    numbers = np.random.default_rng(seed).permutation(max(group_of, default=-1) + 1)
    ends = np.cumsum([round(share * len(numbers)) for share in (test_share, val_share)])
    part_of_group = np.array(["train"] * len(numbers), dtype=object)
    part_of_group[numbers[: ends[0]]] = "test"
    part_of_group[numbers[ends[0] : ends[1]]] = "val"
    split: dict[str, list[Pair]] = {part: [] for part in PARTS}
    for pair, group in zip(pairs, group_of, strict=True):
        split[part_of_group[group]].append(pair)
    for part in PARTS:
        if not split[part]:
            raise ValueError(f"the corpus has {len(pairs)} pairs after cleaning: none are left for {part}")
    return split


def some_pairs(pairs: list[Pair], count: int, seed: int) -> list[Pair]:
    """Return `count` of the pairs, drawn, or all if there are no more, in their order.

    The corpus has its texts by the names of Home Assistant's components: the first ones would be of some of them alone.
    """
    # Another stream than split_pairs has, which draws groups with the same seed.
    numbers = np.random.default_rng([seed, 1]).permutation(len(pairs))[:count]
    return [pairs[number] for number in sorted(numbers)]


def groups(pairs: list[Pair]) -> list[int]:
    """Return for each pair the number of its group: pairs that share an English or a Russian text are in one."""
    parent = list(range(len(pairs)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[tuple[int, str], int] = {}
    for place, pair in enumerate(pairs):
        for language, text in enumerate(pair):
            key = (language, sameness(text) or text)  # a text of signs alone is its own
            parent[root(place)] = root(first.setdefault(key, place))
    number: dict[int, int] = {}
    return [number.setdefault(root(place), len(number)) for place in range(len(pairs))]
