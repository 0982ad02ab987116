"""Chapter 2 as dvc.yaml runs it: what comes out, and the same bytes again."""

import io
import json

import numpy as np
import pytest
from safetensors.numpy import load

from stages.ch02_autograd.plot import WAYS
from tests.conftest import by_epoch, curves

OUTPUTS = {
    "data/raw/ch02/line.npz",
    "data/models/ch02/weights.safetensors",
    "data/evaluated/ch02/descent.npz",
    "data/evaluated/ch02/graph.json",
    "metrics/ch02.json",
    "metrics/facts/ch02.json",
    "metrics/history/ch02.csv",
    "metrics/plots/ch02/descent.png",
    "metrics/plots/ch02/graph.png",
    "data/recorded/ch02.json",
}


@pytest.fixture(scope="module", params=["tuned", "book"])
def chapter(open_workspace, request):
    """(workspace, recipe, outputs) after a whole run of the chapter."""
    with open_workspace({"ch02.recipe": request.param}) as workspace:
        yield workspace, request.param, workspace.run("ch02", tracked=request.param == "tuned")


def test_outputs_are_those_declared(chapter):
    assert set(chapter[2]) == OUTPUTS


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
    with np.load(io.BytesIO(outputs["data/evaluated/ch02/descent.npz"])) as descent:
        for way in ("numpy", "autograd", "func"):
            assert weights[way].tolist() == [descent[f"{way}_weight"][-1]] == [metrics[f"{way}_weight"]]


def test_plot_records_the_metrics_in_the_run_of_the_training(chapter):
    workspace, recipe, outputs = chapter
    if recipe == "book":
        return
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{workspace.path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("ch02").experiment_id])
    metrics = json.loads(outputs["metrics/ch02.json"])
    assert {name: run.data.metrics[name] for name in metrics} == pytest.approx(
        {name: float(value) for name, value in metrics.items()}
    )
    assert run.data.params["gradient"] == "mean"
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 50
    assert {file.path for file in client.list_artifacts(run.info.run_id, "figures")} == {
        "figures/descent.png",
        "figures/graph.png",
    }


def test_second_run_gives_the_same_bytes(chapter):
    workspace, _, outputs = chapter
    workspace.remove_outputs()
    assert workspace.outputs() == {}
    again = workspace.run("ch02", tracked=False)
    assert [path for path in OUTPUTS if again[path] != outputs[path]] == []


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
