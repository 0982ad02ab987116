"""Chapter 8's functions: matrices by hand, layers against PyTorch Geometric's, runs that don't touch one another."""

import json
import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional as F

from stages.ch08_graphs import best
from stages.ch08_graphs.evaluate import attention_of, macro_f1, propagate_labels, summary
from stages.ch08_graphs.layers import (
    LAYERS,
    SparseMatrix,
    build_graph,
    forward,
    hidden_values,
    keep_mask,
    layer_weights,
    start_layer,
    start_network,
)
from stages.ch08_graphs.networks import accuracies_at, agreeing, at_nodes, layered, losses_at
from stages.ch08_graphs.predict import described
from stages.ch08_graphs.preprocess import (
    PUBLIC_SPLIT,
    SUBJECTS,
    adjacency_matrix,
    feature_matrix,
    public_split,
    random_split,
    stored,
)
from stages.ch08_graphs.train import Selection, layer_name, train

# A square with one diagonal, and a node that nobody cites.
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]])
PAPERS = np.array([10, 11, 12, 13, 14])
WORDS = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]])


def small_graph(features: str = "raw"):
    return build_graph(
        {
            **stored("features", feature_matrix(WORDS, features)),
            **stored("adjacency", adjacency_matrix(PAPERS, EDGES + 10)),
        }
    )


