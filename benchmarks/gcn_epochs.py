"""How much faster chapter 8 trains a GCN than the book's program (figs. 85, 86): `python -m benchmarks.gcn_epochs`.

Two programs in turn, in one process, with the same features, split, sizes, optimizer and 200 epochs:

    plain     after figs. 85 and 86: PyTorch Geometric's GCNConv on dense features, one network after the other
    ours      stages.ch08_graphs, as many networks as --runs side by side

Prints the seconds that a network takes, the test accuracy of both, and the ratio of their times. Needs
data/prepared/ch08/graph.npz with the book's raw features or the normalised ones; both programs get the same.
"""

import argparse
import statistics
import time
import warnings

import numpy as np
import torch
from torch.nn import functional as F

from stages.ch08_graphs.layers import build_graph, forward, start_network
from stages.ch08_graphs.networks import accuracies_at, layered
from stages.ch08_graphs.preprocess import GRAPH, SUBJECTS
from stages.ch08_graphs.train import parts_of, train

EPOCHS, HIDDEN_SIZE, DROPOUT, RATE, DECAY = 200, 16, 0.5, 0.01, 5e-4


def plain_run(arrays: dict[str, np.ndarray], seed: int) -> tuple[float, float]:
    """Train one network as the book does; return seconds and test accuracy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric.nn import GCNConv

    class Gcn(torch.nn.Module):
        def __init__(self, words: int):
            super().__init__()
            self.conv1 = GCNConv(words, HIDDEN_SIZE)
            self.conv2 = GCNConv(HIDDEN_SIZE, len(SUBJECTS))

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            x = F.dropout(F.relu(self.conv1(x, edge_index)), DROPOUT, training=self.training)
            return F.log_softmax(self.conv2(x, edge_index), dim=1)

    torch.manual_seed(seed)
    nodes, words = arrays["features_shape"]
    degrees = np.diff(arrays["features_indptr"])
    x = torch.zeros(nodes, words)
    x[np.repeat(np.arange(nodes), degrees), arrays["features_indices"]] = torch.from_numpy(arrays["features_values"])
    rows = np.repeat(np.arange(nodes), np.diff(arrays["adjacency_indptr"]))
    edge_index = torch.from_numpy(np.stack([rows, arrays["adjacency_indices"]]).astype(np.int64))
    labels = torch.from_numpy(arrays["labels"])
    train_nodes, test_nodes = (torch.from_numpy(arrays[f"public_{part}"]) for part in ("train", "test"))
    model = Gcn(words)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=DECAY)
    started = time.perf_counter()
    model.train()
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        loss = F.nll_loss(model(x, edge_index)[train_nodes], labels[train_nodes])
        loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - started
    model.eval()
    with torch.no_grad():
        found = model(x, edge_index).argmax(dim=1)
    return seconds, (found[test_nodes] == labels[test_nodes]).double().mean().item()


def our_runs(arrays: dict[str, np.ndarray], seed: int, runs: int) -> tuple[float, list[float]]:
    """Train `runs` networks side by side; return seconds for all and their test accuracies."""
    graph, labels = build_graph(arrays), torch.from_numpy(arrays["labels"])
    parts = parts_of(arrays, "public", runs)
    generator = torch.Generator().manual_seed(seed)
    weights = start_network("gcn", runs, int(arrays["features_shape"][1]), HIDDEN_SIZE, len(SUBJECTS), 1, generator)
    options = {"learning_rate": RATE, "weight_decay": DECAY, "decayed": "all"}
    started = time.perf_counter()
    weights, _ = train(
        layered("gcn", 0.0, DROPOUT, generator),
        graph,
        labels,
        parts,
        weights,
        epochs=EPOCHS,
        chosen_by="last",
        validate_every=EPOCHS,
        **options,
    )
    seconds = time.perf_counter() - started
    with torch.no_grad():
        logits = forward("gcn", graph, weights)
    return seconds, accuracies_at(logits, labels, parts["test"]).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="networks side by side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.runs * arguments.repeats < 2:
        parser.error("a spread needs --runs or --repeats of 2 or more")
    torch.set_num_threads(arguments.threads)
    with np.load(GRAPH) as loaded:
        arrays = dict(loaded)
    plain_run(arrays, 0)  # loads libraries
    plain_seconds, plain_accuracies, our_seconds, our_accuracies = [], [], [], []
    for repeat in range(arguments.repeats):
        for seed in range(3 * repeat, 3 * repeat + 3):
            seconds, accuracy = plain_run(arrays, seed)
            plain_seconds.append(seconds)
            plain_accuracies.append(accuracy)
        seconds, accuracies = our_runs(arrays, repeat, arguments.runs)
        our_seconds.append(seconds / arguments.runs)
        our_accuracies += accuracies
    for name, seconds, accuracies in (
        ("plain", plain_seconds, plain_accuracies),
        ("ours", our_seconds, our_accuracies),
    ):
        spread = f"{statistics.mean(accuracies):.4f} ± {statistics.stdev(accuracies):.4f} ({len(accuracies)} networks)"
        print(f"{name}: {statistics.median(seconds):.3f} s a network of {EPOCHS} epochs, test accuracy {spread}")
    print(f"ratio: {statistics.median(plain_seconds) / statistics.median(our_seconds):.2f}")


if __name__ == "__main__":
    main()
