"""The benchmarks start and say what they take; those that need no data run, small."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted({path.stem for path in ROOT.glob("benchmarks/*.py")} - {"__init__", "shared"})


@pytest.fixture
def program():
    """Import a benchmark; the processor's instructions, which they all take, are afterwards as they were."""
    before = dict(os.environ)
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_starts_and_names_its_options(program, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        program(name).main()
    assert end.value.code == 0 and "usage:" in capsys.readouterr().out


def test_timeseries_ceiling_runs(program, monkeypatch, capsys):
    timeseries_ceiling = program("timeseries_ceiling")
    parameters = timeseries_ceiling.read_yaml(ROOT / "params.yaml")
    small = {"length": 120, "duration": 12.0, "window": 10, "loss_steps": 5, "hidden_size": 4, "epochs": 1}
    parameters["ch06"]["tuned"] |= small
    monkeypatch.setattr(timeseries_ceiling, "read_yaml", lambda path: parameters)
    monkeypatch.setattr(sys, "argv", ["timeseries_ceiling", "--noise-levels", "0.2", "--seeds", "0", "1"])
    timeseries_ceiling.main()
    _, *rows = capsys.readouterr().out.splitlines()
    for row, model in zip(rows, ("ridge", "rnn", "lstm"), strict=True):
        noise_level, name, *r2, ceiling, first, second, gap, _ = row.split()
        assert (noise_level, name, len(r2)) == ("0.20", model, 2)
        assert float(gap) == pytest.approx((float(first) + float(second)) / 2, abs=1e-4)
        assert float(ceiling) - sum(map(float, r2)) / 2 == pytest.approx(float(gap), abs=2e-4)


@pytest.mark.parametrize("name", ["housing_shares", "graph_best_choice", "mnist_first_minute"])
def test_data_of_another_recipe_are_refused(program, name, monkeypatch, tmp_path):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("recipe: tuned", "recipe: book"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    with pytest.raises(SystemExit, match=r"recipe is book, and this wants the data of tuned"):
        program(name).main()


def test_processors_take_the_small_parameters_whatever_the_recipe(program):
    processors = program("processors")
    parameters = processors.read_yaml(ROOT / "params.yaml")
    parameters["ch09"]["recipe"] = "book"
    small = processors.in_small(parameters)
    assert small["ch09"]["recipe"] == "tuned" and small["ch09"]["tuned"]["pairs"] == 400
    assert small["seed"] == parameters["seed"]
    assert small["ch09"]["tuned"]["beta2"] == parameters["ch09"]["tuned"]["beta2"]


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
def test_neighbour_sampling_runs_on_a_generated_graph(tmp_path):
    for task in ("generate", "batches", "whole"):
        row = ["--row", "1500", str(tmp_path / "graph.npz"), task]
        command = [sys.executable, "-m", "benchmarks.neighbour_sampling", *row]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert task == "generate" or ("1,500 nodes" in done.stdout and "accuracy 0." in done.stdout)
