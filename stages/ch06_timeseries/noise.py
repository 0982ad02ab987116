"""Train the LSTM of chapter 6 afresh at several noise levels, to set their forecasts side by side (fig. 66).

In: parameters only. Out: data/evaluated/ch06/noise.npz with `noise_levels` (levels,), `targets` and `predictions`
(levels, windows). These networks are for the figure alone and leave no run in MLflow.
"""

import numpy as np
import torch

from stages.ch06_timeseries.evaluate import predict
from stages.ch06_timeseries.generate import noisy_sine
from stages.ch06_timeseries.model import Forecaster
from stages.ch06_timeseries.preprocess import sliding_windows, training_windows
from stages.ch06_timeseries.train import train
from stages.common.arrays import save_arrays
from stages.common.devices import set_up_torch
from stages.common.params import declared_parameters

COMPARISON = "data/evaluated/ch06/noise.npz"


def windows_at(noise_level: float, seed: int, series: dict, windows: dict) -> tuple[np.ndarray, ...]:
    """Return inputs and targets to train on, and inputs (windows, window) and targets (windows,) to test on.

    `series` and `windows` are for `noisy_sine` and `training_windows`.
    """
    _, train_series, test_series = noisy_sine(noise_level=noise_level, seed=seed, **series)
    test_inputs, test_targets = sliding_windows(test_series, windows["window"], windows["steps_ahead"], loss_steps=1)
    return *training_windows(train_series, **windows), test_inputs, test_targets[:, 0]


def forecast_at(
    noise_level: float, seed: int, series: dict, windows: dict, shape: dict, training: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Carry out the chapter at one noise level; return the test windows' targets and predictions, (windows,) each.

    `series` and `windows` are for `windows_at`, `shape` and `training` for `Forecaster` and `train`.
    """
    inputs, targets, test_inputs, test_targets = windows_at(noise_level, seed, series, windows)
    torch.manual_seed(seed)
    model = Forecaster(**shape)
    train(model, torch.from_numpy(inputs), torch.from_numpy(targets), **training, label=f"ch06 at noise {noise_level}")
    return test_targets, predict(model, test_inputs)


def main() -> None:
    parameters = declared_parameters("ch06_noise")
    recipe, levels = parameters.ch06.active, parameters.ch06.compared_noise_levels
    set_up_torch(parameters.seed, parameters.ch06.num_threads)
    forecasts = [
        forecast_at(
            level,
            parameters.seed,
            series=recipe.select("length", "duration", "test_times"),
            windows=recipe.select("window", "steps_ahead", "loss_steps", "windows"),
            shape={"cell": "lstm", **recipe.select("hidden_size", "num_layers")},
            training=recipe.select("epochs", "batch_size", "learning_rate", "schedule", "gradient_clip"),
        )
        for level in levels
    ]
    targets, predictions = map(np.stack, zip(*forecasts, strict=True))
    save_arrays(COMPARISON, noise_levels=levels, targets=targets, predictions=predictions)


if __name__ == "__main__":
    main()