def test_adjacency_by_hand():
    again = np.concatenate([EDGES + 10, [[11, 10], [12, 12]]])  # one the other way round, and a self-loop
    assert adjacency_matrix(PAPERS, again).toarray().tolist() == [
        [0, 1, 1, 1, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_normalized_adjacency_by_hand():
    matrix = small_graph().normalized.matrix.to_dense().numpy()
    assert matrix[0, 0] == pytest.approx(1 / 4)  # four with itself
    assert matrix[0, 1] == matrix[1, 0] == pytest.approx(1 / np.sqrt(4 * 3))
    assert matrix[1, 3] == 0 and matrix[4, 4] == 1


def test_features_of_a_paper_add_up_to_one():
    assert feature_matrix(WORDS, "normalized").toarray()[2].tolist() == pytest.approx([1 / 3] * 3)
    assert feature_matrix(WORDS, "raw").toarray().tolist() == WORDS.tolist()
    assert feature_matrix(np.array([[0, 0]]), "normalized").toarray().tolist() == [[0, 0]]


def test_random_splits_have_the_public_sizes_and_share_no_node():
    labels = np.random.default_rng(0).integers(0, 7, 2708)
    split = random_split(labels, np.random.default_rng(1))
    assert {part: len(nodes) for part, nodes in split.items()} == {"train": 140, "val": 500, "test": 1000}
    assert np.bincount(labels[split["train"]]).tolist() == [20] * 7
    assert len(set(np.concatenate(list(split.values())).tolist())) == 1640
    assert not np.array_equal(split["test"], random_split(labels, np.random.default_rng(2))["test"])


def test_public_split_is_planetoids():
    ids = json.loads(PUBLIC_SPLIT.read_text(encoding="utf-8"))
    assert {part: len(set(papers)) for part, papers in ids.items()} == {"train": 140, "val": 500, "test": 1000}
    assert len({paper for papers in ids.values() for paper in papers}) == 1640
    assert public_split(np.array([5, 3, 9]), {"train": [9], "val": [5], "test": [3]}) == {
        "train": [2],
        "val": [0],
        "test": [1],
    }


def in_pyg(layer: str, weights: dict[str, torch.Tensor], run: int):
    """Return PyTorch Geometric's layer with the weights of one run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric.nn import ChebConv, GATConv, GCNConv, GINConv, SAGEConv

    own = {name: value[run] for name, value in weights.items()}
    linear = next(value for name, value in own.items() if name.startswith("weight"))
    fan_in, fan_out = linear.shape
    if layer == "gcn":
        conv = GCNConv(fan_in, fan_out)
        state = {"bias": own["bias"], "lin.weight": own["weight"].T}
    elif layer == "sage":
        conv = SAGEConv(fan_in, fan_out)
        state = {"lin_l.weight": own["neighbours"].T, "lin_l.bias": own["bias"], "lin_r.weight": own["weight"].T}
    elif layer == "gin":
        conv = GINConv(nn.Sequential(nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Linear(fan_out, fan_out)))
        state = {"nn.0.weight": own["weight"].T, "nn.0.bias": own["bias"]}
        state |= {"nn.2.weight": own["weight2"].T, "nn.2.bias": own["bias2"], "eps": torch.zeros(1)}
    elif layer == "cheb":
        conv = ChebConv(fan_in, fan_out, K=3)
        state = {"bias": own["bias"], **{f"lins.{order}.weight": own[f"weight{order}"].T for order in range(3)}}
    else:
        heads, channels = own["source"].shape
        conv = GATConv(fan_in, channels, heads=heads)
        state = {"bias": own["bias"], "lin.weight": own["weight"].T}
        state |= {"att_src": own["source"][None], "att_dst": own["target"][None]}
    conv.load_state_dict({name: value.clone() for name, value in state.items()})
    return conv


@pytest.mark.parametrize("layer", ["gcn", "sage", "gin", "cheb", "gat"])
def test_layers_equal_pytorch_geometrics(layer):
    graph, generator = small_graph(), torch.Generator().manual_seed(0)
    edge_index = torch.from_numpy(np.concatenate([EDGES, EDGES[:, ::-1]]).T.copy())
    weights = start_layer(layer, 3, 3, 8, 4, generator)
    for name in weights:  # biases start at zero: give them something to be mixed up with
        if name.startswith("bias"):
            weights[name].uniform_(-1, 1, generator=generator)
    results = LAYERS[layer](graph, None, weights)  # (nodes, runs, out)
    dense = torch.from_numpy(WORDS).float()
    values = torch.randn(5, 3, 3, generator=generator)
    later = LAYERS[layer](graph, values, weights)
    for run in range(3):
        conv = in_pyg(layer, weights, run)
        with torch.no_grad():
            assert torch.allclose(results[:, run], conv(dense, edge_index), atol=1e-5)
            assert torch.allclose(later[:, run], conv(values[:, run], edge_index), atol=1e-5)


def test_dense_is_the_program_of_fig_84():
    graph, generator = small_graph(), torch.Generator().manual_seed(0)
    weights = start_network("dense_sum", 2, 3, 4, 7, 1, generator)
    for name in weights:  # biases start at zero: they would be the same before the sum and behind it
        if name.endswith("bias"):
            weights[name].uniform_(-1, 1, generator=generator)
    adjacency = torch.eye(5)
    adjacency[EDGES[:, 0], EDGES[:, 1]] = 1
    adjacency[EDGES[:, 1], EDGES[:, 0]] = 1
    logits = forward("dense_sum", graph, weights)
    averaged = forward("dense_mean", graph, weights)
    for run in range(2):
        vertices = summed = torch.from_numpy(WORDS).float()
        for number in (1, 2):
            own = {name: value[run] for name, value in layer_weights(weights, number).items()}
            summed = torch.sigmoid(adjacency @ summed @ own["weight"] + own["bias"])
            mean = adjacency / adjacency.sum(dim=1, keepdim=True)
            vertices = torch.sigmoid(mean @ vertices @ own["weight"] + own["bias"])
        assert torch.allclose(torch.sigmoid(logits[:, run]), summed, atol=1e-6)
        assert torch.allclose(torch.sigmoid(averaged[:, run]), vertices, atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_are_those_of_difference_quotients(layer):
    graph, generator = small_graph(), torch.Generator().manual_seed(1)
    weights = start_network(layer, 2, 3, 4, 7, 2, generator)
    for value in weights.values():
        value.requires_grad_()
    forward(layer, graph, weights).square().sum().backward()
    for name in ("1." + next(key for key in layer_weights(weights, 1) if key.startswith("weight")), "2.bias"):
        gradient = weights[name].grad
        place = tuple(int(index) for index in np.unravel_index(int(gradient.abs().argmax()), gradient.shape))
        values = []
        for change in (1e-2, -1e-2):
            moved = {key: value.detach().clone() for key, value in weights.items()}
            moved[name][place] += change
            values.append(forward(layer, graph, moved).square().sum().item())
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(gradient[place].item(), rel=2e-2)


@pytest.mark.parametrize("layer", LAYERS)
def test_renaming_the_nodes_renames_the_results(layer):
    order = np.array([3, 1, 4, 0, 2])
    parts = {
        "features": feature_matrix(WORDS[order], "raw"),
        "adjacency": adjacency_matrix(PAPERS[order], EDGES + 10),
    }
    renamed = build_graph({key: value for name, matrix in parts.items() for key, value in stored(name, matrix).items()})
    weights = start_network(layer, 2, 3, 4, 7, 2, torch.Generator().manual_seed(0))
    assert torch.allclose(forward(layer, renamed, weights), forward(layer, small_graph(), weights)[order], atol=1e-5)


def test_attention_to_a_node_adds_up_to_one():
    graph = small_graph()
    weights = start_network("gat", 2, 3, 8, 7, 4, torch.Generator().manual_seed(0))
    alphas = attention_of(graph, weights, 1)
    targets = graph.targets.matrix.col_indices().numpy()
    np.testing.assert_allclose(np.bincount(targets, alphas), np.ones(5), rtol=1e-5)
    assert len(set(alphas[targets == 0].round(6))) > 1


def test_attention_bears_scores_far_apart():
    graph = small_graph()
    weights = start_layer("gat", 1, 3, 8, 4, torch.Generator().manual_seed(0))
    for name in ("source", "target"):
        weights[name] *= 2000
    assert LAYERS["gat"](graph, None, weights).isfinite().all()


def test_masks_keep_the_share_and_the_mean():
    mask = keep_mask((50, 40, 30), 0.25, torch.Generator().manual_seed(0))
    assert mask.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (mask == 0).float().mean() == pytest.approx(0.25, abs=0.01)
    assert mask.mean() == pytest.approx(1, abs=0.01)
    assert (keep_mask((3, 3), 0.0, torch.Generator()) == 1).all()


def test_input_dropout_leaves_out_whole_words():
    graph = small_graph()
    weights = start_network("mlp", 4, 3, 64, 7, 1, torch.Generator().manual_seed(0))
    full = hidden_values("mlp", graph, layer_weights(weights, 1))
    torch.manual_seed(0)
    seen = []
    for seed in range(20):
        logits = forward("mlp", graph, weights, 0.5, 0.0, torch.Generator().manual_seed(seed))
        seen.append(logits[1])  # the second paper has one word: it is there, twice as strong, or not at all
    gone = forward("mlp", graph, {**weights, "1.weight": torch.zeros(4, 3, 64)})[1]
    twice = forward("mlp", graph, {**weights, "1.weight": 2 * weights["1.weight"]})[1]
    for logits in seen:
        for run in range(4):
            assert torch.allclose(logits[run], gone[run], atol=1e-5) or torch.allclose(
                logits[run], twice[run], atol=1e-5
            )
    assert full.shape == (5, 4, 64)


def test_dropout_leaves_hidden_values_out_or_doubles_them():
    weights = start_network("mlp", 2, 3, 7, 7, 1, torch.Generator().manual_seed(0))
    weights |= {"2.weight": torch.eye(7).expand(2, 7, 7), "2.bias": torch.zeros(2, 7)}  # the output is what is hidden
    hidden = hidden_values("mlp", small_graph(), layer_weights(weights, 1))
    found = forward("mlp", small_graph(), weights, 0.0, 0.5, torch.Generator().manual_seed(0))
    ratios = (found / hidden)[hidden > 0]
    assert set(ratios.round(decimals=4).tolist()) == {0.0, 2.0}


def options(**changes):
    defaults = {"epochs": 4, "learning_rate": 0.1, "weight_decay": 0.01, "decayed": "first"}
    return {**defaults, "chosen_by": "last", "validate_every": 2, **changes}


def without_dropout(layer):
    return layered(layer, 0.0, 0.0, torch.Generator())


LABELS = torch.tensor([0, 1, 2, 1, 0])
PARTS = {
    "train": torch.tensor([[0, 1, 2], [4, 3, 2]]),
    "val": torch.tensor([[3, 4], [0, 1]]),
    "test": torch.tensor([[3, 4], [0, 1]]),
}


@pytest.mark.parametrize("layer", ["gcn", "gat", "gin"])
def test_training_side_by_side_is_training_one_by_one(layer):
    graph = small_graph()
    start = start_network(layer, 2, 3, 4, 7, 2, torch.Generator().manual_seed(0))
    both, _ = train(without_dropout(layer), graph, LABELS, PARTS, copied(start), **options())
    for run in range(2):
        parts = {part: nodes[run : run + 1] for part, nodes in PARTS.items()}
        alone = {name: value[run : run + 1].clone() for name, value in start.items()}
        alone, _ = train(without_dropout(layer), graph, LABELS, parts, alone, **options())
        # The gradient of the attention's target all but vanishes here, and Adam makes whole steps of its rounding.
        compared = [name for name in alone if not name.endswith("target")]
        assert all(torch.allclose(both[name][run], alone[name][0], atol=1e-5) for name in compared)


def copied(weights):
    return {name: value.clone() for name, value in weights.items()}


@pytest.mark.parametrize("decayed", ["first", "all"])
def test_training_is_adam_on_the_mean_cross_entropy(decayed):
    graph = small_graph()
    start = start_network("mlp", 1, 3, 4, 7, 1, torch.Generator().manual_seed(0))
    parts = {part: nodes[:1] for part, nodes in PARTS.items()}
    own, _ = train(without_dropout("mlp"), graph, LABELS, parts, copied(start), **options(decayed=decayed))
    weights = {name: value[0].clone().requires_grad_() for name, value in start.items()}
    decay = [{"params": [weights[name] for name in weights if name[0] == number], "weight_decay": amount}
             for number, amount in (("1", 0.01), ("2", 0.01 if decayed == "all" else 0.0))]  # fmt: skip
    optimizer = torch.optim.Adam(decay, lr=0.1)
    words = torch.from_numpy(WORDS).float()
    for _ in range(4):
        hidden = torch.relu(words @ weights["1.weight"] + weights["1.bias"])
        logits = hidden @ weights["2.weight"] + weights["2.bias"]
        loss = F.cross_entropy(logits[[0, 1, 2]], LABELS[[0, 1, 2]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.allclose(own[name][0], value, atol=1e-5) for name, value in weights.items())


def test_selection_keeps_each_runs_best():
    selection = Selection({"w": torch.zeros(3, 1)})
    for step, (accuracies, losses) in enumerate([([0.5, 0.5, 0.5], [1, 1, 1]), ([0.6, 0.5, 0.4], [2, 0.5, 0.1])], 1):
        selection.offer(
            {"w": torch.full((3, 1), float(step))}, torch.tensor(accuracies).double(), torch.tensor(losses).float()
        )
    assert selection.weights["w"].flatten().tolist() == [2, 2, 1]  # better; equal, and a lower loss; worse
    assert selection.accuracies.tolist() == pytest.approx([0.6, 0.5, 0.5])


def test_validation_chooses_and_last_does_not():
    graph = small_graph()
    start = start_network("gcn", 2, 3, 4, 7, 1, torch.Generator().manual_seed(0))
    chosen, history = train(
        without_dropout("gcn"), graph, LABELS, PARTS, copied(start), **options(epochs=40, chosen_by="validation")
    )
    last, _ = train(without_dropout("gcn"), graph, LABELS, PARTS, copied(start), **options(epochs=40))
    best = accuracies_at(forward("gcn", graph, chosen), LABELS, PARTS["val"])
    assert (best >= accuracies_at(forward("gcn", graph, last), LABELS, PARTS["val"])).all()
    assert best.mean() == pytest.approx(max(history["val_accuracy"]), abs=0.3)
    assert len(history["val_accuracy"]) == 20


def test_the_epoch_is_chosen_by_validation_nodes_alone():
    """No node teaches the class of the validation node, so that its loss only rises: the first look is the best."""
    graph, labels = small_graph(), torch.tensor([0, 1, 2, 5, 0])
    parts = {"train": torch.tensor([[0, 1, 2]]), "val": torch.tensor([[3]]), "test": torch.tensor([[4]])}
    start = start_network("mlp", 1, 3, 4, 7, 1, torch.Generator().manual_seed(0))
    chosen, first, last = (
        train(without_dropout("mlp"), graph, labels, parts, copied(start), **options(**changes))[0]
        for changes in ({"epochs": 20, "chosen_by": "validation"}, {"epochs": 2}, {"epochs": 20})
    )
    assert all(torch.equal(chosen[name], first[name]) for name in first)
    assert not torch.equal(chosen["1.weight"], last["1.weight"])


def test_averages_are_what_is_kept():
    """With half as decay the weights of the last three epochs count 1/2, 1/4 and 1/4."""
    graph, parts = small_graph(), {part: nodes[:1] for part, nodes in PARTS.items()}
    start = start_network("mlp", 1, 3, 4, 7, 1, torch.Generator().manual_seed(0))
    after = [
        train(without_dropout("mlp"), graph, LABELS, parts, copied(start), **options(epochs=epochs))[0]
        for epochs in (1, 2, 3)
    ]
    settings = options(epochs=3, average_decay=0.5)
    averages, _ = train(without_dropout("mlp"), graph, LABELS, parts, copied(start), **settings)
    for name, value in averages.items():
        expected = after[0][name] / 4 + after[1][name] / 4 + after[2][name] / 2
        assert torch.allclose(value, expected, atol=1e-6)


def test_losses_and_accuracies_by_hand():
    logits = torch.zeros(5, 2, 7)
    logits[3, 0, 1] = logits[4, 0, 3] = 100.0  # the first run is right on node 3 and wrong on 4
    assert accuracies_at(logits, LABELS, PARTS["val"]).tolist()[0] == 0.5
    assert losses_at(logits, LABELS, PARTS["train"])[0] == pytest.approx(np.log(7))
    assert at_nodes(logits, PARTS["val"])[0, 0].tolist() == logits[3, 0].tolist()


def test_label_propagation_follows_the_edges():
    graph, labels = small_graph(), torch.tensor([0, 1, 0, 1, 1])
    spread = propagate_labels(graph, labels, {"train": torch.tensor([[0]])}, 0.1, 30)[:, 0]
    assert (spread[[0, 1, 2, 3], 0] > 0).all() and (spread[4] == 0).all()
    assert (spread[:, 1:] == 0).all()
    # The fixed point F = (1 − r) S F + r Y.
    known = torch.zeros(5, 7)
    known[0, 0] = 1
    matrix = small_graph().normalized.matrix.to_dense()
    expected = 0.1 * torch.linalg.solve(torch.eye(5) - 0.9 * matrix, known)
    assert torch.allclose(spread, expected, atol=5e-3)


def test_macro_f1_counts_classes_alike():
    logits = torch.zeros(4, 1, 7)
    logits[:, 0, 0] = 1  # all are said to be of class 0
    scores = macro_f1(logits, torch.tensor([0, 0, 0, 1]), torch.tensor([[0, 1, 2, 3]]))
    assert scores[0] == pytest.approx((6 / 7 + 0) / 2)


def test_macro_f1_is_sklearns():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (40,), generator=generator)
    nodes = torch.stack([torch.randperm(40, generator=generator)[:8] for _ in range(30)])  # few: classes are missing
    logits = torch.randn(40, 30, 7, generator=generator)
    found = at_nodes(logits, nodes).argmax(dim=-1)
    expected = [f1_score(labels[own], other, average="macro") for own, other in zip(nodes, found, strict=True)]
    assert macro_f1(logits, labels, nodes) == pytest.approx(expected, abs=1e-12)


def test_summary_by_hand():
    results = {f"{group}_{key}": np.array([0.5, 0.7]) for group in ("public", "random")
               for key in ("accuracy", "val_accuracy", "macro_f1")}  # fmt: skip
    metrics = summary(results)
    assert metrics["accuracy_mean"] == 0.6
    assert metrics["accuracy_random_split_std"] == pytest.approx(np.sqrt(0.02), abs=1e-6)


def test_dense_is_one_of_two():
    assert [layer_name(layer, "sum") for layer in ("dense", "gcn")] == ["dense_sum", "gcn"]


def test_description_of_a_paper():
    graph = {
        "papers": np.array([7, 8]),
        "labels": np.array([2, 0]),
        "public_train": np.array([0]),
        "public_val": np.array([], dtype=int),
        "public_test": np.array([1]),
        "adjacency_indptr": np.array([0, 1, 2]),  # each cites the other
        "adjacency_indices": np.array([1, 0]),
    }
    results = {
        "gcn_predictions": np.array([[0.1, 0, 0.9, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]),
        "edge_targets": np.array([1, 0, 0, 1]),
        "edge_sources": np.array([0, 0, 1, 1]),
    }
    lines = described(7, "gcn", graph, results).splitlines()
    assert lines[0] == "paper 7, gcn, part of the public split: train"
    assert lines[1].split(maxsplit=1) == ["0.9000", SUBJECTS[2]]
    assert lines[-1] == f"true class: {SUBJECTS[2]}"
    with pytest.raises(ValueError, match="Cora has no paper 9; one that it has is 8"):
        described(9, "gcn", graph, results)
    with pytest.raises(ValueError, match="there is no layer gnc; there are gcn"):
        described(7, "gnc", graph, results)


@pytest.mark.parametrize(
    ("dense", "picks"),
    [
        ([[0, 1, 0], [1, 0, 0]], True),  # a single 1 in each row
        ([[0, 2, 0], [1, 0, 0]], False),
        ([[1, 1, 0], [0, 1, 1]], False),
        ([[0, 0, 0], [0, 1, 1]], False),
    ],
)
def test_sparse_products_and_their_gradients(dense, picks):
    stored = sparse.csr_matrix(np.array(dense, dtype=np.float32))
    matrix = SparseMatrix(stored.indptr, stored.indices, stored.data, stored.shape)
    assert (matrix.picked is not None) == picks
    values = torch.randn(3, 4, requires_grad=True)
    product, expected = matrix @ values, torch.tensor(dense, dtype=torch.float32) @ values
    torch.testing.assert_close(product, expected)
    weights = torch.randn(2, 4)
    gradients = [torch.autograd.grad((result * weights).sum(), values)[0] for result in (product, expected)]
    torch.testing.assert_close(*gradients)


def test_sparse_matrices_are_stored_whole():
    matrix = sparse.random(6, 4, 0.5, random_state=0, format="csr", dtype=np.float32)
    arrays = stored("m", matrix)
    again = sparse.csr_matrix(
        (arrays["m_values"], arrays["m_indices"], arrays["m_indptr"]), shape=tuple(arrays["m_shape"])
    )
    assert (again != matrix).nnz == 0


def best_weights(runs: int = 2):
    return start_network("mlp", runs, 3, 4, 7, 1, torch.Generator().manual_seed(0))


BEST = {"samples": 3, "restart": 0.2, "hops": 4, "node_dropout": 0.0, "input_dropout": 0.0, "dropout": 0.0}


def test_propagation_equals_pytorch_geometrics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric.nn import APPNP
    edge_index = torch.from_numpy(np.concatenate([EDGES, EDGES[:, ::-1]]).T.copy())
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    expected = APPNP(K=4, alpha=0.2)(values, edge_index)
    assert torch.allclose(best.propagate(small_graph(), values, 0.2, 4), expected, atol=1e-6)


def test_samples_without_dropout_are_the_prediction():
    graph, weights = small_graph(), best_weights()
    samples = best.sample_logits(graph, weights, **BEST, generator=torch.Generator())
    expected = best.predict(graph, weights, 0.2, 4)
    assert samples.shape == (5, 3, 2, 7)
    assert all(torch.allclose(samples[:, sample], expected, atol=1e-6) for sample in range(3))


def test_samples_differ_and_their_mean_is_the_prediction():
    graph, weights = small_graph(), best_weights()
    options = {**BEST, "samples": 16, "node_dropout": 0.5}
    samples = best.sample_logits(graph, weights, **options, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(samples[:, 0], samples[:, 1])
    more = [best.sample_logits(graph, weights, **options, generator=torch.Generator().manual_seed(seed)).mean(dim=1)
            for seed in range(100)]  # fmt: skip
    assert torch.allclose(torch.stack(more).mean(dim=0), best.predict(graph, weights, 0.2, 4), atol=0.1)


def test_disagreement_by_hand():
    logits = torch.log(torch.tensor([[0.8, 0.2], [0.4, 0.6]]))[None, :, None]  # one node, two samples, one run
    # Mean (0.6, 0.4), squared and made to add up to 1: (36, 16)/52.
    common = np.array([36, 16]) / 52
    expected = np.mean([((np.array(p) - common) ** 2).sum() for p in ([0.8, 0.2], [0.4, 0.6])])
    assert best.disagreement(logits, 0.5)[0].item() == pytest.approx(expected, rel=1e-5)
    assert best.disagreement(torch.full((4, 3, 2, 7), 100.0), 0.5).tolist() == pytest.approx([0, 0])


def test_losses_of_the_best_are_cross_entropy_and_disagreement():
    graph, weights = small_graph(), best_weights()
    losses = [
        best.losses_of(
            graph, LABELS, PARTS["train"], weights, torch.Generator(), temperature=0.5, consistency=c, **BEST
        )
        for c in (0.0, 2.0)
    ]
    logits = best.predict(graph, weights, 0.2, 4)
    assert torch.allclose(losses[0], losses_at(logits, LABELS, PARTS["train"]), atol=1e-6)
    extra = best.disagreement(logits[:, None], 0.5)
    assert torch.allclose(losses[1] - losses[0], 2 * extra, atol=1e-6)


def test_the_weight_of_the_agreement_rises_while_it_warms_up():
    graph, weights = small_graph(), best_weights()
    network = agreeing(torch.Generator(), consistency=2.0, warm_up=4, temperature=0.5, **BEST)
    logits = best.predict(graph, weights, 0.2, 4)
    supervised = losses_at(logits, LABELS, PARTS["train"])
    extra = best.disagreement(logits[:, None], 0.5)
    for epoch, weight in ((1, 0.5), (3, 1.5), (4, 2.0), (9, 2.0)):
        losses = network.losses(graph, LABELS, PARTS["train"], weights, epoch)
        assert torch.allclose(losses, supervised + weight * extra, atol=1e-6)


def test_the_best_network_learns():
    graph, parts = small_graph(), PARTS
    settings = {**BEST, "samples": 2, "hops": 2, "node_dropout": 0.5, "temperature": 0.5}
    network = agreeing(torch.Generator().manual_seed(0), consistency=1.0, warm_up=5, **settings)
    weights, history = train(network, graph, LABELS, parts, best_weights(), **options(epochs=60))
    assert history["train_loss"][-1] < 0.6 * history["train_loss"][0]
    assert accuracies_at(best.predict(graph, weights, 0.2, 2), LABELS, parts["train"]).mean() > 0.8


@pytest.mark.parametrize("layer", ["mlp", "dense_sum", "dense_mean", "gcn", "sage", "gat", "gin", "cheb"])
def test_the_librarys_start_is_that_of_the_layers_own_programs(layer):
    import torch_geometric.nn as pyg

    runs, fan_in, fan_out = 400, 9, 4
    ours = start_layer(layer, runs, fan_in, fan_out, 2, torch.Generator().manual_seed(0), "library")
    theirs = {
        "gcn": lambda: pyg.GCNConv(fan_in, fan_out),
        "sage": lambda: pyg.SAGEConv(fan_in, fan_out),
        "gat": lambda: pyg.GATConv(fan_in, fan_out // 2, heads=2),
        "gin": lambda: torch.nn.Sequential(torch.nn.Linear(fan_in, fan_out), torch.nn.Linear(fan_out, fan_out)),
        "cheb": lambda: pyg.ChebConv(fan_in, fan_out, 3),
    }.get(layer, lambda: torch.nn.Linear(fan_in, fan_out))
    names = {  # ours to theirs
        "gcn": {"weight": "lin.weight", "bias": "bias"},
        "sage": {"weight": "lin_r.weight", "neighbours": "lin_l.weight", "bias": "lin_l.bias"},
        "gat": {"weight": "lin.weight", "source": "att_src", "target": "att_dst", "bias": "bias"},
        "gin": {"weight": "0.weight", "bias": "0.bias", "weight2": "1.weight", "bias2": "1.bias"},
        "cheb": {**{f"weight{order}": f"lins.{order}.weight" for order in range(3)}, "bias": "bias"},
    }.get(layer, {"weight": "weight", "bias": "bias"})
    assert names.keys() == ours.keys()
    torch.manual_seed(0)
    drawn = [dict(theirs().named_parameters()) for _ in range(runs)]
    for own, other in names.items():
        expected = torch.stack([parameters[other].detach() for parameters in drawn])
        # Both are uniform, or both zero: their largest values and deviations tell their bounds.
        for measure in (lambda values: values.abs().max(), lambda values: values.std()):
            assert measure(ours[own]).item() == pytest.approx(measure(expected).item(), rel=0.05)
