"""The READMEs' tables say what metrics/ and metrics/book say."""

import re

import pytest

from stages.book import LONG
from stages.common.files import read_json
from tests.conftest import ROOT

ROW = re.compile(r"^\|.*\| `(?P<file>ch[\w/]+\.json): (?P<key>\w+)` \| (?P<own>[^|]+) \| (?P<book>[^|]+) \|$", re.M)


def shown(value: float | None) -> str:
    """Write a number as the tables do: a share as four digits behind the point, a count as it is."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def measured(file: str, key: str) -> tuple[float, float | None]:
    """Return a number of metrics/`file` and the same of metrics/book, where the variants of a chapter share a file.

    Of a chapter that `make book` leaves out, the second is None.
    """
    chapter, _, variant = file.removesuffix(".json").partition("/")
    if chapter in LONG and not (ROOT / f"metrics/book/{chapter}.json").exists():
        return read_json(ROOT / "metrics" / file)[key], None
    book = read_json(ROOT / f"metrics/book/{chapter}.json")
    return read_json(ROOT / "metrics" / file)[key], (book[variant] if variant else book)[key]


@pytest.mark.parametrize("page", ["README.md", "README.ru.md"])
def test_table_of_results_is_that_of_the_metrics(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = list(ROW.finditer(text))
    lines = [line for line in text.splitlines() if line.startswith("|") and ".json" in line]
    assert [row[0] for row in rows] == lines, "a row is not as the others, and would not be compared"
    assert {row["file"][:4] for row in rows} >= {"ch03", "ch04", "ch05", "ch06", "ch07", "ch08", "ch09"}
    for row in rows:
        own, book = measured(row["file"], row["key"])
        assert (row["own"], row["book"]) == (shown(own), shown(book)), row[0]
