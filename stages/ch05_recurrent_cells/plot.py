"""Draw the figures of chapter 5: what the cells recall by length, how far their gradients reach (fig. 49), and losses.

In: metrics/ch05/<cell>.json, metrics/history/ch05/<cell>.csv, data/evaluated/ch05/gradients.npz, the weights (only to
find their runs in MLflow). Out: metrics/plots/ch05/*.png and their hashes, and the same figures and the
metrics in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch05_plot")  # loads MLflow while this process gets ready

from pathlib import Path

import numpy as np

from stages.common.figures import BLUE, GREEN, GREY, RED, curve_marker, new_figure, record_figures, save_figure
from stages.common.files import read_history, read_json
from stages.common.params import declared_parameters

PLOTS = Path("metrics/plots/ch05")
CELLS = {"rnn": ("RNN", RED, "-"), "lstm": ("LSTM", BLUE, "--"), "gru": ("GRU", GREEN, "-.")}


def plot_recall(metrics: dict[str, dict], lengths: list[int], symbols: int, path: Path) -> None:
    """The share of test sequences whose first symbol is recalled, by how many steps back it lies."""
    figure, axes = new_figure()
    for (cell, (label, color, _)), marker, size in zip(CELLS.items(), "osD", (9, 6, 3), strict=True):
        shares = [metrics[cell][f"accuracy_{length}"] for length in lengths]
        axes.plot(lengths, shares, marker=marker, markersize=size, color=color, label=label)
    axes.axhline(1 / symbols, color=GREY, linestyle="--", label="by chance")
    axes.set(
        title="Recall of the first symbol, mean of all runs",
        xlabel="steps between the symbol and its recall",
        ylabel="share recalled",
        ylim=(0, 1.05),
    )
    axes.legend()
    save_figure(figure, path)


def plot_gradients(norms: dict[str, np.ndarray], path: Path) -> None:
    """Fig. 49 measured: the gradient's norm by distance in steps, (runs, time), before and after training."""
    figure, panels = new_figure(columns=2, sharey=True)
    for axes, kind in zip(panels, ("untrained", "trained"), strict=True):
        for cell, (label, color, line) in CELLS.items():
            for run, values in enumerate(norms[f"{cell}_{kind}"]):
                style = {"color": color, "linestyle": line, "linewidth": 1.2, "alpha": 0.8}
                axes.plot(values, label=None if run else label, **style)
        axes.set(title=f"{kind} networks, each run", xlabel="distance T − t in steps", yscale="log")
    panels[0].set_ylabel("norm of ∂loss(T) / ∂input(t)")
    panels[0].legend()
    save_figure(figure, path)


def plot_losses(histories: dict[str, dict[str, list[float]]], lengths: list[int], path: Path) -> None:
    """Loss by training step for each length, a panel for each cell."""
    figure, panels = new_figure(columns=len(CELLS), width=4.0, height=3.4, sharey=True)
    for axes, (cell, (label, color, _)) in zip(panels, CELLS.items(), strict=True):
        for index, length in enumerate(lengths):
            losses = histories[cell][f"length_{length}"]
            shade = 0.3 + 0.7 * (index + 1) / len(lengths)
            style = {"color": color, "alpha": shade, "marker": curve_marker(len(losses))}
            axes.plot(range(1, len(losses) + 1), losses, label=f"{length} steps back", **style)
        axes.set(title=label, xlabel="training step", yscale="log")
        axes.legend(loc="lower left", fontsize=8)
    panels[0].set_ylabel("cross-entropy, mean of all runs")
    save_figure(figure, path)


def main() -> None:
    recipe = declared_parameters("ch05_plot").ch05.active
    lengths = recipe.lengths
    metrics = {cell: read_json(f"metrics/ch05/{cell}.json") for cell in CELLS}
    plot_recall(metrics, lengths, recipe.symbols, PLOTS / "recall.png")
    with np.load("data/evaluated/ch05/gradients.npz") as norms:
        plot_gradients(dict(norms), PLOTS / "gradients.png")
    plot_losses({cell: read_history(f"metrics/history/ch05/{cell}.csv") for cell in CELLS}, lengths, PLOTS / "loss.png")

    models = {cell: Path(f"data/models/ch05/{cell}.safetensors") for cell in CELLS}
    record_figures("ch05_plot", *({"model_file": models[cell], "metrics": metrics[cell]} for cell in CELLS))


if __name__ == "__main__":
    main()
