"""Draw the figures of chapter 8 (figs. 78, 81, 82), and what its networks learned.

In: data/prepared/ch08/graph.npz, data/evaluated/ch08/results.npz, metrics/ch08/<layer>.json, metrics/history/ch08/, the
weights (only to find their runs in MLflow). Out: metrics/plots/ch08/*.png and their hashes, and the same
figures and the metrics in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch08_plot")  # loads MLflow while this process gets ready

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from stages.ch08_graphs.preprocess import GRAPH, SUBJECTS
from stages.common.figures import BLUE, COLORS, GREEN, GREY, RED, curve_marker, new_figure, record_figures, save_figure
from stages.common.files import read_history, read_json
from stages.common.params import declared_parameters

PLOTS = Path("metrics/plots/ch08")
TRAINED = ("mlp", "dense", "gcn", "sage", "gat", "gin", "cheb", "best")
LABELS = {
    "mlp": "MLP (no graph)",
    "label_propagation": "label propagation",
    "dense": "dense, {}",
    "gcn": "GCN",
    "sage": "GraphSAGE",
    "gat": "GAT",
    "gin": "GIN",
    "cheb": "ChebNet",
    "best": "APPNP + agreement",
}
CLASS_COLORS, CLASS_MARKERS = COLORS[: len(SUBJECTS)], "osD^vPX"
# How texts stand on lines.
NOTE = {"ha": "center", "zorder": 4, "bbox": {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}}
NEIGHBOURS_SHOWN = (5, 12)  # of the paper whose neighbourhood is drawn: few enough to tell apart


def plot_history(
    histories: Mapping[str, dict[str, list[float]]], every: int, labels: Mapping[str, str], path: Path
) -> None:
    """Training loss and validation accuracy by epoch on the public split, means over the runs.

    The loss is that of 140 papers, the best one's with its agreement on all; with dropout where there is one.
    """
    figure, (left, right) = new_figure(columns=2)
    for number, ((layer, history), color) in enumerate(zip(histories.items(), COLORS, strict=True)):
        epochs = every * np.arange(1, len(history["public_train_loss"]) + 1)
        style = {"color": color, "linestyle": ("-", "--")[number % 2], "marker": curve_marker(len(epochs))}
        left.plot(epochs, history["public_train_loss"], label=labels[layer], **style)
        right.plot(epochs, history["public_val_accuracy"], **style)
    # On a log scale, since one of the networks is trained for several times as long as the others.
    left.set(title="Training loss, mean of the runs", xlabel="epoch", ylabel="loss (with dropout)", xscale="log")
    right.set(title="Accuracy on the 500 validation papers", xlabel="epoch", ylabel="accuracy", xscale="log")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save_figure(figure, path)


def plot_accuracies(results: Mapping[str, np.ndarray], labels: Mapping[str, str], path: Path) -> None:
    """Test accuracy by layer on the public split and on random splits: every run, and mean ± standard deviation."""
    figure, axes = new_figure(width=8.5, height=4.2)
    ticks = np.arange(len(labels))
    for group, color, shift in (("public", BLUE, -0.17), ("random", RED, 0.17)):
        rows = [results[f"{layer}_{group}_accuracy"] for layer in labels]
        for tick, row in zip(ticks, rows, strict=True):
            axes.plot(np.full(len(row), tick + shift), row, ".", color=color, alpha=0.25, markersize=4)
        means, deviations = [row.mean() for row in rows], [row.std(ddof=1) for row in rows]
        runs = {layer: len(row) for layer, row in zip(labels, rows, strict=True)}
        most = max(runs.values())
        fewer = ", ".join(f"{labels[layer]}: {count}" for layer, count in runs.items() if count < most)
        label = f"public split, {most} seeds" if group == "public" else f"{most} random splits"
        label += f" ({fewer})" if fewer else ""
        axes.errorbar(ticks + shift, means, deviations, fmt="o", color=color, capsize=3, label=f"{label}: mean ± s.d.")
    axes.set_xticks(ticks, labels.values(), rotation=20, ha="right")
    axes.set(title="Accuracy on 1,000 test papers", ylabel="accuracy")
    axes.legend(loc="lower right")
    save_figure(figure, path)


def plot_embedding(places: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """The GCN's hidden values, laid out in the plane (nodes, 2), coloured by the papers' subjects."""
    figure, axes = new_figure(width=7.5, height=5.5)
    for label, subject in enumerate(SUBJECTS):
        style = {"color": CLASS_COLORS[label], "marker": CLASS_MARKERS[label], "linewidths": 0}
        axes.scatter(*places[labels == label].T, s=9, label=subject, **style)
    axes.set(title="Hidden layer of the GCN's first run, all 2,708 papers (t-SNE)", xticks=[], yticks=[])
    axes.set(xlabel="first t-SNE coordinate", ylabel="second t-SNE coordinate")
    figure.legend(loc="outside right upper", markerscale=3)
    save_figure(figure, path)


def plot_confusion(predictions: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Confusion matrix of the GCN's first run: predictions and labels (tested,)."""
    counts = np.zeros((len(SUBJECTS),) * 2, dtype=int)
    np.add.at(counts, (labels, predictions), 1)
    figure, axes = new_figure(width=6.5, height=5.5)
    image = axes.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true subject's papers")
    for (row, column), count in np.ndenumerate(counts):
        dark = count > 0.5 * counts[row].sum()
        axes.text(column, row, count, ha="center", va="center", color="white" if dark else "black")
    ticks = range(len(SUBJECTS))
    axes.set_xticks(ticks, SUBJECTS, rotation=35, ha="right")
    axes.set_yticks(ticks, SUBJECTS)
    axes.set(title="First run of the GCN: test papers by subject", xlabel="predicted", ylabel="true")
    axes.grid(False)
    save_figure(figure, path)


