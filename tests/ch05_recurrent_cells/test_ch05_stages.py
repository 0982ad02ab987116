"""Chapter 5 as dvc.yaml runs it, small: what comes out, that the numbers belong to the models, the same bytes again."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load

from stages.ch05_recurrent_cells.evaluate import TEST_SEQUENCES, held_out_generator
from stages.ch05_recurrent_cells.model import RecurrentNetwork
from stages.ch05_recurrent_cells.tasks import draw_recall
from stages.common.files import read_history
from tests.conftest import arrays, by_epoch, changed, curves, figures_of, history_of, load_recorded_model, recorded_runs

CELLS = ("rnn", "lstm", "gru")
SMALL = {
    f"ch05.{recipe}.{name}": value
    for recipe in ("tuned", "book")
    for name, value in {"lengths": [2, 4], "steps": 30, "mode_steps": 10, "runs": 2, "hidden_size": 8}.items()
}


@pytest.fixture(scope="module", params=["tuned", "book"])
def chapter(open_workspace, request):
    """(workspace, recipe, outputs) after a whole run of the chapter."""
    with open_workspace({**SMALL, "ch05.recipe": request.param}) as workspace:
        yield workspace, request.param, workspace.run("ch05", tracked=request.param == "tuned")


def recall_network(weights, cell, run):
    """Return a run's network for the longest sequences, from the file's weights."""
    network = RecurrentNetwork(cell, 9, 8, 8)
    prefix = f"recall_4_{run}."
    network.load_state_dict({n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)})
    return network


@pytest.mark.parametrize("cell", CELLS)
def test_evaluation_reproduces_what_the_model_file_gives(chapter, cell):
    outputs = chapter[2]
    weights = load(outputs[f"data/models/ch05/{cell}.safetensors"])
    inputs, targets = draw_recall(TEST_SEQUENCES, held_out_generator(0), 4, 8, 1.0)
    shares = []
    for run in range(2):
        network = recall_network(weights, cell, run)
        with torch.no_grad():
            shares.append((network(inputs)[-1].argmax(dim=-1) == targets[0]).double().mean().item())
    metrics = json.loads(outputs[f"metrics/ch05/{cell}.json"])
    assert metrics["accuracy_4"] == metrics["longest_accuracy_mean"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert metrics["longest_accuracy_std"] == pytest.approx(np.std(shares, ddof=1), abs=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_cells_and_facts_are_right(chapter, cell):
    metrics = json.loads(chapter[2][f"metrics/ch05/{cell}.json"])
    assert max(metrics["forward_difference"], metrics["backward_difference"]) <= 1e-6
    assert metrics["facts_true"] == metrics["facts"] > 20
    norms = arrays(chapter[2], "data/evaluated/ch05/gradients.npz")
    for kind in ("untrained", "trained"):
        values = norms[f"{cell}_{kind}"]
        assert values.shape == (2, 5) and (values > 0).all() and (values[0] != values[1]).any()
        ratios = values[:, -1] / values[:, 0]
        assert metrics[f"gradient_ratio_{kind}"] == pytest.approx(np.median(ratios), rel=1e-3)
        assert metrics[f"gradient_ratio_{kind}_least"] == pytest.approx(ratios.min(), rel=1e-3)


def test_history_is_the_mean_of_its_lengths(chapter):
    rows = chapter[2]["metrics/history/ch05/lstm.csv"].decode().splitlines()
    assert rows[0] == "step,length_2,length_4,mean"
    _, first, second, mean = map(float, rows[1].split(","))
    assert len(rows) == 31 and mean == pytest.approx((first + second) / 2, rel=1e-4)


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_mlflow_has_a_run_for_each_cell(chapter):
    workspace, _, outputs = chapter
    runs = recorded_runs(workspace, "ch05")
    assert {run.info.run_name: run.data.params["cell"] for run in runs} == {f"repro-{cell}": cell for cell in CELLS}
    seconds = []
    for run in runs:
        metrics = json.loads(outputs[f"metrics/ch05/{run.data.params['cell']}.json"])
        assert {name: run.data.metrics[name] for name in metrics} == pytest.approx(metrics)
        assert len(history_of(run, "length_4_loss")) == 30
        assert len(figures_of(run)) == 3
        seconds.append(run.data.metrics["train_seconds"])  # of all cells together
        inputs, _ = draw_recall(TEST_SEQUENCES, held_out_generator(0), 4, 8, 1.0)
        answers = load_recorded_model(run).predict(inputs.transpose(0, 1).contiguous().numpy())
        weights = load(outputs[f"data/models/ch05/{run.data.params['cell']}.safetensors"])
        network = recall_network(weights, run.data.params["cell"], 0)
        with torch.no_grad():
            np.testing.assert_allclose(answers, network(inputs).transpose(0, 1), rtol=1e-4, atol=1e-5)
    assert seconds == pytest.approx([seconds[0]] * 3, abs=0.5)


def test_second_run_gives_the_same_bytes(chapter):
    workspace, _, outputs = chapter
    workspace.remove_outputs()
    again = workspace.run("ch05", tracked=False)
    assert changed(again, outputs) == []


def test_lengths_must_rise(workspace, capsys):
    workspace.set_parameters({"ch05.tuned.lengths": [5, 5]})
    with pytest.raises(SystemExit) as end:
        workspace.step("stages.ch05_recurrent_cells.train")
    assert end.value.code == 2
    assert capsys.readouterr().err.strip() == "params.yaml: ch05.tuned: lengths [5, 5] must rise"


def test_figures_show_each_cells_own(chapter):
    workspace, _, outputs = chapter
    drawn = workspace.drawn("stages.ch05_recurrent_cells.plot")
    recall, panels = curves(drawn["recall.png"].axes[0]), drawn["loss.png"].axes
    for cell, panel in zip(CELLS, panels, strict=True):
        metrics = json.loads(outputs[f"metrics/ch05/{cell}.json"])
        lengths = [int(name.split("_")[1]) for name in metrics if re.fullmatch(r"accuracy_\d+", name)]
        assert lengths and panel.get_title() == cell.upper()
        assert recall[cell.upper()] == [(length, metrics[f"accuracy_{length}"]) for length in lengths]
        history = read_history(f"metrics/history/ch05/{cell}.csv")
        for length in lengths:
            assert curves(panel)[f"{length} steps back"] == by_epoch(history[f"length_{length}"])
