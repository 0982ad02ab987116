"""Draw the figures of chapter 2: the graph of fig. 9, and the descents with the tables of figs. 20 and 23.

In: data/evaluated/ch02/{graph.json,descent.npz}, metrics/ch02.json, the weights (only to find their run in MLflow).
Out: metrics/plots/ch02/*.png and their hashes, and the same figures and the metrics in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch02_plot")  # loads MLflow while this process gets ready

from collections import defaultdict
from pathlib import Path

import numpy as np

from stages.ch02_autograd.book_tables import FIG_20, FIG_23
from stages.common.figures import BLUE, GREEN, GREY, RED, new_figure, record_figures, save_figure
from stages.common.files import read_json
from stages.common.params import declared_parameters

PLOTS = Path("metrics/plots/ch02")
WAYS = {  # label, colour, line: the wider ones below, so that equal curves all show
    "numpy": ("NumPy, formula", RED, {"linewidth": 7, "alpha": 0.3}),
    "autograd": ("autograd", BLUE, {"linewidth": 3, "alpha": 0.6}),
    "func": ("torch.func.grad", GREEN, {"linewidth": 1.2, "linestyle": "--"}),
}


def plot_descents(runs: dict[str, np.ndarray], gradient: str, path: Path) -> None:
    """Weight and loss by iteration for the three ways; `runs` has `<way>_weight` and `<way>_loss`, (iterations,)."""
    figure, (left, right) = new_figure(columns=2)
    for way, (label, color, line) in WAYS.items():
        weights, losses = runs[f"{way}_weight"], runs[f"{way}_loss"]
        iterations = np.arange(1, len(weights) + 1)
        left.plot(iterations, weights, color=color, label=label, **line)
        shown = losses > 0
        right.plot(iterations[shown], losses[shown], color=color, label=label, **line)
    for table, marker, label in ((FIG_20, "s", "printed in fig. 20 (NumPy)"), (FIG_23, "o", "printed in fig. 23")):
        style = {"marker": marker, "s": 28, "facecolors": "none", "edgecolors": "black", "zorder": 5}
        left.scatter(list(table), [float(weight) for weight, _ in table.values()], label=label, **style)
        above = {iteration: float(loss) for iteration, (_, loss) in table.items() if float(loss) > 0}
        right.scatter(list(above), list(above.values()), label=label, **style)
    left.set(title=f"Weight (NumPy's gradient: the {gradient})", xlabel="iteration", ylabel="w after the iteration")
    right.set(
        title="Loss, while above zero as printed or computed",
        xlabel="iteration",
        ylabel="mean squared error",
        yscale="log",
    )
    left.legend(loc="lower right")
    save_figure(figure, path)


def place_nodes(graph: dict[str, list]) -> list[tuple[float, float]]:
    """Return a place (x, y) for each node: the result on the right, a column for each depth."""
    columns = defaultdict(list)
    for index, node in enumerate(graph["nodes"]):
        columns[node["depth"]].append(index)
    places: dict[int, tuple[float, float]] = {}
    for depth, members in sorted(columns.items()):
        for row, index in enumerate(members):
            places[index] = (-2.3 * depth, (len(members) - 1) / 2 - row)
    return [places[index] for index in range(len(graph["nodes"]))]


def plot_graph(graph: dict[str, list], path: Path) -> None:
    """Fig. 9 as autograd recorded it: every node an operation, arrows in the direction of the backward pass."""
    figure, axes = new_figure(width=9.5, height=4.6)
    places = place_nodes(graph)
    for start, end in graph["edges"]:
        (x0, y0), (x1, y1) = places[start], places[end]
        axes.plot([x0, x1], [y0, y1], color=GREY, linewidth=1)
        # The head stands in the middle of its line, where no box covers it.
        tip = {"xytext": (x0, y0), "xy": (0.45 * x0 + 0.55 * x1, 0.45 * y0 + 0.55 * y1)}
        axes.annotate("", **tip, arrowprops={"arrowstyle": "-|>", "color": GREY, "linewidth": 1})
    for node, place in zip(graph["nodes"], places, strict=True):
        leaf = node["operation"] == "AccumulateGrad"
        text = [node["operation"]]
        if node["name"]:
            text.insert(0, f"{node['name']} = {node['value']:g}")
            text.append(f"∂L/∂{node['name']} = {node['gradient']:g}")
        box = {"boxstyle": "round", "facecolor": "#e7f3ec" if leaf else "#e3eef8", "edgecolor": GREEN if leaf else BLUE}
        axes.text(*place, "\n".join(text), ha="center", va="center", fontsize=8, bbox=box, zorder=3)
    xs, ys = zip(*places, strict=True)
    axes.set(xlim=(min(xs) - 1.2, max(xs) + 1.2), ylim=(min(ys) - 0.6, max(ys) + 0.6))
    axes.set_title("The graph of fig. 9 as autograd recorded it: from the result L (right) back to the leaves")
    axes.axis("off")
    save_figure(figure, path)


def main() -> None:
    recipe = declared_parameters("ch02_plot").ch02.active
    with np.load("data/evaluated/ch02/descent.npz") as descent:
        plot_descents(dict(descent), recipe.gradient, PLOTS / "descent.png")
    plot_graph(read_json("data/evaluated/ch02/graph.json"), PLOTS / "graph.png")

    result = {
        "model_file": Path("data/models/ch02/weights.safetensors"),
        "metrics": read_json("metrics/ch02.json"),
        "parameters": recipe.select("difference_step"),
    }
    record_figures("ch02_plot", result)


if __name__ == "__main__":
    main()
