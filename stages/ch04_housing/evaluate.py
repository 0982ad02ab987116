"""Measure the networks of chapter 4 on rows that they didn't learn from, beside two peers (fig. 43).

In: data/prepared/ch04/housing.npz, data/models/ch04/*.safetensors. Out: metrics/ch04.json, and
data/evaluated/ch04/predictions.npz with `train`, `train_predictions`, `test`, `test_predictions` of the first run.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch04_evaluate")  # loads MLflow while this process gets ready

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.base import RegressorMixin, clone
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from stages.ch04_housing.model import HousingModel, model_shape
from stages.ch04_housing.train import HOUSING, MODELS, fold_splits
from stages.common.arrays import save_arrays
from stages.common.devices import in_processes, set_up_torch
from stages.common.files import rounded, write_json
from stages.common.params import declared_parameters
from stages.common.progress import progress

PREDICTIONS = "data/evaluated/ch04/predictions.npz"


@torch.no_grad()
def predict(name: str, runs: int, features: np.ndarray, shape: dict) -> np.ndarray:
    """Return the prices that each run of the saved model `name` gives to features (rows, F): (runs, rows).

    Raises:
        SystemExit: with one line, if a price is no finite number.
    """
    model = HousingModel([0] * runs, features.shape[1], **shape)
    model.load_state_dict(load_file(MODELS / f"{name}.safetensors"))
    prices = model.eval()(torch.from_numpy(features).float().expand(runs, -1, -1)).numpy()
    if not np.isfinite(prices).all():
        raise SystemExit(f"ch04_evaluate: a network of {name} diverged in training: try a lower learning_rate")
    return prices


def fold_scores(prices: np.ndarray, splits: list, predictions: np.ndarray) -> np.ndarray:
    """Return R² of each fold on its held-out rows, (folds,), from predictions (folds, rows)."""
    return np.array([r2_score(prices[rows], fold[rows]) for (_, rows), fold in zip(splits, predictions, strict=True)])


def fitted_predictions(job: tuple[RegressorMixin, np.ndarray], features: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Fit a copy of a regressor to some rows, `job` the two; return the prices that it gives to all, (rows,)."""
    peer, rows = job
    return clone(peer).fit(features[rows], prices[rows]).predict(features)


def peer_predictions(
    peers: Mapping[str, RegressorMixin],
    features: np.ndarray,
    prices: np.ndarray,
    train_rows: Sequence[np.ndarray],
    processes: int,
) -> dict[str, np.ndarray]:
    """Return for each regressor the prices (fits, rows) that it gives after fitting each of `train_rows`."""
    jobs = [(peer, rows) for peer in peers.values() for rows in train_rows]
    fit = partial(fitted_predictions, features=features, prices=prices)
    found = list(progress(in_processes(fit, jobs, processes), "ch04 peers", total=len(jobs)))
    return dict(zip(peers, np.array(found).reshape(len(peers), len(train_rows), -1), strict=True))


def main() -> None:
    parameters = declared_parameters("ch04_evaluate")
    chapter, seed = parameters.ch04, parameters.seed
    set_up_torch(seed, num_threads=1)
    with np.load(HOUSING) as housing:
        names, features, prices = housing["names"], housing["features"], housing["prices"]
        folds, train_rows, test_rows = housing["folds"], housing["train_rows"], housing["test_rows"]
    shape_parameters = chapter.active.select(
        "target",
        "members",
        "frequencies",
        "frequency_scale",
        "embedding_size",
        "hidden_sizes",
        "activation",
        "process_share",
        "process_groups",
    )
    shape = model_shape(shape_parameters, names, len(prices))
    predictions = predict("runs", chapter.runs, features, shape)
    test = prices[test_rows]
    r2 = [r2_score(test, run[test_rows]) for run in predictions]
    splits = fold_splits(folds)
    cv_r2 = fold_scores(prices, splits, predict("folds", len(splits), features, shape))
    metrics = {
        # The first run, as the book has one; over all runs just below.
        "r2": r2[0],
        "rmse": root_mean_squared_error(test, predictions[0][test_rows]),
        "mae": mean_absolute_error(test, predictions[0][test_rows]),
        "r2_mean": np.mean(r2),
        "r2_std": np.std(r2, ddof=1),
        "cv_r2_mean": cv_r2.mean(),
        "cv_r2_std": cv_r2.std(ddof=1),
    }
    peers = {"gbr": GradientBoostingRegressor(random_state=seed), "rf": RandomForestRegressor(random_state=seed)}
    rows_of_fits = [*(rows for rows, _ in splits), train_rows]
    for name, found in peer_predictions(peers, features, prices, rows_of_fits, chapter.num_threads).items():
        scores = fold_scores(prices, splits, found[:-1])
        metrics[f"peer_{name}_cv_r2"] = scores.mean()
        metrics[f"peer_{name}_cv_r2_std"] = scores.std(ddof=1)
        metrics[f"peer_{name}_r2"] = r2_score(test, found[-1][test_rows])
    metrics = rounded(metrics)
    write_json("metrics/ch04.json", metrics)
    save_arrays(
        PREDICTIONS,
        train=prices[train_rows],
        train_predictions=predictions[0][train_rows],
        test=test,
        test_predictions=predictions[0][test_rows],
    )

    model_file = MODELS / "runs.safetensors"
    # Cross-validation's are of other models, and of all rows.
    named = {name if "cv_" in name else f"test_{name}": value for name, value in metrics.items()}
    tracking.record_results("ch04_evaluate", model_file, metrics=named)


if __name__ == "__main__":
    main()
