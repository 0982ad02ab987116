"""Draw the figures of chapter 4 (figs. 38, 42, 45).

In: the raw table, the loss history, the first run's predictions, the metrics, the model (only to find its run in
MLflow). Out: metrics/plots/ch04/*.png and their hashes, and the same figures in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch04_plot")  # loads MLflow while this process gets ready

from pathlib import Path

import numpy as np
import pandas as pd

from stages.common.figures import BLUE, GREY, RED, curve_marker, new_figure, record_figures, save_figure
from stages.common.files import read_history, read_json
from stages.common.params import declared_parameters

PLOTS = Path("metrics/plots/ch04")


def plot_rooms(table: pd.DataFrame, path: Path) -> None:
    """Fig. 38: price against the number of rooms; `table` has the columns RM and MEDV."""
    figure, axes = new_figure()
    axes.scatter(table["RM"], table["MEDV"], s=10, color=BLUE, alpha=0.6)
    axes.set(title="Price and number of rooms", xlabel="RM: rooms in a home, mean of the district")
    axes.set_ylabel("MEDV: median price, 1,000 dollars")
    save_figure(figure, path)


def plot_loss(losses: list[float], target: str, path: Path) -> None:
    """Fig. 42: the training loss by epoch, in the unit of `target`, what the network learns."""
    figure, axes = new_figure()
    axes.plot(range(1, len(losses) + 1), losses, color=BLUE, marker=curve_marker(len(losses)))
    of_what = {"log": "of the standardised log price", "raw": "of the price, (1,000 dollars)²"}[target]
    axes.set(title="Loss while training, first run", xlabel="epoch", yscale="log")
    axes.set_ylabel(f"mean squared error {of_what}")
    save_figure(figure, path)


def plot_predictions(pairs: dict[str, tuple[np.ndarray, np.ndarray]], r2: float, path: Path) -> None:
    """Fig. 45: predicted against true prices; `pairs` maps "train" and "test" to (true, predicted)."""
    figure, axes = new_figure(width=5, height=5)
    for (name, (true, predicted)), color in zip(pairs.items(), (RED, BLUE), strict=True):
        axes.scatter(true, predicted, s=12, alpha=0.6, color=color, label=f"{name} ({len(true)} rows)")
    values = np.concatenate([values for pair in pairs.values() for values in pair])
    limits = [min(0, values.min() * 1.04), values.max() * 1.04]
    axes.plot(limits, limits, color=GREY, linestyle="--", linewidth=1, label="predicted = true")
    axes.set(title=f"First run: R² {r2:.3f} on the test rows", xlim=limits, ylim=limits, aspect="equal")
    axes.set(xlabel="true price, 1,000 dollars", ylabel="predicted price, 1,000 dollars")
    axes.legend()
    save_figure(figure, path)


def main() -> None:
    target = declared_parameters("ch04_plot").ch04.active.target
    table = pd.read_csv("data/raw/ch04/boston_house_prices.csv", skiprows=1)
    plot_rooms(table, PLOTS / "rooms_and_price.png")
    plot_loss(read_history("metrics/history/ch04.csv")["train_loss"], target, PLOTS / "loss.png")
    with np.load("data/evaluated/ch04/predictions.npz") as arrays:
        pairs = {name: (arrays[name], arrays[f"{name}_predictions"]) for name in ("train", "test")}
    plot_predictions(pairs, read_json("metrics/ch04.json")["r2"], PLOTS / "predictions.png")

    record_figures("ch04_plot", {"model_file": Path("data/models/ch04/runs.safetensors")})


if __name__ == "__main__":
    main()
