"""Neighbour sampling: with all neighbours it is the whole graph; with fewer of them it is so on average."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import sparse

from stages.ch08_graphs.layers import LAYERS, forward, make_graph, start_network
from stages.ch08_graphs.networks import layered
from stages.ch08_graphs.sampling import Source, batches, predict_in_parts, sample_graph, sample_neighbours
from stages.ch08_graphs.train import train


def make_source(nodes: int = 60, words: int = 9, seed: int = 0) -> Source:
    generator = np.random.default_rng(seed)
    adjacency = np.triu(generator.random((nodes, nodes)) < 0.12, 1)
    adjacency = (adjacency | adjacency.T).astype(np.float32)
    adjacency[:, -1] = adjacency[-1] = 0  # the last node has no neighbours
    features = (generator.random((nodes, words)) < 0.4).astype(np.float32)
    return Source(sparse.csr_matrix(features), sparse.csr_matrix(adjacency))


def whole(source: Source):
    return make_graph(source.features, source.adjacency, np.diff(source.adjacency.indptr))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_part_with_all_neighbours_gives_what_the_whole_graph_gives(layer):
    source, seeds = make_source(), np.array([7, 3, 59, 20])
    hops = 4 if layer == "cheb" else 2  # each of its layers looks two steps far
    part, members = sample_graph(source, seeds, 1000, hops, np.random.default_rng(0))
    assert members[:4].tolist() == seeds.tolist() and len(set(members)) == len(members)
    weights = start_network(layer, 2, 9, 8, 7, 2, torch.Generator().manual_seed(0))
    expected = forward(layer, whole(source), weights)[torch.from_numpy(seeds)]
    assert torch.allclose(forward(layer, part, weights)[:4], expected, atol=1e-5)


def test_neighbours_drawn_are_neighbours_each_once_and_no_more_than_asked():
    source = make_source()
    nodes = np.arange(60)
    target, neighbours, weights = sample_neighbours(source.adjacency, nodes, 3, np.random.default_rng(1))
    degrees = np.diff(source.adjacency.indptr)
    assert np.bincount(target, minlength=60).tolist() == np.minimum(degrees, 3).tolist()
    assert len(set(zip(target.tolist(), neighbours.tolist(), strict=True))) == len(target)
    assert all(source.adjacency[node, other] == 1 for node, other in zip(target, neighbours, strict=True))
    assert np.allclose(np.bincount(target, weights, 60), degrees)  # those drawn stand for all


def test_sums_over_samples_are_right_on_average():
    source, generator = make_source(), np.random.default_rng(2)
    node = int(np.diff(source.adjacency.indptr).argmax())
    values = np.arange(60.0)
    sums = []
    for _ in range(4000):
        _, neighbours, weights = sample_neighbours(source.adjacency, np.array([node]), 2, generator)
        sums.append((values[neighbours] * weights).sum())
    expected = source.adjacency[[node]] @ values
    assert np.mean(sums) == pytest.approx(expected[0], abs=4 * np.std(sums) / np.sqrt(4000))


def test_batches_go_through_every_node_of_every_run_once():
    source, labels = make_source(), torch.arange(60) % 7
    nodes = torch.tensor([[1, 2, 3, 4, 5], [10, 2, 30, 40, 50]])
    seen = [[], []]
    for part, own_labels, picked in batches(source, labels, nodes, 2, 4, 2, torch.Generator().manual_seed(0)):
        assert len(own_labels) == part.features.matrix.shape[0]
        for run, places in enumerate(picked):
            seen[run] += own_labels[places].tolist()
    assert [sorted(own) for own in seen] == [sorted(labels[own].tolist()) for own in nodes]


def test_training_in_one_batch_with_all_neighbours_is_training_on_the_whole_graph():
    source, labels = make_source(), torch.arange(60) % 7
    parts = {name: torch.tensor([[1, 2, 3, 4, 5], [10, 2, 30, 40, 50]]) for name in ("train", "val", "test")}
    options = {"epochs": 5, "learning_rate": 0.05, "weight_decay": 0.0, "decayed": "first"}
    options |= {"chosen_by": "last", "validate_every": 5}
    results = []
    for draws in (False, True):
        generator = torch.Generator().manual_seed(0)
        weights = start_network("gcn", 2, 9, 8, 7, 1, generator)
        draw = partial(batches, source, labels, parts["train"], 5, 1000, 2, generator) if draws else None
        network = layered("gcn", 0.0, 0.0, generator)
        results.append(train(network, whole(source), labels, parts, weights, **options, draw=draw)[0])
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-4) for name in results[0])


def test_prediction_in_parts_is_prediction():
    source = make_source()
    weights = start_network("sage", 1, 9, 8, 7, 1, torch.Generator().manual_seed(0))
    nodes = np.array([5, 59, 0, 33, 12])
    found = predict_in_parts("sage", source, weights, nodes, 2, 1000, 2, np.random.default_rng(0))
    assert torch.allclose(found, forward("sage", whole(source), weights)[torch.from_numpy(nodes)], atol=1e-5)
