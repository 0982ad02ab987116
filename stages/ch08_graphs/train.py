"""Train one kind of graph network on Cora, many at once (figs. 84 to 86): `python -m stages.ch08_graphs.train gcn`.

Two groups: `public`, from several seeds on the public split, and `random`, one on each random split.

In: data/prepared/ch08/graph.npz. Out: data/models/ch08/<layer>.safetensors with the weights of both groups, and how
they predict; metrics/history/ch08/<layer>.csv with the mean loss and validation accuracy, and a run in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch08_train", model="program")  # loads MLflow while this process gets ready

import json
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from stages.ch08_graphs.layers import Graph, Weights, build_graph, start_network, words_of
from stages.ch08_graphs.networks import KIND, Network, accuracies_at, agreeing, layered, losses_at
from stages.ch08_graphs.preprocess import GRAPH, SUBJECTS, stored_matrix
from stages.ch08_graphs.sampling import Source, batches
from stages.common.devices import in_processes, set_up_torch
from stages.common.files import placed, write_history
from stages.common.memory import keep_freed_memory
from stages.common.optimizers import Adam
from stages.common.params import declared_parameters, variant_of
from stages.common.progress import progress
from stages.common.seeds import seed_of

GROUPS = ("public", "random")

Parts = dict[str, torch.Tensor]  # train, val, test: nodes (runs, nodes of the part)


def model_path(layer: str) -> Path:
    return Path(f"data/models/ch08/{layer}.safetensors")


def parts_of(arrays: Mapping[str, np.ndarray], group: str, runs: int) -> Parts:
    """Return the nodes that each of `runs` runs of a group trains on, is chosen by and is tested on."""
    if group == "random":
        return {part: torch.from_numpy(arrays[part][:runs]) for part in ("train", "val", "test")}
    return {part: torch.from_numpy(arrays[f"public_{part}"]).expand(runs, -1) for part in ("train", "val", "test")}


class Selection:
    """Keeps for each run the weights of the epoch that did best on its validation nodes.

    Best is the highest accuracy, and among equals the lowest loss.
    """

    def __init__(self, weights: Weights):
        self.weights = {name: value.detach().clone() for name, value in weights.items()}
        runs = len(next(iter(weights.values())))
        self.accuracies = torch.full((runs,), -1.0, dtype=torch.float64)
        self.losses = torch.full((runs,), torch.inf)

    def offer(self, weights: Weights, accuracies: torch.Tensor, losses: torch.Tensor) -> None:
        better = (accuracies > self.accuracies) | ((accuracies == self.accuracies) & (losses < self.losses))
        self.accuracies[better], self.losses[better] = accuracies[better], losses[better]
        for name, value in weights.items():
            self.weights[name][better] = value.detach()[better]


def train(
    network: Network,
    graph: Graph,
    labels: torch.Tensor,
    parts: Parts,
    weights: Weights,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    decayed: str,
    chosen_by: str,
    validate_every: int,
    average_decay: float = 0.0,
    draw: Callable[[], Iterable[tuple[Graph, torch.Tensor, torch.Tensor]]] | None = None,
) -> tuple[Weights, dict[str, list[float]]]:
    """Train networks side by side with Adam; return their weights and the history.

    Args:
        labels: (nodes,).
        weights: what the networks start from; trained in place.
        decayed: "first": the first layer's weights only, as Kipf and Welling (2017) have it; or "all", as the book.
        chosen_by: "validation", the weights of the epoch that does best on a run's validation nodes, looked at every
            `validate_every` epochs; "last": those of the last.
        average_decay: above 0, the weights that are validated and returned are not those of an epoch, but an average of
            all until then, in which each further epoch back counts by this factor less.
        draw: gives an epoch's batches: a graph, its nodes' labels, and the nodes (runs, batch) that are trained on.
            None: one batch, the whole graph and all training nodes.

    Returns:
        The chosen weights, and for every epoch looked at `train_loss` and `val_accuracy`, means over the runs.
    """
    for value in weights.values():
        value.requires_grad_()
    first = [value for name, value in weights.items() if name.startswith("1.") or decayed == "all"]
    rest = [value for name, value in weights.items() if not (name.startswith("1.") or decayed == "all")]
    groups = [{"params": first, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = Adam([group for group in groups if group["params"]], lr=learning_rate)
    # Without a decay, the very tensors that are trained.
    averages = {name: value.detach().clone() for name, value in weights.items()} if average_decay else weights
    selection, history = Selection(weights), {"train_loss": [], "val_accuracy": []}
    for epoch in range(1, epochs + 1):
        total, seen = torch.zeros(()), 0
        for part, part_labels, nodes in draw() if draw else [(graph, labels, parts["train"])]:
            losses = network.losses(part, part_labels, nodes, weights, epoch)
            optimizer.zero_grad()
            losses.sum().backward()  # of networks that share nothing: each gets the gradient of its own loss
            optimizer.step()
            total, seen = total + losses.detach().mean() * nodes.shape[-1], seen + nodes.shape[-1]
        if average_decay:
            for name, value in weights.items():  # the first epochs' average is a plain one
                averages[name].lerp_(value.detach(), max(1 - average_decay, 1 / epoch))
        if epoch % validate_every == 0:
            with torch.no_grad():
                logits = network.predict(graph, averages)
            accuracies = accuracies_at(logits, labels, parts["val"])
            if chosen_by == "validation":
                selection.offer(averages, accuracies, losses_at(logits, labels, parts["val"]))
            history["train_loss"].append(total.item() / seen)
            history["val_accuracy"].append(accuracies.mean().item())
    chosen = (
        selection.weights if chosen_by == "validation" else {name: value.detach() for name, value in averages.items()}
    )
    return chosen, history


def train_group(
    group: str,
    layer: str,
    seed: int,
    runs: dict[str, int],
    hidden_size: int,
    heads: int,
    initial_weights: str,
    losses: dict[str, float],
    training: dict[str, float | str],
    batch_nodes: int,
    fan_out: int,
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Train one group of networks in this process, on one thread.

    The network "best" needs neighbours ten steps away, all of Cora: it has no use for batches.

    Args:
        runs: group to how many.
        losses: what `layered` takes beside the layer, or `agreeing`, if the layer is "best".
        training: what `train` takes from `epochs` on.
    """
    with np.load(GRAPH) as loaded:
        arrays = dict(loaded)
    graph, labels = build_graph(arrays), torch.from_numpy(arrays["labels"])
    parts = parts_of(arrays, group, runs[group])
    generator = torch.Generator().manual_seed(seed_of(seed, GROUPS.index(group)))
    sizes = (len(parts["train"]), words_of(graph), hidden_size, len(SUBJECTS), heads)
    weights = start_network("mlp" if layer == "best" else layer, *sizes, generator, initial_weights)
    draw = None
    if layer == "best":
        network = agreeing(generator, **losses)
    else:
        network = layered(layer, generator=generator, **losses)
        if batch_nodes:
            source = Source(stored_matrix(arrays, "features"), stored_matrix(arrays, "adjacency"))
            hops = 4 if layer == "cheb" else 2  # each of two layers looks one step far, or with its polynomials two
            draw = partial(batches, source, labels, parts["train"], batch_nodes, fan_out, hops, generator)
    weights, history = train(network, graph, labels, parts, weights, **training, draw=draw)
    return {f"{group}.{name}": value.numpy() for name, value in weights.items()}, history


