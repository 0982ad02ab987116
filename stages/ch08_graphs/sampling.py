"""Neighbour sampling: training where the graph outgrows memory (Hamilton et al., 2017, algorithm 2).

A network of two layers sees of a node only what is two steps away. A batch therefore needs its own nodes, a sample of
at most `fan_out` neighbours of each, and a sample of theirs: a small graph of its own, whose size no longer depends on
that of the whole.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse

from stages.ch08_graphs.layers import Graph, Weights, forward, make_graph


class Source(NamedTuple):
    """The whole graph, from which parts are drawn: nodes' words (nodes, words) and A (nodes, nodes), both sparse."""

    features: sparse.csr_matrix
    adjacency: sparse.csr_matrix


def sample_neighbours(
    adjacency: sparse.csr_matrix, nodes: np.ndarray, fan_out: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw at most `fan_out` neighbours of each of `nodes`, without replacement, alike probable.

    Returns for each edge drawn: which of `nodes` it leads to, as an index into them, its other end, and its weight: the
    node's neighbours over those drawn, so that a weighted sum over the sample is right on average.
    """
    starts, degrees = adjacency.indptr[nodes], np.diff(adjacency.indptr)[nodes]
    target = np.repeat(np.arange(len(nodes)), degrees)
    first = np.cumsum(degrees) - degrees  # of each node's edges, where they begin among all those of `nodes`
    position = np.arange(len(target)) - first[target] + starts[target]
    if (degrees > fan_out).any():
        order = np.lexsort((generator.random(len(target)), target))  # shuffles the edges of each node
        kept = order[np.arange(len(target)) - first[target] < fan_out]
        target, position = target[kept], position[kept]
    weights = np.maximum(degrees / fan_out, 1)[target]
    return target, adjacency.indices[position], weights


def sample_graph(
    source: Source, seeds: np.ndarray, fan_out: int, hops: int, generator: np.random.Generator
) -> tuple[Graph, np.ndarray]:
    """Draw the part of a graph that `hops` layers need to predict the nodes `seeds`, which must differ.

    Returns the part, and its nodes (part,) as numbers in the whole graph: first the seeds, in their order.
    """
    place = np.full(source.adjacency.shape[0], -1, dtype=np.int32)  # of a node in the part
    nodes, frontier = [seeds], seeds
    place[seeds] = np.arange(len(seeds))
    known, rows, columns, values = len(seeds), [], [], []
    for _ in range(hops):
        target, neighbours, weights = sample_neighbours(source.adjacency, frontier, fan_out, generator)
        new = np.unique(neighbours[place[neighbours] < 0])
        place[new] = known + np.arange(len(new))
        rows.append(place[frontier][target])
        columns.append(place[neighbours])
        values.append(weights)
        known += len(new)
        nodes.append(new)
        frontier = new
    part = np.concatenate(nodes)
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    adjacency = sparse.csr_matrix(entries, shape=(known, known))
    degrees = np.diff(source.adjacency.indptr)[part]
    return make_graph(source.features[part], adjacency, degrees), part


def batches(
    source: Source,
    labels: torch.Tensor,
    nodes: torch.Tensor,
    batch_nodes: int,
    fan_out: int,
    hops: int,
    generator: torch.Generator,
) -> Iterator[tuple[Graph, torch.Tensor, torch.Tensor]]:
    """Go once through the nodes (runs, nodes) that each run trains on, in an order of its own.

    Yields a part of the graph that serves all runs, the labels (part,) of its nodes, and each run's nodes in it,
    (runs, at most batch_nodes).
    """
    order = torch.rand(nodes.shape, generator=generator).argsort(dim=1)
    (seed,) = torch.randint(2**62, (1,), generator=generator).tolist()
    numbers = np.random.default_rng(seed)
    for batch in nodes.gather(1, order).split(batch_nodes, dim=1):
        seeds, own = np.unique(batch.numpy(), return_inverse=True)
        part, members = sample_graph(source, seeds, fan_out, hops, numbers)
        yield part, labels[torch.from_numpy(members)], torch.from_numpy(own.reshape(batch.shape))


@torch.no_grad()
def predict_in_parts(
    layer: str,
    source: Source,
    weights: Weights,
    nodes: np.ndarray,
    batch_nodes: int,
    fan_out: int,
    hops: int,
    generator: np.random.Generator,
) -> torch.Tensor:
    """Return the logits (nodes, runs, classes) of some nodes of a graph that is too large to be computed at once."""
    found = []
    for seeds in np.split(nodes, range(batch_nodes, len(nodes), batch_nodes)):
        part, _ = sample_graph(source, seeds, fan_out, hops, generator)
        found.append(forward(layer, part, weights)[: len(seeds)])
    return torch.cat(found)
