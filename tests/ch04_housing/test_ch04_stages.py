"""Chapter 4 as dvc.yaml runs it, small: what comes out, that the numbers belong to the models, the same bytes again."""

import json
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load, save
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.model_selection import train_test_split

from stages.ch04_housing.model import HousingModel
from stages.ch04_housing.params_schema import Column
from stages.common.files import read_history
from tests.conftest import arrays, changed, figures_of, load_recorded_model, md5, recorded_runs

SMALL = {
    "ch04.runs": 2,
    "ch04.cv_splits": 3,
    "ch04.cv_repeats": 1,
    "ch04.tuned.members": 2,
    "ch04.tuned.frequencies": 2,
    "ch04.tuned.embedding_size": 2,
    "ch04.tuned.hidden_sizes": [8, 8],
    "ch04.tuned.activation": "silu",
    "ch04.tuned.process_share": 0.6,
    "ch04.tuned.process_groups": ["ZN", "CHAS"],
    "ch04.tuned.epochs": 20,
    "ch04.book.epochs": 20,
}
SHAPES = {
    "tuned": {
        "target": "log",
        "members": 2,
        "frequencies": 2,
        "frequency_scale": 0.3,
        "embedding_size": 2,
        "hidden_sizes": [8, 8],
        "activation": "silu",
        "process_share": 0.6,
        "process_groups": [1, 3],
        "rows": 60,
    },
    "book": {
        "target": "raw",
        "members": 1,
        "frequencies": 0,
        "frequency_scale": 0.0,
        "embedding_size": 0,
        "hidden_sizes": [16, 8],
        "activation": "relu",
        "process_share": 0.0,
        "process_groups": [],
        "rows": 60,
    },
}
METRICS = {"r2", "rmse", "mae", "r2_mean", "r2_std", "cv_r2_mean", "cv_r2_std", "peer_gbr_cv_r2", "peer_rf_cv_r2"}


@pytest.fixture(scope="module", params=["tuned", "book"])
def chapter(open_workspace, request):
    """(workspace, recipe, outputs) after a whole run of the chapter."""
    with open_workspace({**SMALL, "ch04.recipe": request.param}) as workspace:
        workspace.write_housing()
        yield workspace, request.param, workspace.run("ch04", tracked=request.param == "tuned")


def r_squared(prices: np.ndarray, predictions: np.ndarray) -> float:
    return 1 - ((prices - predictions) ** 2).sum() / ((prices - prices.mean()) ** 2).sum()


def test_books_split_of_506_rows(workspace):
    table = pd.read_csv(workspace.write_housing(rows=506), skiprows=1)
    workspace.step("stages.ch04_housing.preprocess")
    housing = arrays(workspace.outputs(), "data/prepared/ch04/housing.npz")
    train_rows, test_rows = housing["train_rows"], housing["test_rows"]
    assert (len(train_rows), len(test_rows)) == (404, 102)
    assert sorted([*train_rows, *test_rows]) == list(range(506))
    # Fig. 39 splits the rows themselves.
    _, _, train_prices, test_prices = train_test_split(
        table.drop(columns="MEDV"), table["MEDV"], test_size=0.2, random_state=99
    )
    np.testing.assert_array_equal(housing["prices"][train_rows], train_prices)
    np.testing.assert_array_equal(housing["prices"][test_rows], test_prices)


def test_columns_that_make_groups_are_those_of_the_table(chapter):
    names = arrays(chapter[2], "data/prepared/ch04/housing.npz")["names"].tolist()
    assert list(get_args(Column)) == names