def layer_name(layer: str, dense_aggregation: str) -> str:
    """Return the function's name in LAYERS: `dense` is one of two."""
    return f"dense_{dense_aggregation}" if layer == "dense" else layer


def main() -> None:
    layer = variant_of("ch08_train")
    parameters = declared_parameters("ch08_train")
    recipe = parameters.ch08.active
    seed, num_threads = parameters.seed, parameters.ch08.num_threads
    set_up_torch(seed, num_threads=1)
    keep_freed_memory()
    shape = recipe.select("hidden_size", "heads", "initial_weights")
    losses = recipe.select("input_dropout", "dropout")
    training = recipe.select("epochs", "learning_rate", "weight_decay", "decayed", "chosen_by", "validate_every")
    runs = {"public": parameters.ch08.runs, "random": parameters.ch08.splits}
    name = layer_name(layer, recipe.dense_aggregation)
    kind = {"layer": name}
    spread = recipe.select("restart", "hops")
    agreement = recipe.select("samples", "node_dropout", "temperature", "consistency", "warm_up")
    fewer, best_hidden_size = parameters.ch08.best_runs, recipe.best_hidden_size
    best_epochs, best_rate, best_decay = recipe.best_epochs, recipe.best_learning_rate, recipe.best_average_decay
    if layer == "best":
        runs = {group: min(count, fewer) for group, count in runs.items()}
        shape = {**shape, "hidden_size": best_hidden_size}
        losses |= {**spread, **agreement}
        training |= {"epochs": best_epochs, "learning_rate": best_rate, "average_decay": best_decay}
        kind |= spread
    started = time.time()
    sampling = parameters.ch08.select("batch_nodes", "fan_out")
    job = partial(train_group, layer=name, seed=seed, runs=runs, **shape, losses=losses, training=training, **sampling)
    trainings = in_processes(job, GROUPS, min(num_threads, len(GROUPS)))
    results = list(progress(trainings, f"ch08 {layer}", total=len(GROUPS)))
    with placed(model_path(layer)) as path:
        weights = {key: value for weights, _ in results for key, value in weights.items()}
        save_file(weights, path, metadata={KIND: json.dumps(kind)})
    with np.load(GRAPH) as loaded:
        papers = loaded["papers"][loaded["public_test"][:2]].tolist()
    history = {
        f"{group}_{key}": values
        for group, (_, kept) in zip(GROUPS, results, strict=True)
        for key, values in kept.items()
    }
    write_history(f"metrics/history/ch08/{layer}.csv", history, recipe.validate_every)

    tracking.record_training(
        "ch08_train",
        layer,
        model_path(layer),
        history={name.replace("_val_", "_validation_"): values for name, values in history.items()},
        datasets={"ch08_cora": Path(GRAPH)},
        started=started,
        # The declared ones are those of all layers; `best` has some of its own in their places.
        parameters={"layer": name, "runs": runs["public"], "splits": runs["random"], **shape, **losses, **training},
        every=recipe.validate_every,
        model=Path(__file__).with_name("served.py"),
        example=(papers, {}),
        artifacts={"model": model_path(layer), "graph": Path(GRAPH)},
    )


if __name__ == "__main__":
    main()
