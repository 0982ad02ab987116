"""Draw the figures of chapter 3 (figs. 25, 26, 29, 30, 35), and the decision regions of exclusive or.

In: data/raw/ch03/patterns.npz, data/evaluated/ch03/{training,figures}.npz, metrics/ch03.json, metrics/history/ch03.csv,
the weights (only to find their run in MLflow). Out: metrics/plots/ch03/*.png and their hashes, and the same
figures and the metrics in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch03_plot")  # loads MLflow while this process gets ready

from pathlib import Path

import numpy as np

from stages.ch03_perceptrons.generate import PATTERNS
from stages.common.figures import BLUE, GREEN, RED, curve_marker, new_figure, record_figures, save_figure
from stages.common.files import read_history, read_json
from stages.common.params import declared_parameters

PLOTS = Path("metrics/plots/ch03")
ACTIVATIONS = ("threshold", "linear", "relu", "sigmoid", "tanh", "softplus")
OPTIMIZERS = {"sgd": ("SGD", RED, "-"), "adam": ("Adam", BLUE, "--"), "adagrad": ("Adagrad", GREEN, "-.")}


def plot_activations(curves: dict[str, np.ndarray], path: Path) -> None:
    """Figs. 25 and 26: the functions, a panel each, with their derivatives by autograd."""
    figure, panels = new_figure(rows=2, columns=3, width=3.6, height=2.8)
    x = curves["activation_x"]
    for axes, name in zip(panels.flat, ACTIVATIONS, strict=True):
        for key, label, color, line in (("", "value", BLUE, "-"), ("_derivative", "derivative", RED, "--")):
            y = curves[f"activation_{name}{key}"]
            # A jump is no line: cut the curve where the function isn't continuous.
            jumps = np.abs(np.diff(y)) >= 0.5
            y = np.where(np.append(jumps, False), np.nan, y)
            axes.plot(x, y, color=color, linestyle=line, label=label)
        axes.set(title=name, xlabel="x", ylabel="f(x), f′(x)", ylim=(-1.2, 2.2))
    panels.flat[0].legend(loc="upper left")
    save_figure(figure, path)


def plot_descent(figures: dict[str, np.ndarray], path_weights: np.ndarray, rate: float, path: Path) -> None:
    """Fig. 29: the path of gradient descent (steps + 1, 2) over the contours of the loss."""
    figure, axes = new_figure(width=6.2, height=5.0)
    lowest = figures["surface"].min()
    levels = lowest + (figures["surface"].max() - lowest) * np.linspace(0.02, 1, 14) ** 2
    contours = axes.contour(
        figures["w1"], figures["w2"], figures["surface"], levels=levels, cmap="viridis", linewidths=1
    )
    figure.colorbar(contours, ax=axes, label="loss E")
    axes.plot(*path_weights.T, "o-", color=RED, markersize=3, linewidth=1, label=f"gradient descent, α = {rate}")
    axes.plot(*figures["minimum"], "*", color="black", markersize=11, label="minimum")
    critical = 2 / figures["curvature"].max()
    axes.set(title=f"Descent on the loss of a neuron (diverges from α = {critical:.2f})", xlabel="w₁", ylabel="w₂")
    axes.legend(loc="lower left")
    save_figure(figure, path)


def plot_widrow_hoff(ways: dict[str, np.ndarray], differences: np.ndarray, loss: str, path: Path) -> None:
    """Fig. 30: the neuron's weights by step from the rule and from autograd, and how far the two are apart."""
    figure, (left, right) = new_figure(columns=2)
    steps = np.arange(1, len(ways["neuron_rule_weight"]) + 1)
    for index, color in enumerate((BLUE, GREEN)):
        rule, autograd = (ways[f"neuron_{way}_weight"][:, 0, index] for way in ("rule", "autograd"))
        left.plot(steps, rule, color=color, linewidth=4, alpha=0.4, label=f"w{'₁₂'[index]}, Widrow–Hoff")
        left.plot(steps, autograd, color=color, linewidth=1, linestyle="--", label=f"w{'₁₂'[index]}, autograd")
    left.set(title="Weights of a neuron", xlabel="step (one pattern each)", ylabel="weight")
    left.legend()
    apart = differences > 0
    right.plot(np.flatnonzero(apart) + 1, differences[apart], ".", color=RED, markersize=3)
    name = {"half": "½ Σ (D − Y)²", "sum": "Σ (D − Y)²"}[loss]
    right.set(
        title=f"Rule against autograd on {name}",
        xlabel="step",
        ylabel="largest difference of a weight or bias, if any",
        yscale="log",
    )
    save_figure(figure, path)