def test_prepared_features_are_those_of_the_recipe(chapter):
    workspace, recipe, outputs = chapter
    table = pd.read_csv(workspace.path / "data/raw/ch04/boston_house_prices.csv", skiprows=1)
    housing = arrays(outputs, "data/prepared/ch04/housing.npz")
    assert housing["names"].tolist() == list(table.columns[:13])
    np.testing.assert_array_equal(housing["prices"], table["MEDV"])
    for column, name in enumerate(housing["names"]):
        expected = table[name].to_numpy(dtype=float)
        if recipe == "tuned" and name in ("CRIM", "DIS", "LSTAT"):
            expected = np.log(expected)
        elif recipe == "tuned" and name == "ZN":
            expected = np.log(1 + expected)
        elif recipe == "tuned" and name == "B":
            expected = np.log(400 - expected)
        np.testing.assert_allclose(housing["features"][:, column], expected, rtol=1e-12)


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_models_know_their_training_rows_alone(chapter):
    outputs = chapter[2]
    housing = arrays(outputs, "data/prepared/ch04/housing.npz")
    rows = {"runs": [housing["train_rows"]] * 2, "folds": [np.flatnonzero(housing["folds"][0] != f) for f in range(3)]}
    for name, chosen in rows.items():
        means = load(outputs[f"data/models/ch04/{name}.safetensors"])["feature_mean"].numpy()  # by which they scale
        assert len(means) == len(chosen)
        for mean, own in zip(means, chosen, strict=True):
            np.testing.assert_allclose(mean[0], housing["features"][own].mean(axis=0), rtol=1e-4, atol=1e-4)


def test_metrics_reproduce_what_the_model_files_give(chapter):
    _, recipe, outputs = chapter
    housing, metrics = arrays(outputs, "data/prepared/ch04/housing.npz"), json.loads(outputs["metrics/ch04.json"])
    prices, test = housing["prices"], housing["test_rows"]
    predictions = {}
    for name, runs in {"runs": 2, "folds": 3}.items():
        model = HousingModel([9] * runs, 13, **SHAPES[recipe]).eval()
        model.load_state_dict(load(outputs[f"data/models/ch04/{name}.safetensors"]))
        with torch.no_grad():
            predictions[name] = model(torch.from_numpy(housing["features"]).float().expand(runs, -1, -1)).numpy()
    r2 = [r_squared(prices[test], run[test]) for run in predictions["runs"]]
    folds = [
        r_squared(prices[housing["folds"][0] == fold], run[housing["folds"][0] == fold])
        for fold, run in enumerate(predictions["folds"])
    ]
    errors = predictions["runs"][0][test] - prices[test]
    assert set(metrics) >= METRICS
    assert {name: metrics[name] for name in METRICS if not name.startswith("peer")} == pytest.approx(
        {
            "r2": r2[0],
            "rmse": np.sqrt((errors**2).mean()),
            "mae": np.abs(errors).mean(),
            "r2_mean": np.mean(r2),
            "r2_std": np.std(r2, ddof=1),
            "cv_r2_mean": np.mean(folds),
            "cv_r2_std": np.std(folds, ddof=1),
        },
        abs=1e-4,
    )
    saved = arrays(outputs, "data/evaluated/ch04/predictions.npz")
    for name, rows in {"train": housing["train_rows"], "test": test}.items():
        np.testing.assert_array_equal(saved[name], prices[rows])
        np.testing.assert_allclose(saved[f"{name}_predictions"], predictions["runs"][0][rows], rtol=1e-4)


def test_networks_that_diverge_end_the_training_in_one_line(open_workspace):
    with open_workspace({**SMALL, "ch04.recipe": "book", "ch04.book.learning_rate": 1e6}) as workspace:
        workspace.write_housing()
        with pytest.raises(SystemExit, match=r"^metrics/history/ch04.csv: train_loss is (nan|inf) after epoch \d+: "):
            workspace.run("ch04", tracked=False)
        assert "metrics/history/ch04.csv" not in workspace.outputs()


def test_a_network_of_a_fold_that_diverged_ends_the_evaluation_in_one_line(chapter):
    workspace, _, outputs = chapter
    weights = load(outputs["data/models/ch04/folds.safetensors"])
    name = next(name for name, value in weights.items() if value.is_floating_point() and name.endswith("bias"))
    weights[name][0] = float("nan")
    path = workspace.path / "data/models/ch04/folds.safetensors"
    path.write_bytes(save(weights))
    try:
        with pytest.raises(SystemExit, match=r"^ch04_evaluate: a network of folds diverged in training: try a lower"):
            workspace.step("stages.ch04_housing.evaluate")
    finally:
        path.write_bytes(outputs["data/models/ch04/folds.safetensors"])


