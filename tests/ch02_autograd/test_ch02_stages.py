"""Chapter 2 as dvc.yaml runs it: what comes out, and the same bytes again."""

import json

import numpy as np
import pytest
from safetensors.numpy import load

from stages.ch02_autograd.plot import WAYS
from tests.conftest import arrays, by_epoch, changed, curves, figures_of, history_of, load_recorded_model, recorded_runs


@pytest.fixture(scope="module", params=["tuned", "book"])
def chapter(open_workspace, request):
    """(workspace, recipe, outputs) after a whole run of the chapter."""
    with open_workspace({"ch02.recipe": request.param}) as workspace:
        yield workspace, request.param, workspace.run("ch02", tracked=request.param == "tuned")


def test_tables_are_the_books_where_the_recipe_is(chapter):
    _, recipe, outputs = chapter
    metrics = json.loads(outputs["metrics/ch02.json"])
    rows = {name: metrics[name] for name in metrics if "_rows_" in name}
    expected = {"fig23_rows_autograd": 10, "fig23_rows_func": 10}
    if recipe == "book":
        assert rows == {**expected, "fig20_rows_numpy": 8, "fig23_rows_numpy": 0}
        assert (metrics["numpy_gradient_ratio"], metrics["numpy_zero_iteration"]) == (4.0, 9)
    else:
        assert rows == {**expected, "fig20_rows_numpy": 0, "fig23_rows_numpy": 10}
        assert metrics["numpy_gradient_ratio"] == 1.0
        assert metrics["numpy_weight_difference"] <= 1e-6
        assert metrics["numpy_zero_iteration"] == metrics["autograd_zero_iteration"]
    assert metrics["func_weight_difference"] <= 1e-6
    assert metrics["gradcheck"] is True
    assert metrics["facts_true"] == metrics["facts"]
    assert metrics["autograd_gradient_error"] < 1e-5 < metrics["difference_gradient_error"]


def test_weights_are_the_last_of_each_descent(chapter):
    outputs = chapter[2]
    weights = load(outputs["data/models/ch02/weights.safetensors"])
    metrics = json.loads(outputs["metrics/ch02.json"])
    descent = arrays(outputs, "data/evaluated/ch02/descent.npz")
    for way in ("numpy", "autograd", "func"):
        assert weights[way].tolist() == [descent[f"{way}_weight"][-1]] == [metrics[f"{way}_weight"]]


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_plot_records_the_metrics_in_the_run_of_the_training(chapter):
    workspace, _, outputs = chapter
    (run,) = recorded_runs(workspace, "ch02")
    metrics = json.loads(outputs["metrics/ch02.json"])
    assert {name: run.data.metrics[name] for name in metrics} == pytest.approx(
        {name: float(value) for name, value in metrics.items()}
    )
    assert run.data.params["gradient"] == "mean"
    assert len(history_of(run, "loss")) == 50
    assert figures_of(run) == ["descent.png", "graph.png"]
    inputs = np.array([1, 2, -0.5], dtype=np.float32)
    predictions = load_recorded_model(run).predict(inputs)
    np.testing.assert_allclose(predictions, metrics["autograd_weight"] * inputs, rtol=1e-6)


def test_second_run_gives_the_same_bytes(chapter):
    workspace, _, outputs = chapter
    workspace.remove_outputs()
    assert workspace.outputs() == {}
    again = workspace.run("ch02", tracked=False)
    assert changed(again, outputs) == []


def test_figures_show_the_descents(chapter):
    workspace, recipe, _ = chapter
    left, right = workspace.drawn("stages.ch02_autograd.plot")["descent.png"].axes
    assert ("sum" if recipe == "book" else "mean") in left.get_title()
    with np.load("data/evaluated/ch02/descent.npz") as descent:
        shown = {name: (by_epoch(descent[f"{name}_weight"]), by_epoch(descent[f"{name}_loss"])) for name in WAYS}
    assert len({label for label, _, _ in WAYS.values()}) == len(WAYS)
    for way, (label, _, _) in WAYS.items():
        assert curves(left)[label] == shown[way][0]
        assert curves(right)[label] == [point for point in shown[way][1] if point[1] > 0]
