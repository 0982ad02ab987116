"""Draw the two series of chapter 6: a sine with noise, once to train on and once to test on (figs. 54, 55).

In: parameters only. Out: data/raw/ch06/series.npz with `time`, `train` and `test`, each of shape (length,).
"""

import numpy as np

from stages.common.arrays import save_arrays
from stages.common.params import declared_parameters

SERIES = "data/raw/ch06/series.npz"


def noisy_sine(
    length: int, duration: float, noise_level: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (time, train, test), each of shape (length,): sin(t) + noise_level·N(0, 1), noise drawn independently.

    The book's text draws both from N(0, 1); its repository draws the test noise uniformly, and so from another
    distribution than the network was trained for.
    """
    time = np.linspace(0, duration, length)
    noise = np.random.default_rng(seed).standard_normal((2, length))
    train, test = (np.sin(time) + noise_level * noise).astype(np.float32)
    return time, train, test


def main() -> None:
    parameters = declared_parameters("ch06_generate")
    recipe = parameters.ch06.active
    time, train, test = noisy_sine(recipe.length, recipe.duration, parameters.noise_level, parameters.seed)
    save_arrays(SERIES, time=time, train=train, test=test)


if __name__ == "__main__":
    main()