def test_peers_have_the_same_folds_and_features(chapter):
    _, _, outputs = chapter
    housing, metrics = arrays(outputs, "data/prepared/ch04/housing.npz"), json.loads(outputs["metrics/ch04.json"])
    features, prices, folds = housing["features"], housing["prices"], housing["folds"][0]
    for name, kind in (("gbr", GradientBoostingRegressor), ("rf", RandomForestRegressor)):
        scores = []
        for fold in range(3):
            held_out = folds == fold
            peer = kind(random_state=0).fit(features[~held_out], prices[~held_out])
            scores.append(r_squared(prices[held_out], peer.predict(features[held_out])))
        assert metrics[f"peer_{name}_cv_r2"] == pytest.approx(np.mean(scores), abs=1e-6)


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_mlflow_has_the_run_and_its_model(chapter):
    workspace, _, outputs = chapter
    (run,) = recorded_runs(workspace, "ch04")
    metrics = json.loads(outputs["metrics/ch04.json"])
    named = {name if "cv_" in name else f"test_{name}": value for name, value in metrics.items()}
    assert {name: run.data.metrics[name] for name in named} == pytest.approx(named)
    (dataset,) = (entry.dataset for entry in run.inputs.dataset_inputs)
    assert (dataset.name, dataset.digest) == ("ch04_housing", md5(outputs["data/prepared/ch04/housing.npz"]))
    assert figures_of(run) == ["loss.png", "predictions.png", "rooms_and_price.png"]
    model = load_recorded_model(run)
    housing = arrays(outputs, "data/prepared/ch04/housing.npz")
    stored = arrays(outputs, "data/evaluated/ch04/predictions.npz")
    expected = np.empty(len(housing["prices"]))  # of the first run, in the order of the rows
    for part in ("train", "test"):
        expected[housing[f"{part}_rows"]] = stored[f"{part}_predictions"]
    for count in (1, 7):
        predictions = np.ravel(model.predict(housing["features"][:count].astype(np.float32)))
        np.testing.assert_allclose(predictions, expected[:count], rtol=1e-3)


def test_history_has_a_loss_an_epoch(chapter):
    header, *rows = chapter[2]["metrics/history/ch04.csv"].decode().splitlines()
    assert header == "epoch,train_loss"
    assert [row.split(",")[0] for row in rows] == [str(epoch) for epoch in range(1, 21)]


def test_second_run_gives_the_same_bytes(chapter):
    workspace, _, outputs = chapter
    workspace.remove_outputs()
    assert list(workspace.outputs()) == ["data/raw/ch04/boston_house_prices.csv"]
    again = workspace.run("ch04", tracked=False)
    assert changed(again, outputs) == []


def test_figures_show_the_predictions(chapter):
    workspace, _, outputs = chapter
    drawn = workspace.drawn("stages.ch04_housing.plot")
    (axes,) = drawn["predictions.png"].axes
    stored = arrays(outputs, "data/evaluated/ch04/predictions.npz")
    train, test = axes.collections
    for name, shown in (("train", train), ("test", test)):
        assert shown.get_label() == f"{name} ({len(stored[name])} rows)"
        np.testing.assert_array_equal(shown.get_offsets(), np.stack([stored[name], stored[f"{name}_predictions"]], 1))
        # None of them lies outside of the picture.
        assert axes.get_xlim()[0] <= np.min(shown.get_offsets()) and np.max(shown.get_offsets()) <= axes.get_xlim()[1]
    assert f"{json.loads(outputs['metrics/ch04.json'])['r2']:.3f}" in axes.get_title()
    table = pd.read_csv("data/raw/ch04/boston_house_prices.csv", skiprows=1)
    (rooms,) = drawn["rooms_and_price.png"].axes[0].collections
    np.testing.assert_array_equal(rooms.get_offsets(), table[["RM", "MEDV"]])
    (line,) = drawn["loss.png"].axes[0].get_lines()
    np.testing.assert_array_equal(line.get_ydata(), read_history("metrics/history/ch04.csv")["train_loss"])
