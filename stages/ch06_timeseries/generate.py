"""Generate the two series of chapter 6: a sine with noise, once to train on and once to test on (figs. 54, 55).

In: parameters only. Out: data/raw/ch06/series.npz with `time`, that of `train`, and `train` and `test`, each of shape
(length,).
"""

import numpy as np

from stages.common.arrays import save_arrays
from stages.common.params import declared_parameters

SERIES = "data/raw/ch06/series.npz"


def noisy_sine(
    length: int, duration: float, noise_level: float, test_times: str, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (time, train, test), each of shape (length,): sin(t) + noise_level·N(0, 1), noise drawn independently.

    The book's text draws both from N(0, 1); its repository draws the test noise uniformly, and so from another
    distribution than the network was trained for.

    Args:
        test_times: "later", the test series goes on where the training series ends, as a forecast's future does; or
            "same", it has the same times, as the book's, and so without noise the same values.
    """
    time = np.linspace(0, duration, length)
    later = time + duration * length / (length - 1) if test_times == "later" else time
    noise = np.random.default_rng(seed).standard_normal((2, length))
    train, test = (np.sin([time, later]) + noise_level * noise).astype(np.float32)
    return time, train, test


def main() -> None:
    parameters = declared_parameters("ch06_generate")
    recipe = parameters.ch06.active
    shape = recipe.select("length", "duration", "test_times")
    time, train, test = noisy_sine(noise_level=parameters.noise_level, seed=parameters.seed, **shape)
    save_arrays(SERIES, time=time, train=train, test=test)


if __name__ == "__main__":
    main()
