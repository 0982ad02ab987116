"""Compare chapter 2's three descents with each other and with the book's tables (figs. 20, 23); check figs. 9 to 17.

In: data/raw/ch02/line.npz, data/evaluated/ch02/descent.npz. Out: metrics/ch02.json, metrics/facts/ch02.json with every
statement about autograd and whether it holds, data/evaluated/ch02/graph.json with fig. 9's graph and its gradients.
"""

import numpy as np
import torch

from stages.ch02_autograd.book_tables import FIG_20, FIG_23, Table
from stages.ch02_autograd.facts import all_facts
from stages.ch02_autograd.generate import LINE
from stages.ch02_autograd.graph import example, walk
from stages.ch02_autograd.train import DESCENT
from stages.common.devices import set_up_torch
from stages.common.files import write_json
from stages.common.params import declared_parameters

GRAPH = "data/evaluated/ch02/graph.json"


def printed(weights: np.ndarray, losses: np.ndarray) -> list[tuple[str, str]]:
    """Return (w, loss) of every iteration as the book prints them: three and eight decimals."""
    return [(f"{weight:.3f}", f"{loss:.8f}") for weight, loss in zip(weights, losses, strict=True)]


def rows_equal(table: Table, rows: list[tuple[str, str]]) -> int:
    """Return how many rows of the book's `table` are in `rows`, of iteration 1 onwards, digit for digit."""
    return sum(rows[iteration - 1 : iteration] == [pair] for iteration, pair in table.items())


def first_zero(rows: list[tuple[str, str]]) -> int:
    """Return the first iteration whose loss is printed as zero; 0 if none is."""
    return next((index for index, (_, loss) in enumerate(rows, start=1) if float(loss) == 0), 0)


def largest_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest |first − second| over the iterations that both have."""
    shared = min(len(first), len(second))
    return float(np.abs(first[:shared].astype(float) - second[:shared].astype(float)).max())


def exact_gradients(weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return mean(2x·(w·x − y)) in float64 for each of `weights` (iterations,); inputs and targets (points,)."""
    x, y = inputs.astype(float), targets.astype(float)
    return (2 * x * (weights.astype(float)[:, None] * x - y)).mean(axis=1)


def difference_quotients(weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray, step: float) -> np.ndarray:
    """Return (loss(w + step) − loss(w − step)) / (2·step) in float32 for each of `weights`: a numerical derivative."""

    def loss(w: np.ndarray) -> np.ndarray:
        return ((w[:, None] * inputs - targets) ** 2).mean(axis=1)

    h = np.float32(step)
    return (loss(weights + h) - loss(weights - h)) / (2 * h)


def passes_gradcheck(inputs: np.ndarray, targets: np.ndarray, weight: float) -> bool:
    """Have torch.autograd.gradcheck compare the loss's gradient with difference quotients in float64."""
    x, y = torch.from_numpy(inputs).double(), torch.from_numpy(targets).double()
    w = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    return torch.autograd.gradcheck(lambda w: ((w * x - y) ** 2).mean(), (w,))


def graph_with_gradients() -> dict[str, list]:
    """Return fig. 9's graph as `walk` reads it, each named node with its `value` and `gradient` as well."""
    tensors = example()
    tensors["L"].backward()
    graph = walk(tensors["L"], tensors)
    for node in graph["nodes"]:
        if node["name"]:
            tensor = tensors[node["name"]]
            node |= {"value": tensor.item(), "gradient": tensor.grad.item()}
    return graph


def main() -> None:
    parameters = declared_parameters("ch02_evaluate")
    recipe = parameters.ch02.active
    set_up_torch(parameters.seed, parameters.ch02.num_threads)
    with np.load(LINE) as data, np.load(DESCENT) as descent:
        inputs, targets, runs = data["inputs"], data["targets"], dict(descent)
    rows = {way: printed(runs[f"{way}_weight"], runs[f"{way}_loss"]) for way in ("numpy", "autograd", "func")}
    # Where each gradient was taken: at the weight that the iteration began with.
    at = np.append(np.float32(recipe.initial_weight), runs["autograd_weight"][:-1])
    exact = exact_gradients(at, inputs, targets)
    quotients = difference_quotients(at, inputs, targets, recipe.difference_step)
    facts, graph = all_facts(), graph_with_gradients()
    metrics = {
        **{f"{way}_weight": float(runs[f"{way}_weight"][-1]) for way in rows},
        **{f"{way}_zero_iteration": first_zero(rows[way]) for way in rows},
        "numpy_gradient_ratio": float(runs["numpy_gradient"][0] / exact[0]),
        "numpy_weight_difference": largest_difference(runs["numpy_weight"], runs["autograd_weight"]),
        "func_weight_difference": largest_difference(runs["func_weight"], runs["autograd_weight"]),
        "autograd_gradient_error": largest_difference(runs["autograd_gradient"], exact),
        "difference_gradient_error": largest_difference(quotients, exact),
        "gradcheck": passes_gradcheck(inputs, targets, recipe.initial_weight),
        "fig20_rows_numpy": rows_equal(FIG_20, rows["numpy"]),
        **{f"fig23_rows_{way}": rows_equal(FIG_23, rows[way]) for way in rows},
        "facts": len(facts),
        "facts_true": sum(fact["holds"] for fact in facts),
        "graph_nodes": len(graph["nodes"]),
        "graph_edges": len(graph["edges"]),
    }
    write_json("metrics/ch02.json", metrics)
    write_json("metrics/facts/ch02.json", {"facts": facts})
    write_json(GRAPH, graph)


if __name__ == "__main__":
    main()