def plot_xor(figures: dict[str, np.ndarray], inputs: np.ndarray, targets: np.ndarray, titles: list[str], path: Path):
    """Decision regions of one layer and of two, with the four points: inputs (4, 2), targets (4, 1).

    Beside the one layer as trained, the line that is right on as many points as a line can be.
    """
    figure, panels = new_figure(columns=2, width=4.6, height=4.0)
    for axes, name, title in zip(panels, ("xor_one", "xor_two"), titles, strict=True):
        image = axes.imshow(
            figures[name], origin="lower", extent=(-0.5, 1.5, -0.5, 1.5), vmin=0, vmax=1, cmap="RdBu", alpha=0.7
        )
        if figures[name].min() < 0.5 < figures[name].max():
            side = np.linspace(-0.5, 1.5, len(figures[name]))
            axes.contour(side, side, figures[name], levels=[0.5], colors="black", linewidths=1)
        for point, target in zip(inputs, targets[:, 0], strict=True):
            axes.plot(*point, "o", markersize=11, markeredgecolor="black", color=BLUE if target else RED)
            axes.annotate(f"{target:.0f}", point, ha="center", va="center", color="white", fontsize=8)
        axes.set(title=title, xlabel="x₁", ylabel="x₂")
        axes.grid(False)
    side = np.array([-0.5, 1.5])
    first, second, bias = figures["xor_line"]
    along = (side, -(first * side + bias) / second) if second else (np.full(2, -bias / first), side)
    panels[0].plot(*along, color="black", linestyle="--", linewidth=1, label="a best line")
    panels[0].set(xlim=side, ylim=side)
    panels[0].legend(loc="upper right")
    figure.colorbar(image, ax=panels, label="output of the network")
    save_figure(figure, path)


def plot_optimizers(history: dict[str, list[float]], rates: dict[str, float], path: Path) -> None:
    """Fig. 35: the loss by step for three optimizers."""
    figure, axes = new_figure()
    for name, losses in history.items():
        label, color, line = OPTIMIZERS[name]
        style = {"color": color, "linestyle": line, "marker": curve_marker(len(losses))}
        axes.plot(range(1, len(losses) + 1), losses, label=f"{label}, rate {rates[name]:g}", **style)
    axes.set(title="Training of fig. 35", xlabel="step", ylabel="loss: sum of squared errors", yscale="log")
    axes.legend()
    save_figure(figure, path)


def main() -> None:
    parameters = declared_parameters("ch03_plot")
    recipe = parameters.ch03.active
    with (
        np.load(PATTERNS) as patterns,
        np.load("data/evaluated/ch03/training.npz") as training,
        np.load("data/evaluated/ch03/figures.npz") as loaded,
    ):
        xor, ways, figures = (patterns["xor_inputs"], patterns["xor_targets"]), dict(training), dict(loaded)
    metrics = read_json("metrics/ch03.json")
    plot_activations(figures, PLOTS / "activations.png")
    plot_descent(figures, ways["descent"], recipe.neuron_rate, PLOTS / "descent.png")
    plot_widrow_hoff(ways, figures["neuron_difference"], recipe.layer_loss, PLOTS / "widrow_hoff.png")
    from_half = metrics["xor_one_layer_from_half"]
    learnt = "½ everywhere" if from_half < 0.05 else f"½ to within {from_half:.1g}"
    titles = [
        f"One layer learns {learnt}; a line gets {4 * metrics['xor_best_line']:.0f} of 4",
        f"Two layers: all 4 in {100 * metrics['xor_two_layers_solved']:.0f} % of runs; one of them",
    ]
    plot_xor(figures, *xor, titles, PLOTS / "xor.png")
    rates = {"sgd": recipe.sgd_rate, "adam": recipe.adam_rate, "adagrad": recipe.adagrad_rate}
    plot_optimizers(read_history("metrics/history/ch03.csv"), rates, PLOTS / "optimizers.png")

    result = {
        "model_file": Path("data/models/ch03/networks.safetensors"),
        "metrics": {name: value for name, value in metrics.items() if value is not None},
        "parameters": recipe.select("activation_points", "softmax_dim"),
    }
    record_figures("ch03_plot", result)


if __name__ == "__main__":
    main()
