"""Write the points of chapter 2's regression: a line through the origin, without noise (fig. 18).

In: parameters only. Out: data/raw/ch02/line.npz with `inputs` and `targets`, each of shape (points,).
"""

import numpy as np

from stages.common.arrays import save_arrays
from stages.common.params import declared_parameters

LINE = "data/raw/ch02/line.npz"


def line(points: int, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 inputs 1, 2, …, `points` and targets slope·input, each of shape (points,)."""
    inputs = np.arange(1, points + 1, dtype=np.float32)
    return inputs, np.float32(slope) * inputs


def main() -> None:
    recipe = declared_parameters("ch02_generate").ch02.active
    inputs, targets = line(**recipe.select("points", "slope"))
    save_arrays(LINE, inputs=inputs, targets=targets)


if __name__ == "__main__":
    main()
