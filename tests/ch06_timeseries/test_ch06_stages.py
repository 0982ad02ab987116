"""Chapter 6 as dvc.yaml runs it, small: what comes out, that the numbers belong to the models, the same bytes again."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import nn

from stages.common.files import read_history
from tests.conftest import arrays, by_epoch, changed, curves

SMALL = {
    "ch06.tuned.length": 200,
    "ch06.tuned.duration": 20.0,
    "ch06.tuned.window": 20,
    "ch06.tuned.loss_steps": 10,
    "ch06.tuned.hidden_size": 4,
    "ch06.tuned.epochs": 3,
    "ch06.book.length": 200,
    "ch06.book.duration": 20.0,
    "ch06.book.window": 20,
    "ch06.book.epochs": 4,
}


@pytest.fixture(scope="module", params=["tuned", "book"])
def chapter(open_workspace, request):
    """(workspace, recipe, outputs) after a whole run of the chapter."""
    with open_workspace({**SMALL, "ch06.recipe": request.param}) as workspace:
        yield workspace, request.param, workspace.run("ch06", tracked=request.param == "tuned")


def test_windows_are_those_of_the_recipe(chapter):
    _, recipe, outputs = chapter
    series, windows = arrays(outputs, "data/raw/ch06/series.npz"), arrays(outputs, "data/prepared/ch06/windows.npz")
    ahead = {"tuned": 1, "book": 2}[recipe]
    count = 200 - 20 - ahead + 1
    assert windows["test_inputs"].shape == (count, 20)
    np.testing.assert_array_equal(windows["test_inputs"][3], series["test"][3:23])
    np.testing.assert_array_equal(windows["test_targets"], series["test"][19 + ahead :])
    trained_on = {"tuned": (count, 10), "book": (10, 1)}[recipe]  # the book: length/window of them
    assert windows["train_targets"].shape == trained_on
    np.testing.assert_array_equal(windows["train_targets"][:, -1], series["train"][19 + ahead :][: trained_on[0]])


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_evaluation_reproduces_what_the_model_file_gives(chapter, cell):
    _, _, outputs = chapter
    weights = load(outputs[f"data/models/ch06/{cell}.safetensors"])
    hidden_size = weights["output.weight"].shape[1]
    recurrent = {"rnn": nn.RNN, "lstm": nn.LSTM}[cell](1, hidden_size, batch_first=True)
    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    recurrent.load_state_dict({name: weights[f"recurrent.{name}"] for name in names})
    windows = arrays(outputs, "data/prepared/ch06/windows.npz")
    with torch.no_grad():
        hidden = recurrent(torch.from_numpy(windows["test_inputs"]).unsqueeze(2))[0][:, -1]
        predictions = (hidden @ weights["output.weight"].T + weights["output.bias"]).squeeze(1).double().numpy()
    forecast = arrays(outputs, f"data/evaluated/ch06/{cell}.npz")
    np.testing.assert_allclose(forecast["predictions"], predictions, atol=1e-5)
    targets = windows["test_targets"].astype(float)
    np.testing.assert_array_equal(forecast["targets"], windows["test_targets"])
    metrics = json.loads(outputs[f"metrics/ch06/{cell}.json"])
    squares = (targets - predictions) ** 2
    r2, ceiling = 1 - squares.mean() / targets.var(), 1 - 0.1**2 / targets.var()
    persistence = 1 - ((targets - windows["test_inputs"][:, -1]) ** 2).mean() / targets.var()
    windows = {name: values.astype(float) for name, values in windows.items()}
    # One of the penalties is the stage's, which it chooses without these windows.
    linear_r2 = [
        r2_score(
            targets,
            Ridge(penalty)
            .fit(windows["train_inputs"], windows["train_targets"][:, -1])
            .predict(windows["test_inputs"]),
        )
        for penalty in np.logspace(-3, 3, 13)
    ]
    assert np.abs(np.subtract(linear_r2, metrics.pop("linear_r2"))).min() < 1e-4
    book_r2 = 1 - squares[:10].mean() / targets[:10].var()
    assert metrics == pytest.approx(
        {
            "r2": r2,
            "rmse": squares.mean() ** 0.5,
            "r2_ceiling": ceiling,
            "r2_gap": ceiling - r2,
            "persistence_r2": persistence,
            "r2_book_windows": book_r2,
            "r2_book_windows_ceiling": 1 - 0.1**2 / targets[:10].var(),
        },
        abs=1e-4,
    )


def test_history_has_a_loss_an_epoch(chapter):
    _, recipe, outputs = chapter
    epochs = SMALL[f"ch06.{recipe}.epochs"]
    for cell in ("rnn", "lstm"):
        header, *rows = outputs[f"metrics/history/ch06/{cell}.csv"].decode().splitlines()
        assert header == "epoch,train_loss"
        assert [row.split(",")[0] for row in rows] == [str(epoch) for epoch in range(1, epochs + 1)]


def test_noise_levels_side_by_side(chapter):
    _, recipe, outputs = chapter
    compared = arrays(outputs, "data/evaluated/ch06/noise.npz")
    count = {"tuned": 180, "book": 179}[recipe]
    assert compared["noise_levels"].tolist() == [0.0, 0.3]
    assert compared["targets"].shape == compared["predictions"].shape == (2, count)
    started = {"tuned": 20 * 200 / 199, "book": 0}[recipe]  # the recipe's test series goes on, or begins anew
    clean = np.sin(np.linspace(0, 20, 200) + started).astype(np.float32)
    np.testing.assert_array_equal(compared["targets"][0], clean[200 - count :])


def test_same_noise_level_gives_the_same_lstm(chapter):
    # noise.py carries out the chapter by itself; at the chapter's own level it must come to the chapter's own forecast.
    workspace, recipe, outputs = chapter
    workspace.set_parameters({**SMALL, "ch06.recipe": recipe, "ch06.compared_noise_levels": [0.3, 0.1]})
    before = (workspace.path / "data/evaluated/ch06/noise.npz").read_bytes()
    try:
        workspace.step("stages.ch06_timeseries.noise")
        compared = arrays(workspace.outputs(), "data/evaluated/ch06/noise.npz")
        forecast = arrays(outputs, "data/evaluated/ch06/lstm.npz")
        # The second of two: what comes before it changes nothing.
        np.testing.assert_array_equal(compared["targets"][1], forecast["targets"])
        np.testing.assert_array_equal(compared["predictions"][1], forecast["predictions"])
    finally:
        workspace.set_parameters({**SMALL, "ch06.recipe": recipe})
        (workspace.path / "data/evaluated/ch06/noise.npz").write_bytes(before)


def test_second_run_gives_the_same_bytes(chapter):
    workspace, _, outputs = chapter
    workspace.remove_outputs()
    assert workspace.outputs() == {}
    again = workspace.run("ch06", tracked=False)
    assert changed(again, outputs) == []


def test_figures_show_each_cells_own(chapter):
    workspace, _, outputs = chapter
    drawn = workspace.drawn("stages.ch06_timeseries.plot")
    losses, panels = curves(drawn["loss.png"].axes[0]), drawn["forecast.png"].axes
    for cell, panel in zip(("rnn", "lstm"), panels, strict=True):
        stored = arrays(outputs, f"data/evaluated/ch06/{cell}.npz")
        (shown,) = panel.collections
        np.testing.assert_array_equal(shown.get_offsets(), np.stack([stored["targets"], stored["predictions"]], 1))
        r2 = json.loads(outputs[f"metrics/ch06/{cell}.json"])["r2"]
        assert panel.get_title().startswith(f"{cell.upper()}: R² {r2:.3f}")
        assert losses[cell.upper()] == by_epoch(read_history(f"metrics/history/ch06/{cell}.csv")["train_loss"])
    series = arrays(outputs, "data/raw/ch06/series.npz")
    shown = curves(drawn["series.png"].axes[0])
    for label, values in (("training series", series["train"]), ("sin(t)", np.sin(series["time"]))):
        np.testing.assert_array_equal(shown[label], np.stack([series["time"], values], 1)[:500])
    compared = arrays(outputs, "data/evaluated/ch06/noise.npz")
    for number, panel in enumerate(drawn["noise_levels.png"].axes):
        level, pair = compared["noise_levels"][number], (compared["targets"][number], compared["predictions"][number])
        first, allowed = panel.get_title().splitlines()
        assert first == f"LSTM, noise level {level}: R² {r2_score(*pair):.3f}"
        assert allowed == f"the noise allows {1 - level**2 / np.var(pair[0]):.3f}"
        np.testing.assert_array_equal(panel.collections[0].get_offsets(), np.stack(pair, 1))
