"""Draw the figures of chapter 6 (figs. 56, 63, 65, 66).

In: the series, both cells' histories and forecasts, the comparison of noise levels, both models (only to find their
runs in MLflow). Out: metrics/plots/ch06/*.png and their hashes, and the same figures in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch06_plot")  # loads MLflow while this process gets ready

from pathlib import Path

import numpy as np

from stages.ch06_timeseries.generate import SERIES
from stages.common.figures import BLUE, GREY, RED, curve_marker, new_figure, record_figures, save_figure
from stages.common.files import read_history, read_json
from stages.common.params import declared_parameters

PLOTS = Path("metrics/plots/ch06")
CELLS = {"rnn": ("RNN", RED, "-"), "lstm": ("LSTM", BLUE, "--")}
POINTS_SHOWN = 500  # of the series, as in fig. 55


def plot_series(time: np.ndarray, series: np.ndarray, noise_level: float, path: Path) -> None:
    """Fig. 56: the start of the training series, arrays of shape (length,), with the sine under the noise."""
    figure, axes = new_figure(width=8, height=3.2)
    axes.plot(time[:POINTS_SHOWN], series[:POINTS_SHOWN], color=BLUE, linewidth=1, label="training series")
    axes.plot(time[:POINTS_SHOWN], np.sin(time[:POINTS_SHOWN]), color=GREY, linestyle="--", linewidth=1, label="sin(t)")
    shown = min(POINTS_SHOWN, len(series))
    axes.set(title=f"Training series, {shown} of {len(series)} points, noise level {noise_level}", xlabel="t")
    axes.set_ylabel("value")
    figure.legend(loc="outside lower center", ncols=2)
    save_figure(figure, path)


def plot_losses(histories: dict[str, list[float]], floor: float, path: Path) -> None:
    """Fig. 63: training loss by epoch for each cell, with the noise variance.

    On average no forecast of new values goes below it; a training loss may, by learning the noise by heart.
    """
    figure, axes = new_figure()
    for cell, losses in histories.items():
        label, color, line = CELLS[cell]
        style = {"color": color, "linestyle": line, "marker": curve_marker(len(losses))}
        axes.plot(range(1, len(losses) + 1), losses, label=label, **style)
    if floor > 0:
        axes.axhline(floor, color=GREY, linestyle=":", label="noise variance σ²")
    axes.set(title="Loss while training", xlabel="epoch", ylabel="mean squared error", yscale="log")
    axes.legend()
    save_figure(figure, path)


def r2(targets: np.ndarray, predictions: np.ndarray) -> float:
    return 1 - ((targets - predictions) ** 2).mean() / targets.var()


def plot_scatter(panels: list[tuple[str, np.ndarray, np.ndarray, str]], path: Path) -> None:
    """Figs. 65, 66: predicted against true values; a panel is (title, targets, predictions, colour)."""
    figure, axes = new_figure(columns=len(panels), width=4.2, height=4.2, squeeze=False)
    lowest = min(min(targets.min(), predictions.min()) for _, targets, predictions, _ in panels)
    highest = max(max(targets.max(), predictions.max()) for _, targets, predictions, _ in panels)
    for axis, (title, targets, predictions, color) in zip(axes[0], panels, strict=True):
        axis.scatter(targets, predictions, s=5, alpha=0.4, color=color)
        axis.plot(
            [lowest, highest], [lowest, highest], color=GREY, linestyle="--", linewidth=1, label="predicted = true"
        )
        axis.set(title=title, xlabel="true value", ylabel="predicted value", aspect="equal")
    axes[0, 0].legend(loc="upper left")
    save_figure(figure, path)


def main() -> None:
    parameters = declared_parameters("ch06_plot")
    noise_level = parameters.noise_level
    with np.load(SERIES) as series:
        plot_series(series["time"], series["train"], noise_level, PLOTS / "series.png")
    histories = {cell: read_history(f"metrics/history/ch06/{cell}.csv")["train_loss"] for cell in CELLS}
    plot_losses(histories, noise_level**2, PLOTS / "loss.png")
    panels = []
    for cell, (label, color, _) in CELLS.items():
        metrics = read_json(f"metrics/ch06/{cell}.json")
        title = f"{label}: R² {metrics['r2']:.3f}; the noise allows {metrics['r2_ceiling']:.3f}"
        with np.load(f"data/evaluated/ch06/{cell}.npz") as forecast:
            panels.append((title, forecast["targets"], forecast["predictions"], color))
    plot_scatter(panels, PLOTS / "forecast.png")
    with np.load("data/evaluated/ch06/noise.npz") as compared:
        levels, targets, predictions = compared["noise_levels"], compared["targets"], compared["predictions"]
    panels = []
    for level, *forecast in zip(levels, targets, predictions, strict=True):
        allowed = 1 - level**2 / forecast[0].var()
        panels.append(
            (f"LSTM, noise level {level}: R² {r2(*forecast):.3f}\nthe noise allows {allowed:.3f}", *forecast, BLUE)
        )
    plot_scatter(panels, PLOTS / "noise_levels.png")

    record_figures("ch06_plot", *({"model_file": Path(f"data/models/ch06/{cell}.safetensors")} for cell in CELLS))


if __name__ == "__main__":
    main()
