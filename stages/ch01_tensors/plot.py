"""Draw the figures of chapter 1 that don't depend on the clock: fig. 3, and the rounding errors of the products.

In: data/evaluated/ch01/arrays.npz, metrics/ch01.json. Out: metrics/plots/ch01/{tensors,rounding}.png and their hashes,
and the same figures and the metrics in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch01_plot")  # loads MLflow while this process gets ready

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from stages.common.figures import BLUE, GREEN, RED, new_figure, record_figures, save_figure
from stages.common.files import read_json
from stages.common.params import declared_parameters

ARRAYS = Path("data/evaluated/ch01/arrays.npz")
PLOTS = Path("metrics/plots/ch01")
LABELS = {  # label, colour, size of the marks: small ones above large ones, so that equal values all show
    "loops": ("two loops", RED, 9),
    "rows": ("loop over rows", GREEN, 7),
    "mm": ("torch.mm", BLUE, 4),
}


def draw_matrix(axes: Axes, values: np.ndarray, behind: int) -> None:
    """Draw `values` (rows, columns) as squares with numbers; of several matrices that with `behind` 0 is in front."""
    shift = 0.62 * behind  # to the right and up, in squares
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            corner = (column + shift, len(values) - 1 - row + shift)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor="#e3eef8", edgecolor=BLUE, zorder=-behind))
            place = (corner[0] + 0.8, corner[1] + 0.8)
            axes.text(*place, str(value), ha="center", va="center", fontsize=9, zorder=-behind)


def plot_tensors(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Fig. 3: tensors of one, two and three dimensions; the last as matrices one behind the other."""
    figure, panels = new_figure(columns=len(arrays), width=3.2, height=3.0)
    for axes, (name, array) in zip(panels, arrays.items(), strict=True):
        layers = array.reshape(-1, *array.shape[-2:]) if array.ndim > 1 else array[None, None]
        for behind in range(len(layers) - 1, -1, -1):  # the first matrix in front
            draw_matrix(axes, layers[behind], behind)
        axes.set(title=f"{name}, shape {tuple(int(size) for size in array.shape)}", aspect="equal")
        axes.autoscale_view()
        axes.axis("off")
    save_figure(figure, path)


def plot_rounding(sizes: np.ndarray, errors: dict[str, np.ndarray], path: Path) -> None:
    """Relative rounding error of a float32 product by method; sizes (sizes,), each of `errors` (sizes,)."""
    figure, axes = new_figure()
    for name, values in errors.items():
        label, color, size = LABELS[name]
        axes.plot(sizes, values, "o-", color=color, markersize=size, linewidth=size / 3, label=label)
    axes.set(
        title="Rounding error of a product in float32",
        xlabel="size of the matrices",
        ylabel="relative error (root mean square)",
        xscale="log",
        yscale="log" if any(values.any() for values in errors.values()) else "linear",
    )
    axes.set_xticks(sizes, sizes)
    axes.tick_params(axis="x", which="minor", bottom=False)
    axes.legend()
    save_figure(figure, path)


def main() -> None:
    parameters = declared_parameters("ch01_plot")
    instructions, matrices = parameters.instructions, parameters.ch01.active.matrices
    with np.load(ARRAYS) as loaded:
        arrays = dict(loaded)
    plot_tensors({name: arrays[name] for name in ("vector", "matrix", "cube")}, PLOTS / "tensors.png")
    plot_rounding(arrays["sizes"], {name: arrays[name] for name in LABELS}, PLOTS / "rounding.png")

    result = {
        "model_file": ARRAYS,
        "metrics": read_json("metrics/ch01.json"),
        "parameters": {"instructions": instructions, "recipe": parameters.ch01.recipe, "matrices": matrices},
    }
    record_figures("ch01_plot", result)


if __name__ == "__main__":
    main()
