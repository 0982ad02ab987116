"""Chapter 3 as dvc.yaml runs it, small: what comes out, that the numbers belong to the models, the same bytes again."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load

from stages.ch03_perceptrons.model import MultiLayer
from stages.common.files import read_history
from tests.conftest import arrays, by_epoch, changed, curves, figures_of, history_of, load_recorded_model, recorded_runs

SMALL = {
    f"ch03.{recipe}.{name}": value
    for recipe in ("tuned", "book")
    for name, value in {"xor_steps": 100, "xor_runs": 6, "multilayer_runs": 2, "optimizer_steps": 40}.items()
}


@pytest.fixture(scope="module", params=["tuned", "book"])
def chapter(open_workspace, request):
    """(workspace, recipe, outputs) after a whole run of the chapter."""
    with open_workspace({**SMALL, "ch03.recipe": request.param}) as workspace:
        yield workspace, request.param, workspace.run("ch03", tracked=request.param == "tuned")


def test_metrics_say_what_the_recipes_differ_in(chapter):
    _, recipe, outputs = chapter
    metrics = json.loads(outputs["metrics/ch03.json"])
    assert metrics["facts_true"] == metrics["facts"] > 60
    assert max(metrics["activation_value_error"], metrics["activation_derivative_error"]) < 1e-6
    counts = [
        metrics[f"{name}_parameters"] for name in ("single_layer", "multilayer", "multilayer_printed", "sequential")
    ]
    assert counts == [105, 6091, 5071, 392]
    assert metrics["xor_best_line"] == 0.75
    differences = [metrics[f"{name}_rule_difference"] for name in ("neuron", "layer")]
    if recipe == "tuned":
        assert max(differences) <= 1e-6
        assert metrics["softmax_sum_error"] == 0 < metrics["multilayer_negative_outputs"]
    else:
        assert min(differences) > 0.01
        assert metrics["softmax_sum_error"] > 0.1 > 0 == metrics["multilayer_negative_outputs"]


def test_evaluation_reproduces_what_the_model_file_gives(chapter):
    _, recipe, outputs = chapter
    weights = load(outputs["data/models/ch03/networks.safetensors"])
    patterns = arrays(outputs, "data/raw/ch03/patterns.npz")
    inputs, targets = torch.from_numpy(patterns["test_inputs"]), patterns["test_targets"]
    scores = []
    for run in range(2):
        model = MultiLayer({"tuned": "linear", "book": "relu"}[recipe])
        prefix = f"multilayer{run}."
        model.load_state_dict({n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)})
        with torch.no_grad():
            errors = (model(inputs).numpy() - targets) ** 2
        scores.append(1 - errors.sum() / ((targets - targets.mean()) ** 2).sum())
    assert scores[0] != scores[1]  # from other seeds
    metrics = json.loads(outputs["metrics/ch03.json"])
    assert metrics["multilayer_r2_mean"] == pytest.approx(np.mean(scores), abs=1e-5)
    assert metrics["multilayer_r2_std"] == pytest.approx(np.std(scores, ddof=1), abs=1e-5)


def test_error_of_the_layer_is_that_of_its_last_step(chapter):
    _, _, outputs = chapter
    patterns = arrays(outputs, "data/raw/ch03/patterns.npz")
    training = arrays(outputs, "data/evaluated/ch03/training.npz")
    weight, bias = training["layer_rule_weight"][-1], training["layer_rule_bias"][-1]
    errors = patterns["layer_inputs"] @ weight.T + bias - patterns["layer_targets"]
    metrics = json.loads(outputs["metrics/ch03.json"])
    assert metrics["layer_rmse"] == pytest.approx(np.sqrt(np.square(errors).mean()), abs=2e-6)
    assert metrics["layer_rmse"] > metrics["layer_rmse_least_squares"]


def test_history_has_the_three_optimizers(chapter):
    lines = chapter[2]["metrics/history/ch03.csv"].decode().splitlines()
    assert lines[0] == "step,sgd,adam,adagrad"
    first = lines[1].split(",")[1:]
    assert len(lines) == 41 and len(set(first)) == 1  # all from one start


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_mlflow_has_one_run_with_the_metrics_and_figures(chapter):
    workspace, _, outputs = chapter
    (run,) = recorded_runs(workspace, "ch03")
    metrics = json.loads(outputs["metrics/ch03.json"])
    assert {name: run.data.metrics[name] for name in metrics} == pytest.approx(metrics)
    assert len(history_of(run, "adam_loss")) == 40
    assert len(figures_of(run)) == 5
    weights = load(outputs["data/models/ch03/networks.safetensors"])
    network = MultiLayer()
    network.load_state_dict({name: weights[f"multilayer0.{name}"] for name in network.state_dict()})
    inputs = np.random.default_rng(0).standard_normal((7, 100)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(inputs))
    for count in (1, 7):
        predictions = load_recorded_model(run).predict(inputs[:count])
        np.testing.assert_allclose(predictions, expected[:count], rtol=1e-5, atol=1e-6)


def test_second_run_gives_the_same_bytes(chapter):
    workspace, _, outputs = chapter
    workspace.remove_outputs()
    again = workspace.run("ch03", tracked=False)
    assert changed(again, outputs) == []


def test_figures_show_the_trainings(chapter):
    workspace, _, _ = chapter
    drawn = workspace.drawn("stages.ch03_perceptrons.plot")
    history = read_history("metrics/history/ch03.csv")
    shown = curves(drawn["optimizers.png"].axes[0])
    assert {label.split(",")[0].lower(): points for label, points in shown.items()} == {
        name: by_epoch(losses) for name, losses in history.items()
    }
    with np.load("data/evaluated/ch03/training.npz") as training:
        shown = curves(drawn["widrow_hoff.png"].axes[0])
        for label, way, index in (("w₁, Widrow–Hoff", "rule", 0), ("w₂, autograd", "autograd", 1)):
            assert shown[label] == by_epoch(training[f"neuron_{way}_weight"][:, 0, index])
        (path,) = [points for label, points in curves(drawn["descent.png"].axes[0]).items() if "descent" in label]
        assert path == [tuple(point) for point in training["descent"].tolist()]
