"""The page with all numbers and figures says what metrics/ says."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from stages import report
from stages.common.files import read_json
from stages.common.params import read_yaml
from tests.conftest import IN_GIT, ROOT


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
    many, _ = pd.read_html(io.StringIO(sections(written)["ch08"]), index_col=[0, 1])
    own, book = (read_json(ROOT / f"metrics/{file}.json") for file in ("ch08/gcn", "book/ch08"))
    assert float(many["accuracy_mean"]["gcn", "here"]) == pytest.approx(own["accuracy_mean"], rel=1e-3)
    assert float(many["accuracy_mean"]["gcn", "book"]) == pytest.approx(book["gcn"]["accuracy_mean"], rel=1e-3)
    assert "link_auc" not in many  # no measure of the networks': it stands in a table of its own


@pytest.mark.parametrize("chapter", report.TITLES)
def test_tables_have_every_number_of_a_chapter(chapter, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = {}
    for table in report.tables(report.read_metrics(chapter)):
        for place, text in table.stack(list(range(table.columns.nlevels)), future_stack=True).items():
            if not pd.isna(text) and text != "–":
                found[frozenset(place)] = text
    single, file = ROOT / f"metrics/{chapter}.json", ROOT / f"metrics/book/{chapter}.json"
    own = {path.stem: read_json(path) for path in (ROOT / f"metrics/{chapter}").glob("*.json")}
    of_book = read_json(file) if file.exists() else {}  # of chapter 9 there may be none
    own, book = ({(): read_json(single)}, {(): of_book}) if single.exists() else (own, of_book)
    expected = {}
    for source, variants in {"here": own, "book": book}.items():
        for variant, values in variants.items():
            for name, value in values.items():
                parts = (
                    {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
                )
                for key, part in parts.items():
                    if part is not None:  # a loss that never fell so far; it shows as a missing one
                        expected[frozenset([key, source, *([variant] if variant else [])])] = part
    assert found.keys() == expected.keys()
    for place, value in expected.items():
        if isinstance(value, bool):
            assert found[place] == ("yes" if value else "no")
        else:
            assert float(found[place]) == pytest.approx(value, rel=1e-3), place


def test_page_names_the_commit_and_the_recipes(written):
    if IN_GIT:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        (commit,) = re.findall(r"From commit (\w+)", written)
        assert head.startswith(commit)
    for section in sections(written).values():
        assert "<code>tuned</code>" in section


class Folder:
    """A folder with the metrics of one chapter, current while the test runs."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, name: str, values: dict) -> None:
        path = self.path / "metrics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")

    def write_lock(self, **params: object) -> None:
        stages = {"ch02_train": {"params": {"params.yaml": params}}, "ch02_download": {}}
        (self.path / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "TITLES", {"ch02": "Two"})
    return Folder(tmp_path)


def test_a_chapter_that_ran_with_two_recipes_says_so(folder):
    folder.write("ch02.json", {"loss": 1.0})
    stages = {
        f"ch02_{step}": {"params": {"params.yaml": {"ch02.recipe": recipe}}}
        for step, recipe in (("train", "tuned"), ("evaluate", "book"), ("plot", "tuned"))
    }
    (folder.path / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    assert "<code>book, tuned</code>" in report.page()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_what_is_other_than_in_the_commit_and_in_the_books_column_is_told(folder):
    def write_lock(name: str, noise: float, epochs: int) -> None:
        recipe = "book" if "book" in name else "tuned"
        params = {"noise_level": noise, "ch02.recipe": recipe, "ch02.runs": 2 * epochs, f"ch02.{recipe}.epochs": epochs}
        stages = {"ch02_train": {"params": {"params.yaml": params}}}
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")

    folder.write("ch02.json", {"loss": 1.0})
    write_lock("metrics/book/lock.yaml", 0.1, 7)
    write_lock("dvc.lock", 0.1, 7)
    own = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "dvc.lock"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *own, *command], check=True)
    assert "Changed" not in report.page() and "The book's numbers are of" not in report.page()
    write_lock("dvc.lock", 0.3, 9)
    found = re.sub(r"<.*?>", "", report.page())
    assert "Changed since the commit: ch02.runs 18 (14); ch02.tuned.epochs 9 (7); noise_level 0.3 (0.1)." in found
    assert "The book&#x27;s numbers are of ch02.runs 14; noise_level 0.1." in found


def test_what_the_book_has_no_number_for_is_a_dash(folder):
    folder.write("ch02.json", {"loss": 0.000012345, "count": 12345, "true": True, "parts": {"a": 1.0}, "<b>": 2})
    folder.write("book/ch02.json", {"loss": 1.5, "parts": {"a": 3.0}, "other": 4})
    folder.write_lock(**{"seed": 3, "ch02.recipe": "a & b"})
    page = report.page()
    rows = re.findall(r"<th>([^<]+)</th>\s*<td>([^<]+)</td>\s*<td>([^<]+)</td>", page)
    assert rows == [
        ("loss", "1.234e-05", "1.5"),
        ("count", "12345", "–"),
        ("true", "yes", "–"),
        ("parts.a", "1", "3"),
        ("&lt;b&gt;", "2", "–"),
        ("other", "–", "4"),
    ]
    assert "a &amp; b" in page


def test_what_a_killed_writer_left_is_no_result(folder):
    folder.write("ch02/rnn.json", {"loss": 1.0})
    folder.write("ch02/._rnn.json", {"half": 1.0})
    folder.write_lock(seed=3)
    (folder.path / "metrics/plots/ch02").mkdir(parents=True)
    (folder.path / "metrics/plots/ch02/._curve.png").write_bytes(b"half")
    page = report.page()
    assert "loss" in page and "half" not in page and "<img" not in page


def test_a_chapter_without_numbers_ends_in_one_line(folder):
    with pytest.raises(SystemExit, match="there are no numbers of ch02 in metrics: dvc repro makes them"):
        report.page()


def test_page_of_a_folder_outside_git_names_no_commit(folder):
    folder.write("ch02.json", {"loss": 1.0})
    assert "From commit" not in report.page()


def test_page_without_git_names_no_commit(folder, monkeypatch):
    folder.write("ch02.json", {"loss": 1.0})
    (folder.path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(folder.path))
    assert "From commit" not in report.page()


@pytest.mark.parametrize(
    "output, message",
    [
        (".", "--output .: a file's name is needed, and this is a folder"),
        ("metrics", "--output metrics: a file's name is needed, and this is a folder"),
        ("dvc.lock/page.html", "--output dvc.lock/page.html: File exists"),
    ],
)
def test_a_place_that_cannot_be_written_to_ends_in_one_line(folder, monkeypatch, output, message):
    folder.write("ch02.json", {"loss": 1.0})
    folder.write_lock(seed=3)
    monkeypatch.setattr(sys, "argv", ["report", "--output", output])
    with pytest.raises(SystemExit) as end:
        report.main()
    assert end.value.code == message


def test_a_file_that_is_cut_off_ends_in_one_line(folder, monkeypatch):
    folder.write("ch02.json", {"loss": 1.0})
    folder.write_lock(seed=3)
    (folder.path / "metrics/ch02.json").write_text('{"loss": 1', encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["report"])
    with pytest.raises(SystemExit) as end:
        report.main()
    assert str(end.value.code).startswith("metrics/ch02.json: not JSON: Expecting")