def neighbours_of(arrays: Mapping[str, np.ndarray], node: int) -> np.ndarray:
    start, end = arrays["adjacency_indptr"][node : node + 2]
    return arrays["adjacency_indices"][start:end]


def shown_paper(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the first test paper with a neighbourhood of a size that can be drawn, and with more than one subject."""
    for node in arrays["public_test"]:
        around = neighbours_of(arrays, node)
        if NEIGHBOURS_SHOWN[0] <= len(around) <= NEIGHBOURS_SHOWN[1] and len(set(arrays["labels"][around])) > 1:
            return int(node)
    return int(arrays["public_test"][0])


def class_style(label: int) -> dict:
    return {"color": CLASS_COLORS[label], "markeredgecolor": "black"}


def draw_node(axes: Axes, place: tuple[float, float], text: str, label: int, size: float = 16) -> None:
    axes.plot(*place, CLASS_MARKERS[label], markersize=size, zorder=3, **class_style(label))
    below = {"xytext": (0, -size * 0.8), "textcoords": "offset points", "va": "top", "fontsize": 7}
    axes.annotate(text, place, **below, **NOTE)


def plot_attention(arrays: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray], node: int, path: Path) -> None:
    """A paper and its neighbours: how much a GAT's first layer takes from each, and from itself, mean of the heads."""
    figure, axes = new_figure(width=6.0, height=6.0)
    labels = arrays["labels"]
    incoming = results["edge_targets"] == node
    weight_of = dict(zip(results["edge_sources"][incoming].tolist(), results["edge_attention"][incoming], strict=True))
    around = [other for other in weight_of if other != node]
    for index, other in enumerate(around):
        angle = 2 * np.pi * index / len(around)
        place = (np.cos(angle), np.sin(angle))
        axes.plot([0, place[0]], [0, place[1]], color=GREY, linewidth=1 + 14 * weight_of[other], alpha=0.6)
        axes.text(*(0.55 * part for part in place), f"{weight_of[other]:.2f}", fontsize=8, **NOTE)
        draw_node(axes, place, str(arrays["papers"][other]), labels[other])
    draw_node(axes, (0, 0), f"{arrays['papers'][node]}\nitself: {weight_of[node]:.2f}", labels[node], 22)
    for label in sorted(set(labels[[node, *around]])):
        axes.plot([], [], CLASS_MARKERS[label], label=SUBJECTS[label], **class_style(label))
    figure.legend(loc="outside lower center", ncols=3)
    axes.set(
        title="Attention of the GAT's first run to a paper's neighbours",
        xlim=(-1.3, 1.3),
        ylim=(-1.3, 1.3),
        aspect="equal",
    )
    axes.axis("off")
    save_figure(figure, path)


def plot_computation(arrays: Mapping[str, np.ndarray], node: int, path: Path) -> None:
    """Figs. 81 and 82: the computation graph of one paper, two layers deep; it is a tree in which papers come again."""
    figure, axes = new_figure(width=9.5, height=4.6)
    labels = arrays["labels"]
    first = neighbours_of(arrays, node)
    leaves = [(parent, child) for parent in first for child in neighbours_of(arrays, parent)]
    heights = np.linspace(1, -1, len(leaves))
    leaf_places = {}
    for (parent, child), height in zip(leaves, heights, strict=True):
        leaf_places.setdefault(parent, []).append((child, height))
    axes.plot(2, 0, CLASS_MARKERS[labels[node]], markersize=15, zorder=3, **class_style(labels[node]))
    for parent, children in leaf_places.items():
        middle = np.mean([height for _, height in children])
        axes.plot([1, 2], [middle, 0], color=GREY, linewidth=0.9)
        axes.plot(1, middle, CLASS_MARKERS[labels[parent]], markersize=10, zorder=3, **class_style(labels[parent]))
        for child, height in children:
            axes.plot([0, 1], [height, middle], color=GREY, linewidth=0.5)
            # The paper itself lies below the others, since it would hide the next.
            marker, size, order = (CLASS_MARKERS[labels[child]], 5, 3) if child != node else ("*", 13, 2)
            axes.plot(0, height, marker, markersize=size, zorder=order, **class_style(labels[child]))
    axes.set_xticks(
        [0, 1, 2], ["words of papers\ntwo steps away", "first layer:\neach neighbour", "second layer:\nthe paper"]
    )
    for label in sorted(set(labels[[node, *first, *(child for _, child in leaves)]])):
        axes.plot([], [], CLASS_MARKERS[label], label=SUBJECTS[label], **class_style(label))
    axes.plot([], [], "*", markersize=13, label="the paper itself again", **class_style(labels[node]))
    figure.legend(loc="outside right upper")
    title = f"Paper {arrays['papers'][node]} from its {len(first)} neighbours, by {len(leaves)} paths of two steps"
    axes.set(title=title, yticks=[], xlim=(-0.2, 2.3))
    axes.grid(False)
    save_figure(figure, path)


def plot_adjacency(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Fig. 78 for Cora: the adjacency matrix with the papers sorted by subject, and the degrees."""
    figure, (left, right) = new_figure(columns=2, width=5.0, height=4.4)
    order = np.argsort(arrays["labels"], kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    degrees = np.diff(arrays["adjacency_indptr"])
    rows = np.repeat(np.arange(len(order)), degrees)
    left.plot(rank[arrays["adjacency_indices"]], rank[rows], ",", color=BLUE)
    ends = np.cumsum(np.bincount(arrays["labels"], minlength=len(SUBJECTS)))
    for end in ends[:-1]:
        left.axhline(end, color=GREY, linewidth=0.5)
        left.axvline(end, color=GREY, linewidth=0.5)
    left.set_yticks((ends + np.append(0, ends[:-1])) / 2, SUBJECTS, fontsize=7)
    left.set(title="Adjacency matrix, papers sorted by subject", xlabel="paper", aspect="equal")
    left.invert_yaxis()
    left.grid(False)
    values, counts = np.unique(degrees, return_counts=True)
    right.plot(values, counts, ".", color=GREEN)
    right.set(title="How many papers have how many neighbours", xlabel="neighbours", ylabel="papers")
    right.set(xscale="log", yscale="log")
    save_figure(figure, path)


def named_for_mlflow(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a layer as the other chapters name theirs in MLflow; its counts of runs are parameters."""
    return {
        f"validation_{name.removeprefix('val_')}" if name.startswith("val_") else f"test_{name}": value
        for name, value in metrics.items()
        if name not in ("runs", "splits")
    }


def main() -> None:
    recipe = declared_parameters("ch08_plot").ch08.active
    with np.load(GRAPH) as graph, np.load("data/evaluated/ch08/results.npz") as loaded:
        arrays, results = dict(graph), dict(loaded)
    histories = {layer: read_history(f"metrics/history/ch08/{layer}.csv") for layer in TRAINED}
    aggregation = {"sum": "sum (fig. 84)", "mean": "mean"}[recipe.dense_aggregation]
    labels = {**LABELS, "dense": LABELS["dense"].format(aggregation)}
    plot_history(histories, recipe.validate_every, labels, PLOTS / "training.png")
    plot_accuracies(results, labels, PLOTS / "accuracy.png")
    plot_embedding(results["embedding"], arrays["labels"], PLOTS / "embedding.png")
    tested = arrays["public_test"]
    predictions = results["gcn_predictions"][tested].argmax(axis=1)
    plot_confusion(predictions, arrays["labels"][tested], PLOTS / "confusion.png")
    node = shown_paper(arrays)
    plot_attention(arrays, results, node, PLOTS / "attention.png")
    plot_computation(arrays, node, PLOTS / "computation.png")
    plot_adjacency(arrays, PLOTS / "adjacency.png")

    recorded = [
        {
            "model_file": Path(f"data/models/ch08/{layer}.safetensors"),
            "metrics": named_for_mlflow(read_json(f"metrics/ch08/{layer}.json")),
            **({} if layer == "gcn" else {"figures": []}),  # most are of the GCN, or of all
        }
        for layer in TRAINED
    ]
    record_figures("ch08_plot", *recorded)


if __name__ == "__main__":
    main()
