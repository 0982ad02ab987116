"""Measure a trained network of chapter 6 on every window of the test series (fig. 65).

In: data/prepared/ch06/windows.npz, data/models/ch06/<cell>.safetensors. Out: metrics/ch06/<cell>.json, and
data/evaluated/ch06/<cell>.npz with `targets` and `predictions` (windows,). Run as
`python -m stages.ch06_timeseries.evaluate rnn`.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch06_evaluate")  # loads MLflow while this process gets ready

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from stages.ch06_timeseries.model import Forecaster
from stages.ch06_timeseries.preprocess import WINDOWS, book_window_count
from stages.ch06_timeseries.train import model_path
from stages.common.arrays import save_arrays
from stages.common.devices import set_up_torch
from stages.common.files import rounded, write_json
from stages.common.params import declared_parameters, variant_of

PENALTIES = np.logspace(-3, 3, 13)  # of the linear forecast
WINDOWS_PER_FORWARD = 10_000  # of which the network's states fit into memory


def ceiling_of(targets: np.ndarray, noise_level: float) -> float:
    """Return 1 − σ²/Var(targets); without noise 1, also of targets that float32 makes all alike."""
    return 1 - noise_level**2 / max(targets.var(), np.finfo(np.float64).tiny)


def linear_forecast(train_inputs: np.ndarray, train_targets: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Return what ridge regression forecasts (windows,), the peer of both cells.

    It is fitted to train_inputs (trained, window) and train_targets (trained,), its penalty chosen by leaving out each
    of these windows in turn.
    """
    return RidgeCV(PENALTIES).fit(train_inputs.astype(np.float64), train_targets).predict(inputs)


def measure(
    inputs: np.ndarray,
    targets: np.ndarray,
    predictions: np.ndarray,
    linear: np.ndarray,
    noise_level: float,
    book_windows: int,
) -> dict[str, float]:
    """Return the metrics of a forecast.

    Args:
        inputs: shape (windows, window).
        targets, predictions, linear: shape (windows,); `linear` is another forecast, of `linear_forecast`.
        noise_level: standard deviation σ of the noise.
        book_windows: how many of the first windows the book's program looks at.

    Returns:
        r2, rmse: over all windows.
        r2_ceiling: 1 − σ²/Var(targets): on average nobody does better, since the noise itself can't be predicted.
        r2_gap: r2_ceiling − r2.
        linear_r2: of the linear forecast, what a network has to be compared with.
        persistence_r2: of the forecast "as the last value seen", a floor.
        r2_book_windows: over the first windows only, as many as the book's program looks at.
        r2_book_windows_ceiling: the same as r2_ceiling for these, whose targets may vary less. Of 20 windows it is
            rough, since their noise may be less than σ by chance: forecasts may exceed it.
    """
    r2 = r2_score(targets, predictions)
    ceiling = ceiling_of(targets, noise_level)
    first = targets[:book_windows]
    return rounded(
        {
            "r2": r2,
            "rmse": np.sqrt(np.mean((targets - predictions) ** 2)),
            "r2_ceiling": ceiling,
            "r2_gap": ceiling - r2,
            "linear_r2": r2_score(targets, linear),
            "persistence_r2": r2_score(targets, inputs[:, -1]),
            "r2_book_windows": r2_score(first, predictions[:book_windows]),
            "r2_book_windows_ceiling": ceiling_of(first, noise_level),
        }
    )


@torch.no_grad()
def predict(model: Forecaster, inputs: np.ndarray) -> np.ndarray:
    """Return predictions (windows,) for inputs (windows, window)."""
    model.eval()
    return torch.cat([model(part) for part in torch.from_numpy(inputs).split(WINDOWS_PER_FORWARD)]).numpy()


def main() -> None:
    cell = variant_of("ch06_evaluate")
    parameters = declared_parameters("ch06_evaluate")
    recipe = parameters.ch06.active
    set_up_torch(parameters.seed, parameters.ch06.num_threads)
    with np.load(WINDOWS) as windows:
        inputs, targets = windows["test_inputs"], windows["test_targets"]
        # The networks' targets are of several positions; the last of them is the forecast.
        linear = linear_forecast(windows["train_inputs"], windows["train_targets"][:, -1], inputs)
    model = Forecaster(cell, **recipe.select("hidden_size", "num_layers"))
    model.load_state_dict(load_file(model_path(cell)))
    predictions = predict(model, inputs)
    book_windows = book_window_count(recipe.length, recipe.window)
    metrics = measure(inputs, targets, predictions, linear, parameters.noise_level, book_windows)
    write_json(f"metrics/ch06/{cell}.json", metrics)
    save_arrays(f"data/evaluated/ch06/{cell}.npz", targets=targets, predictions=predictions)

    tracking.record_results(
        "ch06_evaluate",
        model_path(cell),
        metrics={f"test_{name}": value for name, value in metrics.items()},
        # The same windows, and so the same model, may come of other series.
        parameters={"noise_level": parameters.noise_level, **recipe.select("window", "length")},
    )


if __name__ == "__main__":
    main()
