"""The page with all numbers and figures says what metrics/ says."""

import base64
import io
import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from stages import report
from stages.common.files import read_json
from stages.common.params import read_yaml
from tests.conftest import ROOT


@pytest.fixture
def written(tmp_path, monkeypatch) -> str:
    """The page of this repository's metrics, written as the command writes it."""
    monkeypatch.chdir(ROOT)
    output = tmp_path / "folder/page.html"
    monkeypatch.setattr(sys, "argv", ["report", "--output", str(output)])
    assert report.main() == 0
    assert [path.name for path in output.parent.iterdir()] == ["page.html"]
    return output.read_text(encoding="utf-8")


def sections(page: str) -> dict[str, str]:
    return dict(re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.S))


def test_page_has_every_chapter_of_the_parameters(written):
    chapters = [name for name in read_yaml(ROOT / "params.yaml") if name.startswith("ch")]
    assert list(sections(written)) == chapters
    assert re.findall(r'href="#(\w+)"', written) == chapters


def test_page_has_every_figure_in_its_chapter(written):
    for chapter, section in sections(written).items():
        shown = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', section)]
        assert shown == [path.read_bytes() for path in sorted((ROOT / "metrics/plots" / chapter).glob("*.png"))] != []


def test_table_has_every_number_beside_the_books(written):
    (table,) = pd.read_html(io.StringIO(sections(written)["ch04"]), index_col=0)
    own, book = read_json(ROOT / "metrics/ch04.json"), read_json(ROOT / "metrics/book/ch04.json")
    assert table["here"].to_dict() == pytest.approx(own, rel=1e-3)
    assert table["book"].to_dict() == pytest.approx(book, rel=1e-3)


def test_variants_stand_side_by_side_and_many_below_each_other(written):
    (few,) = pd.read_html(io.StringIO(sections(written)["ch06"]), header=[0, 1], index_col=0)
    book = read_json(ROOT / "metrics/book/ch06.json")
    for cell in ("rnn", "lstm"):
        assert few[cell, "here"]["r2"] == pytest.approx(read_json(ROOT / f"metrics/ch06/{cell}.json")["r2"], rel=1e-3)
        assert few[cell, "book"]["r2"] == pytest.approx(book[cell]["r2"], rel=1e-3)
    many, tasks = pd.read_html(io.StringIO(sections(written)["ch08"]), index_col=[0, 1])
    accuracy = read_json(ROOT / "metrics/ch08/gcn.json")["accuracy_mean"]
    assert float(many["accuracy_mean"]["gcn", "here"]) == pytest.approx(accuracy, rel=1e-3)
    assert not {"link_auc", "graph_accuracy_sum"} & set(many)


class Folder:
    """A folder with the metrics of one chapter, current while the test runs."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, name: str, values: dict) -> None:
        path = self.path / "metrics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "TITLES", {"ch02": "Two"})
    return Folder(tmp_path)


def test_what_the_book_has_no_number_for_is_a_dash(folder):
    folder.write("ch02.json", {"loss": 0.000012345, "count": 12345, "true": True, "parts": {"a": 1.0}, "<b>": 2})
    folder.write("book/ch02.json", {"loss": 1.5, "parts": {"a": 3.0}})
    page = report.page({"ch02": {"recipe": "a & b"}})
    rows = re.findall(r"<th>([^<]+)</th>\s*<td>([^<]+)</td>\s*<td>([^<]+)</td>", page)
    assert rows == [
        ("loss", "1.234e-05", "1.5"),
        ("count", "12345", "–"),
        ("true", "yes", "–"),
        ("parts.a", "1", "3"),
        ("&lt;b&gt;", "2", "–"),
    ]
    assert "a &amp; b" in page


def test_a_chapter_without_numbers_ends_in_one_line(folder):
    with pytest.raises(SystemExit, match="there are no numbers of ch02 in metrics: dvc repro makes them"):
        report.page({"ch02": {}})


def test_page_of_a_folder_outside_git_names_no_commit(folder, monkeypatch):
    folder.write("ch02.json", {"loss": 1.0})
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.path.parent))
    assert "From commit" not in report.page({"ch02": {}})
