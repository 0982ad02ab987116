"""The pages say what metrics/ and metrics/book say, and name and link what is there."""

import re
from pathlib import Path, PurePath

import pytest

from stages.book import LONG
from stages.common.files import read_json
from tests.conftest import ROOT

ROW = re.compile(r"^\|.*\| `(?P<file>ch[\w/]+\.json): (?P<key>\w+)` \| (?P<own>[^|]+) \| (?P<book>[^|]+) \|$", re.M)

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
FIGURES = (ROOT / "docs/figures.md").read_text(encoding="utf-8")
FACTS = sorted(set((ROOT / "metrics/facts").glob("*.json")) - {ROOT / "metrics/facts/ch01.json"})  # that is by topic
PLACES = re.findall(r"^\| (\d) \| (.*) \| (.*) \|$", FIGURES, re.M)  # chapter, figures, programs and pictures


def shown(value: float | None) -> str:
    """Write a number as the tables do: a count as it is; else four digits behind the point, or one from 10 on."""
    if value is None:
        return "–"
    if 0 < abs(value) < 0.00005:
        return f"{value:.1e}"
    if isinstance(value, int):
        return str(value)
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.4f}"


def measured(file: str, key: str) -> tuple[float, float | None]:
    """Return a number of metrics/`file` and the same of metrics/book, where the variants of a chapter share a file.

    Of a chapter that `make book` leaves out, the second is None.
    """
    chapter, _, variant = file.removesuffix(".json").partition("/")
    if chapter in LONG and not (ROOT / f"metrics/book/{chapter}.json").exists():
        return read_json(ROOT / "metrics" / file)[key], None
    book = read_json(ROOT / f"metrics/book/{chapter}.json")
    return read_json(ROOT / "metrics" / file)[key], (book[variant] if variant else book)[key]


@pytest.mark.parametrize("page", ["README.md", "README.ru.md", "docs/results.md"])
def test_table_of_results_is_that_of_the_metrics(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = list(ROW.finditer(text))
    lines = [line for line in text.splitlines() if line.startswith("|") and ".json" in line]
    assert [row[0] for row in rows] == lines, "a row is not as the others, and would not be compared"
    assert {row["file"][:4] for row in rows} >= {"ch03", "ch04", "ch05", "ch06", "ch07", "ch08", "ch09"}
    for row in rows:
        own, book = measured(row["file"], row["key"])
        assert (row["own"], row["book"]) == (shown(own), shown(book)), row[0]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)  # with comments of code
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize(("chapter", "figures", "places"), PLACES, ids=[f"{row[0]}: {row[1]}" for row in PLACES])
def test_the_books_figures_are_where_they_are_said_to_be(chapter, figures, places):
    (package,) = (ROOT / "stages").glob(f"ch0{chapter}_*")
    folders = {".py": package, ".png": ROOT / f"metrics/plots/ch0{chapter}"}
    source = "".join(path.read_text(encoding="utf-8") for path in package.glob("*.py"))
    facts = "`expressions.py`" if chapter == "1" else "`facts.py`"
    named = re.findall(r"`([\w./]+)`", places.replace("`facts`", facts))
    assert named
    for name in named:
        folder = folders.get(PurePath(name).suffix)
        if name.startswith("metrics/") or name == "setup_environment.py":
            folder = ROOT
        if folder is None:
            assert re.search(rf"^(def|class) {name}\b", source, re.M), name
        else:
            assert (folder / name).exists(), name


@pytest.mark.parametrize("path", FACTS, ids=lambda path: path.stem)
def test_figures_that_statements_are_of_are_among_the_facts(path):
    numbers = set()
    for chapter, figures, places in PLACES:
        if chapter == path.stem[-1] and "`facts`" in places:
            for first, last in re.findall(r"(\d+)(?: to (\d+))?", figures.partition(":")[0]):
                numbers |= set(range(int(first), int(last or first) + 1))
    assert {int(fact["figure"]) for fact in read_json(path)["facts"] if fact["figure"] != "text"} <= numbers


def test_every_chapter_has_its_figures():
    assert {chapter for chapter, _, _ in PLACES} == set("123456789") and len(PLACES) > 40
