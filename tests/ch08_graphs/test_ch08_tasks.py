"""Chapter 8's other tasks: edges held out, motifs by hand, networks that solve a task that is easy."""

import itertools

import numpy as np
import pytest
import torch

from stages.ch08_graphs import tasks
from stages.ch08_graphs.links import LinkPredictor
from stages.ch08_graphs.motifs import attachment_edges, motif_graph, motif_graphs
from stages.ch08_graphs.tasks import (
    GraphClassifier,
    classify_graphs,
    cluster_agreement,
    predict_links,
    split_edges,
)

SIZES = {"hidden_size": 32, "channels": 16, "learning_rate": 0.01}


def triangles(edges: np.ndarray, nodes: int) -> int:
    """Count the triangles of a graph by the diagonal of A³."""
    matrix = np.zeros((nodes, nodes), dtype=int)
    matrix[edges[0], edges[1]] = 1
    return int(np.trace(matrix @ matrix @ matrix)) // 6


def test_attachment_makes_a_tree_with_hubs():
    edges = np.array(attachment_edges(200, np.random.default_rng(0)))
    assert edges.shape == (199, 2) and (edges[1:, 1] < edges[1:, 0]).all()
    assert np.bincount(edges.ravel()).max() > 10


def test_a_house_has_a_triangle_and_a_ring_none():
    generator = np.random.default_rng(0)
    for _ in range(10):
        house, ring = (motif_graph(motif, 8, generator) for motif in (0, 1))
        assert house.shape == ring.shape == (2, 2 * (7 + 6 + 1))  # their number tells nothing
        assert all(len({tuple(pair) for pair in graph.T}) == 2 * 14 for graph in (house, ring))
        assert (triangles(house, 13), triangles(ring, 13)) == (1, 0)
        assert {tuple(pair) for pair in house.T} == {tuple(pair) for pair in house[::-1].T}


def test_graphs_stay_apart():
    edges, graph_of, motifs = motif_graphs(4, 6, np.random.default_rng(0))
    assert (graph_of[edges[0]] == graph_of[edges[1]]).all()
    assert np.bincount(graph_of).tolist() == [11] * 4 and motifs.tolist() == [0, 1, 0, 1]


def test_split_edges_are_disjoint_and_pairs_are_no_edges():
    edges = np.array(
        [(first, second) for first in range(12) for second in range(first + 1, 12) if (first + second) % 3]
    )
    learned, held, apart = split_edges(edges.T, 12, 0.25, np.random.default_rng(0))
    sets = [{tuple(sorted(pair)) for pair in part.T.tolist()} for part in (learned, held, apart)]
    assert sets[0] | sets[1] == {tuple(pair) for pair in edges.tolist()} and not sets[0] & sets[1]
    assert len(sets[1]) == len(sets[2]) == round(0.25 * len(edges))
    assert not sets[2] & (sets[0] | sets[1]) and all(first != second for first, second in sets[2])


def test_links_within_groups_are_predicted():
    generator = np.random.default_rng(0)
    group = np.arange(60) % 3
    edges = np.array(
        [(a, b) for a in range(60) for b in range(a + 1, 60) if group[a] == group[b] and generator.random() < 0.4]
    )
    words = np.eye(3)[group] + 0.1 * generator.standard_normal((60, 3))
    words = torch.from_numpy(words).float()
    auc, losses, network, places = predict_links(words, edges.T, 0.2, 60, seed=0, **SIZES)
    # A pair within a group that happens to have no edge can't be told from one held out: a quarter of the pairs.
    assert auc > 0.8 and losses[-1] < losses[0]
    pairs = torch.from_numpy(edges[:9])
    torch.testing.assert_close(LinkPredictor(places)(pairs), network.decode(places, pairs.T))


def test_links_held_out_leave_no_trace_in_the_training(monkeypatch):
    edges = np.array([(a, b) for a in range(12) for b in range(a + 1, 12) if (a + b) % 3]).T
    learned, held, apart = split_edges(edges, 12, 0.25, np.random.default_rng(0))
    found = []
    for hidden in (held, apart):
        monkeypatch.setattr(tasks, "split_edges", lambda *_, hidden=hidden: (learned, hidden, apart))
        known = np.concatenate([learned, hidden], axis=1)
        found.append(predict_links(torch.eye(12), known, 0.25, 5, seed=0, **SIZES))
    assert found[0][1] == found[1][1] and torch.equal(found[0][3], found[1][3])


def test_clusters_are_found_where_there_are_some():
    labels = np.arange(140) % 7
    values = 10 * np.eye(7)[labels] + np.random.default_rng(0).standard_normal((140, 7))
    assert cluster_agreement(values, labels, 0) == pytest.approx(1)
    assert cluster_agreement(np.random.default_rng(0).standard_normal((140, 7)), labels, 0) < 0.3


@pytest.mark.parametrize("pooling", ["sum", "attention"])
def test_motifs_are_told_apart_and_the_seed_is_followed(pooling):
    options = {"epochs": 100, "seed": 0, "hidden_size": 32, "learning_rate": 0.01}
    accuracy, losses, weights = classify_graphs(200, 6, pooling, **options)
    assert accuracy > 0.8
    again = classify_graphs(200, 6, pooling, **options)
    assert again[:2] == (accuracy, losses)
    assert all(torch.equal(value, again[2][name]) for name, value in weights.items())
    model, generator = GraphClassifier(32, pooling), np.random.default_rng(0)
    model.load_state_dict(weights)
    _, (edges, graph_of, motifs) = (map(torch.from_numpy, motif_graphs(200, 6, generator)) for _ in range(2))
    found = model.eval()(torch.ones(len(graph_of), 1), edges, graph_of).argmax(dim=1)
    assert accuracy == pytest.approx((found == motifs).double().mean().item())


@pytest.mark.parametrize("pooling", ["sum", "attention"])
def test_the_order_of_the_nodes_plays_no_part(pooling):
    torch.manual_seed(0)
    model = GraphClassifier(8, pooling)
    edges, graph_of, _ = (torch.from_numpy(part) for part in motif_graphs(2, 6, np.random.default_rng(0)))
    order = torch.randperm(22)
    results = model(torch.ones(22, 1), edges, graph_of)
    permuted = graph_of[order].argsort(stable=True)  # pooling wants the nodes of a graph together
    place = torch.empty(22, dtype=torch.long)
    place[order[permuted]] = torch.arange(22)
    assert torch.allclose(model(torch.ones(22, 1), place[edges], graph_of[order][permuted]), results, atol=1e-5)


def test_accuracy_is_that_on_graphs_not_trained_on(monkeypatch):
    calls = itertools.count()

    def flipped_at_the_second_call(*options):
        edges, graph_of, motifs = motif_graphs(*options)
        return edges, graph_of, 1 - motifs if next(calls) else motifs

    monkeypatch.setattr(tasks, "motif_graphs", flipped_at_the_second_call)
    options = {"epochs": 100, "seed": 0, "hidden_size": 32, "learning_rate": 0.01}
    assert classify_graphs(200, 6, "sum", **options)[0] < 0.2
