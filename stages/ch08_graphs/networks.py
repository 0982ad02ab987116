"""Chapter 8's kinds of networks: how each predicts, and by what it learns."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional as F

from stages.ch08_graphs import best
from stages.ch08_graphs.layers import Graph, Weights, forward

KIND = "network"  # in the metadata of a file of weights: JSON, the arguments of `predictor`

Predict = Callable[[Graph, Weights], torch.Tensor]


class Network(NamedTuple):
    """One kind of network, as training needs it.

    predict: maps a graph and weights to logits (nodes, runs, classes).
    losses: maps a graph, its nodes' labels (nodes,), the nodes to learn from (runs, picked), weights and the number of
        the epoch, 1 for the first, to each run's loss (runs,).
    """

    predict: Predict
    losses: Callable[[Graph, torch.Tensor, torch.Tensor, Weights, int], torch.Tensor]


def predictor(layer: str, restart: float | None = None, hops: int | None = None) -> Predict:
    """Return how networks of a layer in LAYERS predict, or "best" ones, which alone go by `restart` and `hops`."""
    if layer == "best":
        return partial(best.predict, restart=restart, hops=hops)
    return partial(forward, layer)


def at_nodes(values: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Pick from values (nodes, runs, …) the nodes (runs, picked) of each run: (runs, picked, …)."""
    return values[nodes, torch.arange(len(nodes))[:, None]]


def losses_at(logits: torch.Tensor, labels: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy at the nodes (runs, picked) of each run, (runs,)."""
    picked = at_nodes(logits, nodes)  # (runs, picked, classes)
    return F.cross_entropy(picked.transpose(1, 2), labels[nodes], reduction="none").mean(dim=1)


def accuracies_at(logits: torch.Tensor, labels: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Return the share of right classes at the nodes (runs, picked) of each run, (runs,)."""
    return (at_nodes(logits, nodes).argmax(dim=-1) == labels[nodes]).double().mean(dim=1)


def layered(layer: str, input_dropout: float, dropout: float, generator: torch.Generator) -> Network:
    """Return networks of two layers of a kind in LAYERS, which learn by the cross-entropy."""

    def losses(graph, labels, nodes, weights, epoch):
        return losses_at(forward(layer, graph, weights, input_dropout, dropout, generator), labels, nodes)

    return Network(predictor(layer), losses)


def agreeing(
    generator: torch.Generator, restart: float, hops: int, consistency: float, warm_up: int, **options: float
) -> Network:
    """Return networks of the kind "best", which learn by best.losses_of; `options` are what else that takes.

    The consistency rises to its full weight in the epochs of the `warm_up`.
    """

    def losses(graph, labels, nodes, weights, epoch):
        weight = min(1.0, epoch / warm_up) * consistency
        spread = {"restart": restart, "hops": hops}
        return best.losses_of(graph, labels, nodes, weights, generator, consistency=weight, **spread, **options)

    return Network(predictor("best", restart, hops), losses)
