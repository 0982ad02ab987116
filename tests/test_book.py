"""metrics/book in git is what the code and the parameters in git give with the book's recipes."""

from pathlib import Path

import pytest
import yaml

from stages.book import LONG, chapters_with_recipes
from stages.common.files import file_hash, read_json, write_json
from stages.common.params import read_yaml, value_at

ROOT = Path(__file__).parent.parent
LOCK = yaml.safe_load((ROOT / "metrics/book/lock.yaml").read_text(encoding="utf-8"))["stages"]
PARAMETERS = read_yaml(ROOT / "params.yaml")
RUN = [
    chapter
    for chapter in chapters_with_recipes(PARAMETERS)
    if chapter not in LONG or (ROOT / f"metrics/book/{chapter}.json").exists()
]
for chapter in RUN:
    PARAMETERS[chapter]["recipe"] = "book"


@pytest.mark.parametrize("stage", LOCK)
def test_book_results_are_those_of_the_code(stage):
    entry = LOCK[stage]
    again, chapter = "run make book", stage.split("_")[0]
    if chapter in LONG.intersection(RUN):
        again = f"run python -m stages.book --all, or remove metrics/book/{chapter}.json and {again}"
    code = [dependency for dependency in entry["deps"] if dependency["path"].startswith("stages/")]
    for dependency in code:
        assert file_hash(ROOT / dependency["path"], "md5") == dependency["md5"], f"{dependency['path']}: {again}"
    for name, value in entry.get("params", {}).get("params.yaml", {}).items():
        assert value_at(name, PARAMETERS) == value, f"{name}: {again}"


def test_every_stage_ran_with_the_books_recipe():
    own = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert LOCK.keys() == own.keys()
    recipes = {
        (name, value)
        for entry in LOCK.values()
        for name, value in entry.get("params", {}).get("params.yaml", {}).items()
        if name.endswith(".recipe") and name.split(".")[0] in RUN
    }
    assert recipes == {(f"{chapter}.recipe", "book") for chapter in RUN}


@pytest.mark.parametrize("chapter", RUN)
def test_book_numbers_are_those_of_the_lock(chapter, tmp_path):
    kept = read_json(ROOT / f"metrics/book/{chapter}.json")
    outs = {out["path"]: out["md5"] for entry in LOCK.values() for out in entry["outs"]}
    single = outs.keys() & {f"metrics/{chapter}.json"}
    files = {f"metrics/{chapter}.json": kept} if single else {f"metrics/{chapter}/{k}.json": v for k, v in kept.items()}
    for path, values in files.items():
        write_json(tmp_path / "again.json", values)
        assert file_hash(tmp_path / "again.json", "md5") == outs[path], path


def test_book_results_stand_beside_the_default_ones():
    for chapter in RUN:
        own = ROOT / f"metrics/{chapter}.json"
        names = read_json(own).keys() if own.exists() else {path.stem for path in own.with_suffix("").glob("*.json")}
        assert read_json(ROOT / f"metrics/book/{chapter}.json").keys() == names
