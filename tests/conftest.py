"""A small copy of the pipeline in a temporary folder: the real dvc.yaml, small parameters, small data."""

import stages  # noqa: F401  # isort: skip  # before NumPy and PyTorch, as in every stage

import faulthandler
import hashlib
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import psutil
import pytest
import pytest_timeout
import torch
import yaml

from stages.common.params import resolve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from mlflow.entities import Metric, Run
    from mlflow.pyfunc import PyFuncModel

ROOT = Path(__file__).parents[1]
VARIABLES = (
    *("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI", "DATA_MIRROR"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"),
)
# The last is where git doesn't trust the folder's owner.
IN_GIT = (
    (ROOT / ".git").exists()
    and shutil.which("git") is not None
    and subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode == 0
)
COLUMNS = ["CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT", "MEDV"]


STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep standard error as it is now: while a test runs, what is written there goes to a file that nobody sees."""
    config.stash[STDERR] = os.dup(2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Give the teardown a time limit of its own: pytest-timeout stops its clock when a test has failed."""
    settings = pytest_timeout.get_env_settings(item.config)
    if settings.timeout:
        item.config.hook.pytest_timeout_cancel_timer(item=item)
        item.config.hook.pytest_timeout_set_timer(item=item, settings=settings)
        # As pytest's own, which a failure stops, too; pytest cancels it when the test is over.
        faulthandler.dump_traceback_later(2 * settings.timeout + 100, exit=True, file=item.config.stash[STDERR])
    return (yield)


class Workspace:
    """A folder, current while it is open, in which the chapters' steps run in this process."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        self.path, self.monkeypatch = path, monkeypatch

    def set_parameters(self, overrides: dict[str, object]) -> None:
        """Write params.yaml: the repository's with `overrides`, dotted name to value, which must exist there."""
        values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        threads = {f"{name}.num_threads": 1 for name, section in values.items() if isinstance(section, dict)}
        for name, value in {**threads, **overrides}.items():
            *sections, key = name.split(".")
            section = values
            for part in sections:
                section = section[part]
            assert key in section, name
            section[key] = value
        (self.path / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    def step(self, module: str, *arguments: str) -> None:
        """Do what `python -m module arguments` does."""
        with self.monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [module, *arguments])
            importlib.import_module(module).main()

    def drawn(self, module: str) -> dict[str, "Figure"]:
        """Draw a chapter's figures, as `module` does; return them by the names of their files, which stay as they are.

        They are closed, and their axes still have all that was drawn.
        """
        plot = importlib.import_module(module)

        from matplotlib import pyplot as plt

        drawn = {}

        def keep(figure: "Figure", path: Path) -> None:
            drawn[path.name] = figure
            plt.close(figure)

        with self.monkeypatch.context() as patch:
            patch.setattr(plot, "save_figure", keep)
            patch.setattr(plot.tracking, "record_results", lambda *arguments, **options: "")
            patch.setattr(sys, "argv", [module])
            plot.main()
        return drawn

    def run(self, chapter: str, tracked: bool = True) -> dict[str, bytes]:
        """Run a chapter's steps behind the download as dvc.yaml has them; return `outputs`."""
        with self.monkeypatch.context() as patch:
            if not tracked:
                tracking = importlib.import_module("stages.common.tracking")
                for name in ("record_training", "record_results"):
                    patch.setattr(tracking, name, lambda *arguments, **options: "")
            stages = yaml.safe_load((self.path / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
            for name, stage in stages.items():
                if not name.startswith(f"{chapter}_") or name.endswith("_download"):
                    continue
                for item in next(iter(stage.get("matrix", {"": [""]}).values())):
                    command = re.sub(r"\$\{ch09\.launcher\}", "python -m", stage["cmd"])
                    _, _, module, *arguments = re.sub(r"\$\{item\.\w+\}", item, command).split()
                    with self.only_declared(stage, item):
                        self.step(module, *arguments)
        return self.outputs()

    @contextmanager
    def only_declared(self, stage: dict, item: str) -> Iterator[None]:
        """Let a step find those files alone that dvc.yaml declares for it; see that it leaves those alone.

        Whatever else there is under data/ and metrics/, earlier results of its own too, comes back afterwards.
        """
        values = yaml.safe_load((self.path / "params.yaml").read_text(encoding="utf-8"))
        values["item"] = dict.fromkeys(stage.get("matrix", {}), item)

        def resolved(paths: list) -> list[str]:
            named = (path if isinstance(path, str) else next(iter(path)) for path in paths)
            return [resolve(path, values) for path in named]

        inputs = resolved(stage["deps"])
        outputs = resolved([path for kind in ("outs", "metrics", "plots") for path in stage.get(kind, [])])

        def within(path: str, declared: list[str]) -> bool:
            return any(path == name or path.startswith(f"{name}/") for name in declared)

        aside = self.path / "aside"
        for path in self.files():
            if not within(path, inputs):
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.path / path, aside / path)
        before = set(self.files())
        try:
            yield
            written = set(self.files()) - before
            strange = sorted(path for path in written if not within(path, outputs))
            assert not strange, f"{strange} are not declared as outputs"
            missing = [name for name in outputs if not any(within(path, [name]) for path in written)]
            assert not missing, f"{missing} are declared as outputs"
        finally:
            for path in aside.rglob("*"):
                place = self.path / path.relative_to(aside)
                if path.is_file() and not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, place)
            shutil.rmtree(aside, ignore_errors=True)

    def files(self) -> list[str]:
        """Return the path of every file under data/ and metrics/, hidden leftovers too."""
        found = [path for top in ("data", "metrics") for path in (self.path / top).rglob("*") if path.is_file()]
        return [path.relative_to(self.path).as_posix() for path in sorted(found)]

    def outputs(self) -> dict[str, bytes]:
        """Return path to content of every one of the `files`."""
        return {path: (self.path / path).read_bytes() for path in self.files()}

    def remove_outputs(self) -> None:
        """Remove what the steps wrote, as DVC does before it runs a stage; downloaded data stay."""
        pipeline = (self.path / "dvc.yaml").read_text(encoding="utf-8")
        for path in self.outputs():
            if not (path.startswith("data/raw/") and f"{path.split('/')[2]}_download:" in pipeline):
                (self.path / path).unlink()

    def write_housing(self, rows: int = 60) -> Path:
        """Write a table like Boston's, whose prices follow from RM and LSTAT."""
        generator = np.random.default_rng(5)
        table = np.column_stack([generator.uniform(0.1, 5, rows) for _ in COLUMNS])
        column = {name: index for index, name in enumerate(COLUMNS)}
        table[:, column["ZN"]] = generator.integers(0, 2, rows) * 12.5
        table[:, column["CHAS"]] = generator.integers(0, 2, rows)
        table[:, column["RM"]] = generator.normal(6.3, 0.7, rows)
        table[:, column["B"]] = generator.uniform(300, 396.9, rows)
        table[:, column["LSTAT"]] = generator.uniform(2, 30, rows)
        noise = generator.normal(0, 1, rows)
        prices = 20 + 6 * (table[:, column["RM"]] - 6.3) - 0.4 * (table[:, column["LSTAT"]] - 16) + noise
        table[:, column["MEDV"]] = prices.clip(5, 50)
        lines = [f"{rows},13" + "," * 12, ",".join(f'"{name}"' for name in COLUMNS)]
        lines += [",".join(f"{value:.5g}" for value in row) for row in table]
        path = self.path / "data/raw/ch04/boston_house_prices.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def write_cora(self, papers_of_each: int = 260, words: int = 40) -> None:
        """Write papers of seven subjects, which mostly use their own subject's words and cite their own subject.

        The papers that the public split names are among them, with the subjects that it expects: 20 to train on each.
        """
        import json

        generator = np.random.default_rng(8)
        split = json.loads((ROOT / "stages/ch08_graphs/cora_public_split.json").read_text(encoding="utf-8"))
        named = [*split["train"], *split["val"], *split["test"]]
        ids = np.array([*named, *range(10_000_000, 10_000_000 + 7 * papers_of_each - len(named))])
        subjects = np.arange(len(ids)) % 7
        own_words = np.arange(words) % 7 == subjects[:, None]  # (papers, words)
        features = generator.random(own_words.shape) < np.where(own_words, 0.5, 0.1)
        citations = []
        for subject in range(7):
            (own,) = np.nonzero(subjects == subject)
            citations.append(generator.choice(own, (3 * len(own), 2)))
        citations.append(generator.choice(len(ids), (len(ids) // 2, 2)))
        pairs = np.concatenate(citations)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        folder = self.path / "data/raw/ch08"
        folder.mkdir(parents=True, exist_ok=True)
        nodes = {"nodeId": ids, "labels": "Paper", "subject": subjects, "features": list(features.astype(np.int64))}
        pd.DataFrame(nodes).to_parquet(folder / "cora_nodes.parquet")
        ends = {"sourceNodeId": ids[pairs[:, 0]], "targetNodeId": ids[pairs[:, 1]], "relationshipType": "CITES"}
        pd.DataFrame(ends).to_parquet(folder / "cora_rels.parquet")

    def write_translations(self) -> None:
        """Write a wheel like Home Assistant's, with 15³ sentences of three words that translate word by word."""
        import itertools
        import json
        import zipfile

        syllables = ["ba", "do", "ki", "lu", "me", "no", "pa", "ri", "so", "tu", "va", "ze", "ga", "fo", "hi"]
        cyrillic = dict(zip("abdefghiklmnoprstuvz", "абдефгхиклмнопрстувз", strict=True))
        english, russian = {}, {}
        for number, words in enumerate(itertools.product(syllables, repeat=3)):
            words = [f"{word}{end}" for word, end in zip(words, ("n", "r", "s"), strict=True)]
            english[f"key{number}"] = f"{words[0].capitalize()} {words[1]} {words[2]}."
            russian[f"key{number}"] = english[f"key{number}"].lower().translate(str.maketrans(cyrillic)).capitalize()
        folder = self.path / "data/raw/ch09"
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / "homeassistant.whl", "w") as archive:
            for language, texts in {"en": english, "ru": russian}.items():
                name = f"homeassistant/components/toy/translations/{language}.json"
                archive.writestr(name, json.dumps({"state": texts}, ensure_ascii=False))

    def write_mnist(self, train: int = 240, test: int = 70) -> None:
        """Write IDX files of pictures that are easy to tell apart: a pattern a digit, shaded and with some noise."""
        generator = np.random.default_rng(6)
        patterns = np.kron(generator.integers(0, 2, (10, 7, 7)), np.ones((4, 4)))  # (10, 28, 28)
        folder = self.path / "data/raw/ch07"
        folder.mkdir(parents=True, exist_ok=True)
        for name, count in {"train": train, "t10k": test}.items():
            labels = generator.permutation(np.arange(count) % 10).astype(np.uint8)
            shades = generator.uniform(100, 200, (count, 1, 1))
            images = patterns[labels] * shades + generator.uniform(0, 50, (count, 28, 28))
            header = np.array([2051, count, 28, 28], ">i4").tobytes()
            (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images.astype(np.uint8).tobytes())
            header = np.array([2049, count], ">i4").tobytes()
            (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def changed(first: dict[str, bytes], second: dict[str, bytes]) -> list[str]:
    """Return the paths of two `outputs` that are not in both with the same content."""
    return sorted(path for path in first.keys() | second.keys() if first.get(path) != second.get(path))


def arrays(outputs: dict[str, bytes], path: str) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file of `outputs`."""
    with np.load(io.BytesIO(outputs[path])) as loaded:
        return dict(loaded)


def curves(axes: "Axes") -> dict[str, list[tuple[float, float]]]:
    """Return the points of every curve of `axes` that has a label."""
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    return {line.get_label(): [tuple(point) for point in line.get_xydata().tolist()] for line in lines}


def by_epoch(values: Iterable[float]) -> list[tuple[int, float]]:
    """Return the points of a curve of values, the first of which is at 1."""
    return list(enumerate(map(float, values), start=1))


def clip_to_nothing(parameters: Iterable[torch.nn.Parameter], norm: float) -> None:
    """Stand in for clip_grad_norm_ with a norm of 0.5: called before a step it leaves nothing of that, after it all."""
    assert norm == 0.5
    for parameter in parameters:
        parameter.grad.zero_()


@pytest.fixture
def steps_of_cycles(monkeypatch) -> list[tuple[float, int]]:
    """Return a list in which every step of a one-cycle schedule leaves the schedule's peak and its number of steps."""
    taken = []
    monkeypatch.setattr(
        torch.optim.lr_scheduler,
        "OneCycleLR",
        lambda _, peak, total_steps: SimpleNamespace(step=lambda: taken.append((peak, total_steps))),
    )
    return taken


def recorded_runs(workspace: Workspace, chapter: str) -> list["Run"]:
    """Return the runs of a chapter in the workspace's store."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{workspace.path / 'mlflow.db'}")
    return mlflow.search_runs(experiment_names=[chapter], output_format="list")


def figures_of(run: "Run") -> list[str]:
    """Return the names of the figures that the store has of a run."""
    import mlflow

    found = mlflow.artifacts.list_artifacts(run_id=run.info.run_id, artifact_path="figures")
    return sorted(Path(file.path).name for file in found)


def history_of(run: "Run", metric: str) -> list["Metric"]:
    """Return the values of a metric that the store has of a run."""
    import mlflow

    return mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)


def load_recorded_model(run: "Run") -> "PyFuncModel":
    import mlflow

    return mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def running(pid: int) -> bool:
    """Return whether there is a process `pid` that is not just waiting to be reaped."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_within(pids: list[int], seconds: float) -> bool:
    """Wait until none of the processes runs; return whether that was so in time."""
    deadline = time.monotonic() + seconds
    while any(map(running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(autouse=True, scope="session")
def no_settings_of_the_users() -> Iterator[None]:
    """Repositories that tests make are theirs, also under a git hook; no proxy stands before a server here.

    And the programs that tests start say what they say to users.
    """
    settings = {"commit.gpgsign": "false", "tag.gpgsign": "false", "core.hooksPath": os.devnull}
    with pytest.MonkeyPatch.context() as patch:
        if shutil.which("git"):
            listed = subprocess.run(["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True)
            for name in listed.stdout.split():
                patch.delenv(name, raising=False)
        patch.setenv("GIT_CONFIG_COUNT", str(len(settings)))
        for number, (key, value) in enumerate(settings.items()):
            patch.setenv(f"GIT_CONFIG_KEY_{number}", key)
            patch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
        for name in ("PYTHONWARNINGS", "PYTHONDEVMODE", "PYTHONSAFEPATH"):
            patch.delenv(name, raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        yield


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """As most stages have it, so that no test depends on those before it."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """Return an MLflow store with nothing in it; a copy of it saves the seconds that its schema takes."""
    import mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def open_workspace(tmp_path_factory, request) -> Callable[..., AbstractContextManager[Workspace]]:
    """Return `open_workspace(overrides, store=True)`, a context with a new Workspace as the current folder."""

    @contextmanager
    def opened(overrides: dict[str, object], store: bool = True) -> Iterator[Workspace]:
        path = tmp_path_factory.mktemp("рабочая папка")  # as many have blanks and Cyrillic in their paths
        shutil.copy(ROOT / "dvc.yaml", path)
        shutil.copytree(ROOT / "packages", path / "packages")
        # So that `python -m stages…` works there, and the code counts among a stage's dependencies.
        try:
            os.symlink(ROOT / "stages", path / "stages")
        except OSError:  # Windows keeps links for administrators and developers
            shutil.copytree(ROOT / "stages", path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
        if store:
            shutil.copy(request.getfixturevalue("empty_store"), path)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.chdir(path)
            for name in VARIABLES:
                # Set first, so that what MLflow sets meanwhile (it does, for its subprocesses) is undone at the end.
                monkeypatch.setenv(name, "")
                monkeypatch.delenv(name)
            workspace = Workspace(path, monkeypatch)
            workspace.set_parameters(overrides)
            yield workspace

    return opened


@pytest.fixture
def workspace(open_workspace) -> Iterator[Workspace]:
    """A Workspace with the repository's parameters, on one thread; `set_parameters` makes them smaller."""
    with open_workspace({}) as opened:
        yield opened
