"""Training on sampled neighbours: as accurate as on the whole graph, in memory that hardly grows with the graph.

`python -m benchmarks.neighbour_sampling` prints two tables:

    Cora      test accuracy of networks trained on the whole graph and in batches with sampled neighbours, for as many
              steps (public split)
    size      generated graphs of growing size: memory of the process with its arrays, what training adds to it in
              batches and on the whole graph, seconds of a step, accuracy on 1,000 other nodes

On the whole graph training takes its matrices as PyTorch has them, made once, which counts as memory but not as a step.
Every row of the second table is measured in processes of its own. Needs data/prepared/ch08/graph.npz.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from stages.ch08_graphs.layers import Graph, SparseMatrix, build_graph, forward, start_network
from stages.ch08_graphs.networks import accuracies_at, layered
from stages.ch08_graphs.preprocess import GRAPH, SUBJECTS, stored_matrix
from stages.ch08_graphs.sampling import Source, batches, predict_in_parts
from stages.ch08_graphs.train import parts_of, train
from stages.common.memory import keep_freed_memory

OPTIONS = {"learning_rate": 0.02, "weight_decay": 5e-4, "decayed": "first"}
DROPOUT = 0.5
CLASSES, WORDS, WORDS_EACH, NEIGHBOURS = len(SUBJECTS), 500, 10, 10
LABELLED, TESTED = 10_000, 1_000
MIB = 1024  # ru_maxrss counts KiB on Linux


def on_cora(layer: str, runs: int, batch_nodes: int, fan_out: int) -> None:
    with np.load(GRAPH) as loaded:
        arrays = dict(loaded)
    graph, labels, parts = build_graph(arrays), torch.from_numpy(arrays["labels"]), parts_of(arrays, "public", runs)
    source = Source(stored_matrix(arrays, "features"), stored_matrix(arrays, "adjacency"))
    hops = 4 if layer == "cheb" else 2
    whole, steps = "whole graph", -(-parts["train"].shape[1] // batch_nodes)  # in an epoch of batches
    for name in (whole, f"batches of {batch_nodes}, {fan_out} neighbours"):
        generator = torch.Generator().manual_seed(0)
        weights = start_network(layer, runs, source.features.shape[1], 16, CLASSES, 4, generator)
        draw = partial(batches, source, labels, parts["train"], batch_nodes, fan_out, hops, generator)
        times = steps if name == whole else 1  # an epoch on the whole graph is one step
        options = {**OPTIONS, "epochs": 100 * times, "chosen_by": "validation", "validate_every": 5 * times}
        options["draw"] = None if name == whole else draw
        started = time.perf_counter()
        network = layered(layer, DROPOUT, DROPOUT, generator)
        weights, _ = train(network, graph, labels, parts, weights, **options)
        seconds = time.perf_counter() - started
        with torch.no_grad():
            found = accuracies_at(forward(layer, graph, weights), labels, parts["test"])
        spread = f"{found.mean():.4f} ± {found.std():.4f} over {runs} runs"
        print(f"{layer:5}  {name:30}  test accuracy {spread}, {seconds:.1f} s", flush=True)


def generate(nodes: int, path: Path) -> None:
    """Write a graph whose papers mostly cite, and mostly use the words of, their own of seven subjects."""
    generator = np.random.default_rng(nodes)
    labels = generator.integers(CLASSES, size=nodes)
    order = np.argsort(labels, kind="stable")  # the nodes of one class lie side by side in it
    ends, counts = np.cumsum(np.bincount(labels)), np.bincount(labels)
    citing = np.repeat(np.arange(nodes), NEIGHBOURS // 2)
    own = labels[citing]
    same = order[ends[own] - counts[own] + (generator.random(len(citing)) * counts[own]).astype(np.int64)]
    cited = np.where(generator.random(len(citing)) < 0.7, same, generator.integers(nodes, size=len(citing)))
    directed = sparse.coo_matrix((np.ones(len(citing), np.float32), (citing, cited)), shape=(nodes, nodes)).tocsr()
    adjacency = ((directed + directed.T) > 0).astype(np.float32)
    adjacency.setdiag(0)
    adjacency.eliminate_zeros()
    word_of = np.repeat(np.arange(nodes), WORDS_EACH)
    words = generator.integers(WORDS, size=len(word_of))
    typical = words // CLASSES * CLASSES + labels[word_of]
    words = np.where((generator.random(len(word_of)) < 0.15) & (typical < WORDS), typical, words)
    features = sparse.csr_matrix((np.full(len(words), 1 / WORDS_EACH, np.float32), (word_of, words)), (nodes, WORDS))
    np.savez(
        path,
        labels=labels,
        features=features.data, features_indices=features.indices, features_indptr=features.indptr,
        adjacency=adjacency.data, adjacency_indices=adjacency.indices, adjacency_indptr=adjacency.indptr,
    )  # fmt: skip


def graph_for_sage(source: Source) -> Graph:
    """Return the whole graph with the two matrices that GraphSAGE reads; those of all layers take five times more."""
    degrees = np.maximum(np.diff(source.adjacency.indptr), 1).astype(np.float64)
    mean = (sparse.diags(1 / degrees) @ source.adjacency).tocsr()
    own = {"features": source.features, "mean": mean}
    made = {name: SparseMatrix(m.indptr, m.indices, m.data, m.shape) for name, m in own.items()}
    return Graph(**{name: made.get(name) for name in Graph._fields})


def peak() -> float:
    """Return the most memory that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def at_size(nodes: int, path: Path, batch_nodes: int, fan_out: int, batched: bool) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    with np.load(path) as loaded:
        labels = torch.from_numpy(loaded["labels"])
        parts = {
            name: sparse.csr_matrix(
                (loaded[name], loaded[f"{name}_indices"], loaded[f"{name}_indptr"]), shape=(nodes, columns)
            )
            for name, columns in (("features", WORDS), ("adjacency", nodes))
        }
    source = Source(**parts)
    chosen = torch.from_numpy(np.random.default_rng(0).permutation(nodes))
    trained, tested = chosen[: min(LABELLED, nodes - TESTED)], chosen[-TESTED:]
    generator = torch.Generator().manual_seed(0)
    weights = start_network("sage", 1, WORDS, 16, CLASSES, 1, generator)
    held = peak()
    draw = partial(batches, source, labels, trained[None], batch_nodes, fan_out, 2, generator)
    graph = None if batched else graph_for_sage(source)
    started = time.perf_counter()
    options = {**OPTIONS, "epochs": 2, "chosen_by": "last", "validate_every": 3, "draw": draw if batched else None}
    network = layered("sage", DROPOUT, DROPOUT, generator)
    weights, _ = train(network, graph, labels, {"train": trained[None]}, weights, **options)
    steps = 2 * -(-len(trained) // batch_nodes) if batched else 2
    seconds = (time.perf_counter() - started) / steps
    added = peak() - held
    found = predict_in_parts("sage", source, weights, tested.numpy(), 500, fan_out, 2, np.random.default_rng(1))
    accuracy = (found[:, 0].argmax(dim=1) == labels[tested]).double().mean()
    how = f"batches of {batch_nodes}" if batched else "whole graph"
    print(
        f"{nodes:9,} nodes  {how:15}  process {held:6,.0f} MiB, training adds {added:6,.0f} MiB, "
        f"{seconds:6.2f} s a step, {steps} steps, accuracy {accuracy:.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--batch-nodes", type=int, default=70, help="on Cora; 500 elsewhere")
    parser.add_argument("--fan-out", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--cora", help=argparse.SUPPRESS)  # layer
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)  # nodes, path, what to do
    arguments = parser.parse_args()
    if arguments.runs < 2 or arguments.batch_nodes < 1:
        parser.error("--runs must be 2 or more, for a spread, and --batch-nodes 1 or more")
    if min(arguments.sizes, default=TESTED + 1) <= TESTED:
        parser.error(f"--sizes must be more than the {TESTED} nodes that are tested")
    if arguments.row:
        nodes, path, task = int(arguments.row[0]), Path(arguments.row[1]), arguments.row[2]
        if task == "generate":
            return generate(nodes, path)
        return at_size(nodes, path, 500, arguments.fan_out, batched=task == "batches")
    if arguments.cora:
        return on_cora(arguments.cora, arguments.runs, arguments.batch_nodes, arguments.fan_out)
    # In processes of their own, since a process also counts the memory of the one that started it.
    program = [sys.executable, "-m", "benchmarks.neighbour_sampling", "--fan-out", str(arguments.fan_out)]
    for layer in ("gcn", "sage"):
        numbers = ["--runs", str(arguments.runs), "--batch-nodes", str(arguments.batch_nodes)]
        subprocess.run([*program, "--cora", layer, *numbers], check=True)
    for nodes in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            for task in ("generate", "batches", "whole"):
                subprocess.run([*program, "--row", str(nodes), f"{folder}/graph.npz", task], check=True)


if __name__ == "__main__":
    main()
