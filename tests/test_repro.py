"""`make repro` does what `dvc repro` does, and reads the parameters once."""

import os
import subprocess
import sys
from pathlib import Path

import dpath
import pytest
from dvc.dependency import param
from dvc.fs import DVCFileSystem, localfs
from dvc.repo import Repo

from stages import repro
from stages.repro import in_git
from tests.test_experiments import Repository

TARGET = "ch06_generate"


@pytest.fixture
def repository(tmp_path) -> Repository:
    return Repository(tmp_path)


def make_repro(repository: Repository, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "stages.repro", *arguments]
    return subprocess.run(command, cwd=repository.path, env=repository.environment, capture_output=True, text=True)


def test_runs_what_has_changed_and_nothing_else(repository):
    first = make_repro(repository, TARGET)
    assert first.returncode == 0, first.stderr
    assert "Running stage 'ch06_generate'" in first.stdout
    again = make_repro(repository, TARGET)
    assert again.returncode == 0 and "up to date" in again.stdout and "Running" not in again.stdout
    text = (repository.path / "params.yaml").read_text(encoding="utf-8")
    assert text.count("noise_level: 0.1") == 1
    (repository.path / "params.yaml").write_text(text.replace("noise_level: 0.1", "noise_level: 0.2"), encoding="utf-8")
    changed = make_repro(repository, TARGET)
    assert changed.returncode == 0 and "Running stage 'ch06_generate'" in changed.stdout
    assert "up to date" in repository.run("dvc", "status", TARGET)  # as DVC itself sees it
    unknown = make_repro(repository, "no_such_stage")
    assert unknown.returncode != 0 and "no_such_stage" in unknown.stderr


def test_without_a_repository_it_says_what_to_do(repository):
    if in_git(repository.path.parent):
        pytest.skip("the temporary folder lies in a repository")
    (repository.path / ".git").rename(repository.path / "no repository")
    refused = make_repro(repository, TARGET)
    assert (refused.returncode, refused.stdout) == (1, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("there is no git repository here: clone the project")
    repository.run(*line.rpartition(": ")[2].split())  # the command that it names
    done = make_repro(repository, TARGET)
    assert done.returncode == 0 and "Running stage 'ch06_generate'" in done.stdout


@pytest.mark.parametrize(
    ("described", "lacks"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2 bmi2\n", False),
        ("processor\t: 0\nflags\t\t: fpu sse4_2 avx\n", True),
        ("processor\t: 0\n", False),  # says nothing of it
        (None, False),
    ],
)
def test_a_processor_without_avx2_is_told_before_numpy_ends_without_a_word(
    repository, monkeypatch, tmp_path, capsys, described, lacks
):
    path = tmp_path / "cpuinfo"
    if described is not None:
        path.write_text(described, encoding="utf-8")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert repro.lacks_avx2(path) == lacks
    if lacks:
        monkeypatch.chdir(repository.path)
        monkeypatch.setattr(repro, "lacks_avx2", lambda: True)
        assert repro.main() == 2
        assert "set native in params.yaml" in capsys.readouterr().err
        text = Path("params.yaml").read_text(encoding="utf-8").replace("instructions: avx2", "instructions: native")
        Path("params.yaml").write_text(text, encoding="utf-8")
        monkeypatch.setattr(repro, "works_in", lambda _: False)
        assert repro.main() == 1  # it gets as far as the next question


def test_stages_run_with_the_same_python_without_activation(repository):
    repository.environment["PATH"] = os.defpath
    done = make_repro(repository, TARGET)
    assert done.returncode == 0, done.stderr


def test_a_wrong_parameter_is_one_line_before_anything_runs(repository):
    path = repository.path / "params.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("noise_level: 0.1", "noise_level: loud"), encoding="utf-8")
    result = make_repro(repository, TARGET)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("params.yaml: noise_level = 'loud'")


def test_dvc_parses_the_parameters_once_for_all_stages(repository, monkeypatch):
    parsed, load = [], param.load_path

    def counting(path, fs=None, **options):
        parsed.append(path)
        return load(path, fs, **options)

    monkeypatch.setattr(param, "load_path", counting)
    monkeypatch.setattr(param, "dpath", param.dpath)  # so that it is put back
    dependencies = [
        dependency
        for stage in Repo(str(repository.path)).index.stages
        for dependency in stage.deps
        if isinstance(dependency, param.ParamsDependency)
    ]
    expected = [dependency.read_params() for dependency in dependencies]
    assert len(parsed) == len(dependencies) > 20
    parsed.clear()
    repro.read_parameters_once()
    assert [dependency.read_params() for dependency in dependencies] == expected
    assert parsed == [str(repository.path / "params.yaml")]


def test_a_file_is_parsed_again_when_it_has_changed(tmp_path):
    path, parsed = tmp_path / "params.yaml", []

    def load(path, fs=None, **options):
        parsed.append(path)
        return {"number": len(parsed)}

    kept = repro.kept(load)
    path.write_text("a: 1")
    assert [kept(str(path), localfs)["number"] for _ in range(3)] == [1, 1, 1]
    path.write_text("a: 2")
    os.utime(path, ns=(1, 1))  # even if the clock were too coarse to tell
    assert [kept(str(path), localfs)["number"] for _ in range(2)] == [2, 2]
    # Of another commit, or with options, it isn't the file of the workspace.
    assert kept(str(path), DVCFileSystem.__new__(DVCFileSystem))["number"] == 3
    assert kept(str(path), localfs, option=True)["number"] == 4


VALUES = {"a": {"b": {"c": 1, "d": [5, 6]}, "none": None}, "x": 2}


@pytest.mark.parametrize("name", ["x", "a", "a.b", "a.b.c", "a.b.d", "a.b.d.1", "a.none", "a.*.c", "*.b.c"])
def test_lookup_gives_what_dpath_gives(name):
    assert repro.straight(dpath.get)(VALUES, name, separator=".") == dpath.get(VALUES, name, separator=".")


@pytest.mark.parametrize("name", ["y", "a.c", "a.b.c.d", "x.y"])
def test_lookup_of_what_is_not_there_fails_as_dpaths(name):
    with pytest.raises(KeyError):
        dpath.get(VALUES, name, separator=".")
    with pytest.raises(KeyError):
        repro.straight(dpath.get)(VALUES, name, separator=".")
