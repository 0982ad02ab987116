"""Measure chapter 8's networks on the test nodes, beside label propagation as a floor.

In: data/prepared/ch08/graph.npz, data/models/ch08/<layer>.safetensors of every layer. Out: metrics/ch08/<layer>.json,
and data/evaluated/ch08/results.npz with the accuracy of every run, and what `plot` and `predict` show of single runs.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.manifold import TSNE
from sklearn.metrics import f1_score
from threadpoolctl import threadpool_limits

from stages.ch08_graphs.layers import (
    Graph,
    Weights,
    attention,
    build_graph,
    hidden_values,
    layer_weights,
)
from stages.ch08_graphs.networks import accuracies_at, at_nodes, predictor
from stages.ch08_graphs.preprocess import GRAPH, SUBJECTS
from stages.ch08_graphs.train import GROUPS, Parts, layer_name, model_path, parts_of
from stages.common.arrays import save_arrays
from stages.common.devices import set_up_torch
from stages.common.files import rounded, write_json
from stages.common.memory import keep_freed_memory
from stages.common.params import declared_parameters
from stages.common.progress import progress

RESULTS = "data/evaluated/ch08/results.npz"
TRAINED = ("mlp", "dense", "gcn", "sage", "gat", "gin", "cheb", "best")
FLOOR = "label_propagation"


def group_weights(weights: Weights, group: str) -> Weights:
    return {name.removeprefix(f"{group}."): value for name, value in weights.items() if name.startswith(f"{group}.")}


def propagate_labels(graph: Graph, labels: torch.Tensor, parts: Parts, restart: float, steps: int) -> torch.Tensor:
    """Spread the training labels along the edges: F ← (1 − restart) S F + restart Y (Zhou et al., 2004).

    S is the normalised adjacency matrix, here with every node its own neighbour, which it isn't in the paper. Y is
    one-hot at a run's training nodes. Returns F (nodes, runs, classes).
    """
    runs = len(parts["train"])
    known = torch.zeros(len(labels), runs, len(SUBJECTS))
    known[parts["train"], torch.arange(runs)[:, None], labels[parts["train"]]] = 1
    spread = known
    for _ in range(steps):
        spread = (1 - restart) * (graph.normalized @ spread) + restart * known
    return spread


def macro_f1(logits: torch.Tensor, labels: torch.Tensor, nodes: torch.Tensor) -> np.ndarray:
    """Return the mean of the classes' F1 at the nodes (runs, picked) of each run, (runs,).

    A class that is neither there nor found doesn't count.
    """
    predictions = at_nodes(logits, nodes).argmax(dim=-1)
    runs = zip(labels[nodes].numpy(), predictions.numpy(), strict=True)
    return np.array([f1_score(truths, found, average="macro") for truths, found in runs])


def measure(logits: dict[str, torch.Tensor], labels: torch.Tensor, parts: dict[str, Parts]) -> dict[str, np.ndarray]:
    """Return accuracy, validation accuracy and macro F1 of every run of both groups; logits (nodes, runs, classes)."""
    results = {}
    for group in GROUPS:
        results |= {
            f"{group}_accuracy": accuracies_at(logits[group], labels, parts[group]["test"]).numpy(),
            f"{group}_val_accuracy": accuracies_at(logits[group], labels, parts[group]["val"]).numpy(),
            f"{group}_macro_f1": macro_f1(logits[group], labels, parts[group]["test"]),
        }
    return results


def summary(results: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the metrics of one layer: means, and standard deviations over the runs."""
    public, random = results["public_accuracy"], results["random_accuracy"]
    return rounded(
        {
            "accuracy_mean": public.mean(),
            "accuracy_std": public.std(ddof=1),
            "accuracy_random_split_mean": random.mean(),
            "accuracy_random_split_std": random.std(ddof=1),
            "val_accuracy_mean": results["public_val_accuracy"].mean(),
            "macro_f1": results["public_macro_f1"].mean(),
            "macro_f1_random_split": results["random_macro_f1"].mean(),
        }
    )


def embed(values: np.ndarray, seed: int) -> np.ndarray:
    """Lay values (nodes, channels) out in the plane by t-SNE (van der Maaten and Hinton, 2008): (nodes, 2).

    Values that are all alike, those of a layer that has died, lie in one place; scikit-learn would crash on them.
    """
    if not np.ptp(values, axis=0).any():
        return np.zeros((len(values), 2), dtype=np.float32)
    # One thread for its own loops, whatever n_jobs says: with three or more the order of their sums is a matter of
    # chance. What it starts from is computed by OpenBLAS, whose threads are set for all threads at once (num_threads).
    with threadpool_limits(1):
        return TSNE(init="pca", max_iter=500, random_state=seed, n_jobs=1).fit_transform(values)


def attention_of(graph: Graph, weights: Weights, run: int) -> np.ndarray:
    """Return the attention (edges,) of the first layer of a GAT's run, the mean of its heads."""
    first = {name: value[run : run + 1] for name, value in layer_weights(weights, 1).items()}
    return attention(graph, None, first)[:, 0].mean(dim=-1).numpy()


@torch.no_grad()
def main() -> None:
    parameters = declared_parameters("ch08_evaluate")
    recipe = parameters.ch08.active
    seed = parameters.seed
    set_up_torch(seed, parameters.ch08.num_threads)
    keep_freed_memory()
    with np.load(GRAPH) as loaded:
        arrays = dict(loaded)
    graph, labels = build_graph(arrays), torch.from_numpy(arrays["labels"])
    saved = {layer: load_file(model_path(layer)) for layer in TRAINED}
    counts = {"public": parameters.ch08.runs, "random": len(arrays["train"])}
    spread = recipe.select("restart", "hops")
    floor_options = (recipe.propagation_restart, recipe.propagation_steps)
    kept: dict[str, np.ndarray] = {}
    hidden = hidden_values("gcn", graph, layer_weights(group_weights(saved["gcn"], "public"), 1))
    kept["hidden"] = hidden[:, 0].numpy()
    beside = ThreadPoolExecutor(1)
    embedding = beside.submit(embed, kept["hidden"], seed)  # takes as long as all the rest
    for layer in progress((*TRAINED, FLOOR), "ch08 evaluated"):
        weights = {group: group_weights(saved[layer], group) for group in GROUPS} if layer in saved else {}
        runs = {group: len(own["1.bias"]) for group, own in weights.items()} or counts
        parts = {group: parts_of(arrays, group, runs[group]) for group in GROUPS}
        name = layer_name(layer, recipe.dense_aggregation)
        if layer == FLOOR:
            logits = {group: propagate_labels(graph, labels, parts[group], *floor_options) for group in GROUPS}
        else:
            predict = predictor(name, **spread)
            logits = {group: predict(graph, weights[group]) for group in GROUPS}
            kept[f"{layer}_predictions"] = logits["public"][:, 0].softmax(dim=-1).numpy()  # of the first run
        results = measure(logits, labels, parts)
        write_json(f"metrics/ch08/{layer}.json", {**summary(results), "runs": runs["public"], "splits": runs["random"]})
        kept |= {f"{layer}_{key}": values for key, values in results.items()}
    kept["embedding"] = embedding.result()
    edges = graph.targets.matrix.col_indices(), graph.sources.matrix.col_indices()
    kept |= {"edge_targets": edges[0].numpy(), "edge_sources": edges[1].numpy()}
    kept["edge_attention"] = attention_of(graph, group_weights(saved["gat"], "public"), 0)
    save_arrays(RESULTS, **kept)


if __name__ == "__main__":
    main()
