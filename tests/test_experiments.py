"""Experiments through DVC's own command line, in a repository of their own: names, temporary copies, a queue."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
import pytest
import yaml

from tests.conftest import IN_GIT, ROOT, VARIABLES

TARGET = "ch06_evaluate@lstm"
FIGURES = ["forecast.png", "loss.png", "noise_levels.png", "series.png"]
FILES = ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore")
DEADLINE = 480  # seconds for a command, and for a queue of two experiments


class Repository:
    """A git and DVC repository with the project's files and a chapter 6 that trains for a second."""

    def __init__(self, path: Path):
        if not IN_GIT:
            pytest.skip("not a git checkout, or no git")
        self.path = path
        self.environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
            self.environment |= {f"{name}_NAME": "student", f"{name}_EMAIL": "student@example.org"}
        # Not the user's DVC settings, which may name a cache that has all results already.
        for name in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
            self.environment[f"DVC_{name}_DIR"] = str(path / ".dvc/tmp" / name.lower())
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in tracked.splitlines():
            if name.startswith(("stages/", "packages/", ".dvc/")) or name in FILES:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, path / name)
        parameters = yaml.safe_load((path / "params.yaml").read_text(encoding="utf-8"))
        parameters["ch06"]["tuned"] |= {"length": 400, "epochs": 1, "hidden_size": 4}
        (path / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
        self.run("git", "init", "-q")
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "Start")

    def run(self, *command: str) -> str:
        options = {"cwd": self.path, "env": self.environment, "timeout": DEADLINE}
        result = subprocess.run(command, capture_output=True, text=True, **options)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def runs(self) -> list[mlflow.entities.Run]:
        client = mlflow.MlflowClient(f"sqlite:///{self.path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("ch06")
        return client.search_runs([experiment.experiment_id])

    def check_run(self, run: mlflow.entities.Run) -> None:
        """Check that a run is whole: finished, evaluated, its model readable in the main workspace."""
        assert run.info.status == "FINISHED"
        assert "test_r2" in run.data.metrics
        assert (self.path / "mlartifacts") in file_path(run.info.artifact_uri).parents
        client = mlflow.MlflowClient(f"sqlite:///{self.path / 'mlflow.db'}")
        (output,) = run.outputs.model_outputs
        model = client.get_logged_model(output.model_id)
        location = file_path(model.artifact_location)
        assert (self.path / "mlartifacts") in location.parents
        assert (location / "MLmodel").exists()


def file_path(uri: str) -> Path:
    """Return the path of a `file:` URI."""
    return Path(url2pathname(urlparse(uri).path))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    path = tmp_path / "the book"  # as many have blanks in their paths
    path.mkdir()
    return Repository(path)


def test_queue_with_two_workers_loses_nothing_though_the_store_does_not_exist(repository):
    repository.run("dvc", "exp", "run", "--queue", "-S", "noise_level=0.0,0.3", TARGET)
    assert not (repository.path / "mlflow.db").exists()
    repository.run("dvc", "queue", "start", "-j", "2")
    try:
        end = time.monotonic() + DEADLINE
        while (status := repository.run("dvc", "queue", "status")).count("Success") < 2:
            assert "Failed" not in status and time.monotonic() < end, status
            time.sleep(1)
    finally:
        repository.run("dvc", "queue", "stop", "--kill")
    runs = repository.runs()
    assert sorted(run.data.params["noise_level"] for run in runs) == ["0.0", "0.3"]
    for run in runs:
        repository.check_run(run)
    names = {run.data.tags["dvc.experiment"] for run in runs}
    assert names == set(repository.run("dvc", "exp", "list", "--name-only").split())


def test_temporary_copy_leaves_its_runs_in_the_main_workspace_under_its_name(repository):
    repository.run("dvc", "exp", "run", "--temp", "-n", "quiet", "-S", "noise_level=0.0", "ch06_plot")
    runs = repository.runs()
    assert sorted(run.info.run_name for run in runs) == ["quiet-lstm", "quiet-rnn"]
    for run in runs:
        repository.check_run(run)
        figures = file_path(run.info.artifact_uri) / "figures"
        assert sorted(path.name for path in figures.iterdir()) == FIGURES
    assert not (repository.path / "metrics/ch06/lstm.json").exists()  # the workspace keeps what it had


def test_setting_a_parameter_back_runs_nothing_anew(repository):
    """What ran once comes from DVC's run cache: trainings, and what is computed of the book's statements, too."""
    original = (repository.path / "params.yaml").read_text(encoding="utf-8")
    repository.run("dvc", "repro", "ch03_evaluate")
    results = [repository.path / name for name in ("metrics/history/ch03.csv", "metrics/facts/ch03.json")]
    before = [path.read_bytes() for path in results]
    parameters = yaml.safe_load(original)
    parameters["seed"] += 1
    (repository.path / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    assert repository.run("dvc", "repro", "ch03_evaluate").count("Running stage") == 3
    assert [path.read_bytes() for path in results] != before
    (repository.path / "params.yaml").write_text(original, encoding="utf-8")
    told = repository.run("dvc", "repro", "ch03_evaluate")
    assert told.count("is cached - skipping run") == 3 and "Running stage" not in told
    assert [path.read_bytes() for path in results] == before
