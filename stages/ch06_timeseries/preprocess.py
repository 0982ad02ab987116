"""Cut the series of chapter 6 into windows and the values to predict from them (figs. 57, 58).

In: data/raw/ch06/series.npz. Out: data/prepared/ch06/windows.npz with `train_inputs` (windows, window) and
`train_targets` (windows, loss_steps) to train on, and every window of the test series as `test_inputs`, `test_targets`.

    series        s0 s1 s2 s3 s4 s5 …           window = 4, steps_ahead = 1, loss_steps = 2
    inputs[0]     s0 s1 s2 s3
    targets[0]          s3 s4                   the last column is the forecast itself: the value after the window
"""

import numpy as np

from stages.ch06_timeseries.generate import SERIES
from stages.common.arrays import save_arrays
from stages.common.params import declared_parameters

WINDOWS = "data/prepared/ch06/windows.npz"


def sliding_windows(
    series: np.ndarray, window: int, steps_ahead: int, loss_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return every window of a series and what follows it.

    Args:
        series: shape (length,).
        window: number of values that the network sees.
        steps_ahead: how far behind the window's last value the target lies; 1 is the next value.
        loss_steps: for how many of the window's last positions a target is given.

    Returns:
        inputs (length − window − steps_ahead + 1, window) and targets (the same, loss_steps).
    """
    spans = np.lib.stride_tricks.sliding_window_view(series, window + steps_ahead)  # (windows, window + steps_ahead)
    return spans[:, :window].copy(), spans[:, -loss_steps:].copy()


def book_window_count(length: int, window: int) -> int:
    """Return length/window, the number that fig. 57 gives as its length: 20 windows of the
    1,899 (of 1,900 where the target is the next value)."""
    return length // window


def training_windows(
    series: np.ndarray, window: int, steps_ahead: int, loss_steps: int, windows: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `sliding_windows` to train on: "all" of them, or those that the "book" takes."""
    inputs, targets = sliding_windows(series, window, steps_ahead, loss_steps)
    count = book_window_count(len(series), window) if windows == "book" else len(inputs)
    return inputs[:count], targets[:count]


def main() -> None:
    parameters = declared_parameters("ch06_preprocess")
    recipe = parameters.ch06.active
    with np.load(SERIES) as series:
        train, test = series["train"], series["test"]
    inputs, targets = training_windows(train, **recipe.select("window", "steps_ahead", "loss_steps", "windows"))
    test_inputs, test_targets = sliding_windows(test, recipe.window, recipe.steps_ahead, loss_steps=1)
    save_arrays(
        WINDOWS, train_inputs=inputs, train_targets=targets, test_inputs=test_inputs, test_targets=test_targets[:, 0]
    )


if __name__ == "__main__":
    main()
