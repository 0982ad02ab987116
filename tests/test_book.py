"""`stages.book` with a stand-in for DVC, and metrics/book: what the code and the parameters give with book recipes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages import book
from stages.book import LONG, chapters_with_recipes
from stages.common.files import file_hash, read_json, write_json
from stages.common.params import read_yaml, value_at
from stages.repro import in_git

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


class Repository:
    """A project in a git repository, current while the test runs; `dvc` stands in for DVC, other programs are real."""

    def __init__(self, path: Path, top: Path):
        self.path, self.calls, self.status, self.goes_on = path, [], 0, False
        self.cache = "/srv/dvc-cache"
        self.metrics = {"metrics/ch02.json": {"loss": 2.0}, "metrics/ch06/rnn.json": {"r2": 0.6}}
        self.metrics["metrics/timings/ch01.json"] = {"mm": 0.5}
        self.lock = {"ch02_train": {"cmd": "book"}, "ch09_train": {"cmd": "tuned"}}
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copyfile(ROOT / name, path / name)
        self.git("init", "-q", str(top))
        self.commit("start")

    def git(self, *arguments: str) -> str:
        own = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        done = subprocess.run(["git", *own, *arguments], cwd=self.path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    def run(self, command: list[str], **options) -> subprocess.CompletedProcess:
        if command[:3] != [sys.executable, "-m", "dvc"]:
            return REAL_RUN(command, **options)
        if command[3:] == ["cache", "dir"]:
            return subprocess.CompletedProcess(command, 0, stdout=f"{self.cache}\n")
        self.calls.append(command[4:])
        if command[4] == "run" and self.status == 0:
            head = self.git("rev-parse", "HEAD")
            self.kept = self.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
            for name, values in {**self.metrics, "dvc.lock": {"stages": self.lock}}.items():
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                (self.path / name).write_text(json.dumps(values), encoding="utf-8")
            self.commit("experiment")
            self.git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/book", "HEAD")
            self.git("reset", "-q", "--hard", head)
            if self.goes_on:
                self.git("commit", "-q", "--allow-empty", "-m", "the workspace goes on")
        return subprocess.CompletedProcess(command, self.status if command[4] == "run" else 1)


REAL_RUN = subprocess.run


@pytest.fixture(params=[""], ids=["alone"])
def repository(tmp_path, monkeypatch, request) -> Repository:
    path = tmp_path / request.param
    path.mkdir(exist_ok=True)
    monkeypatch.chdir(path)
    repository = Repository(path, tmp_path)
    monkeypatch.setattr(book.subprocess, "run", repository.run)
    monkeypatch.setattr(sys, "argv", ["book"])
    monkeypatch.setenv("PATH", os.environ["PATH"])  # so that what it is set to is undone
    return repository


@pytest.mark.parametrize("repository", ["", "книга"], ids=["alone", "within a larger one"], indirect=True)
def test_numbers_times_and_lock_are_the_experiments(repository):
    head = repository.git("rev-parse", "HEAD")
    earlier, same = (f"refs/exps/{commit[:2]}/{commit[2:]}/book" for commit in (head[::-1], head))
    for reference in (earlier, same):
        repository.git("update-ref", reference, head)
    assert book.main() == 0
    assert repository.kept == [earlier]  # of this commit the experiment is made anew
    assert read_json(book.RESULTS / "ch02.json") == {"loss": 2.0}
    assert read_json(book.RESULTS / "ch06.json") == {"rnn": {"r2": 0.6}}
    assert read_json(book.RESULTS / "timings/ch01.json") == {"mm": 0.5}
    assert read_yaml(book.LOCK) == {"stages": repository.lock}
    assert not (book.RESULTS / "ch09.json").exists()
    (run,) = repository.calls
    assert "ch02.recipe=book" in run and "ch09.recipe=book" not in run
    # The others would run, too, if they weren't left out by name.
    assert {"ch01_plot", "ch06_train", "ch08_train"} < set(run) and not any("ch09" in argument for argument in run)


def test_a_program_that_git_does_not_know_is_one_line(repository, capsys):
    (repository.path / "stages/ch99 own").mkdir(parents=True)
    (repository.path / "stages/notes.txt").touch()  # which is no program
    (repository.path / "stages/ch99 own/new.py").touch()
    assert book.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "stages/ch99 own/new.py: git add it" in line
    assert repository.calls == []


def test_without_a_repository_it_is_one_line(repository, capsys):
    if in_git(repository.path.parent):
        pytest.skip("the temporary folder lies in a repository")
    shutil.rmtree(repository.path / ".git")
    assert book.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "clone the project with git" in line


def test_a_cache_that_dvc_makes_no_temporary_copies_with_is_one_line(repository, capsys):
    repository.cache = "/home/student/книга/.dvc/cache"
    assert book.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert repository.cache in line and "dvc cache dir --local" in line
    assert repository.calls == []


def test_settings_of_git_that_dvc_makes_no_temporary_copies_with_are_one_line(repository, capsys):
    repository.git("config", "user.name", "Имя")
    assert book.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert ".git/config has other letters" in line and "git config --global user.name" in line
    assert repository.calls == []


def test_settings_of_dvc_that_it_makes_no_temporary_copies_with_are_one_line(repository, capsys):
    (repository.path / ".dvc").mkdir()
    (repository.path / ".dvc/config.local").write_text("['remote \"class\"']\nurl = /srv/Класс\n", encoding="utf-8")
    assert book.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.local has other letters" in line
    assert repository.calls == []


def test_what_git_refuses_is_one_line_with_its_reason(repository, monkeypatch):
    shutil.rmtree(repository.path / ".git")
    repository.git("init", "-q")  # without a commit
    with pytest.raises(SystemExit, match="^error: git rev-parse HEAD: fatal: .*HEAD"):
        book.main()
    assert repository.calls == []


def test_small_numbers_stay_numbers_in_the_lock(repository):
    repository.lock["ch02_train"]["params"] = {"params.yaml": {"ch02.book.learning_rate": 1e-05}}
    assert book.main() == 0
    assert read_yaml(book.LOCK) == {"stages": repository.lock}


def test_a_commit_in_the_meantime_loses_no_experiment(repository):
    repository.goes_on = True
    assert book.main() == 0
    assert read_json(book.RESULTS / "ch02.json") == {"loss": 2.0}


def test_what_all_alone_runs_stays_with_its_part_of_the_lock(repository):
    write_json(book.RESULTS / "ch09.json", {"bleu": 1.0})
    earlier = {"ch02_train": {"cmd": "old"}, "ch09_train": {"cmd": "book"}}
    book.LOCK.write_text(yaml.safe_dump({"stages": earlier}), encoding="utf-8")
    repository.commit("earlier numbers")
    assert book.main() == 0
    assert read_json(book.RESULTS / "ch09.json") == {"bleu": 1.0}
    assert read_yaml(book.LOCK)["stages"] == {"ch02_train": {"cmd": "book"}, "ch09_train": {"cmd": "book"}}


def test_all_runs_every_chapter(repository, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["book", "--all"])
    repository.metrics["metrics/ch09.json"] = {"bleu": 16.0}
    assert book.main() == 0
    assert read_json(book.RESULTS / "ch09.json") == {"bleu": 16.0}
    assert "ch09.recipe=book" in repository.calls[-1]


def test_an_experiment_that_fails_leaves_the_numbers_and_gives_its_status(repository):
    repository.status = 3
    assert book.main() == 3
    assert not book.RESULTS.exists()
