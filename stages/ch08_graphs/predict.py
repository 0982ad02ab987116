"""Print what a trained network makes of one paper: `python -m stages.ch08_graphs.predict PAPER_ID [LAYER]`.

In: data/prepared/ch08/graph.npz, data/evaluated/ch08/results.npz (of `dvc repro ch08_evaluate`). It is no stage.
"""

import sys
from pathlib import Path

import numpy as np

from stages.ch08_graphs.preprocess import GRAPH, SUBJECTS

RESULTS = Path("data/evaluated/ch08/results.npz")
USAGE = "usage: python -m stages.ch08_graphs.predict PAPER_ID [LAYER]"


def edges_of_graph(graph: dict[str, np.ndarray]) -> np.ndarray:
    """Return the edges, and one of each node to itself, as sorted pairs (edges, 2)."""
    degrees = np.diff(graph["adjacency_indptr"])
    nodes = np.arange(len(degrees))
    edges = np.stack([np.repeat(nodes, degrees), graph["adjacency_indices"]], axis=1)
    return np.unique(np.concatenate([edges, np.stack([nodes, nodes], axis=1)]), axis=0)


def edges_of_results(results: dict[str, np.ndarray]) -> np.ndarray:
    """Return the edges of the graph that the results are of, as `edges_of_graph` gives them."""
    return np.unique(np.stack([results["edge_targets"], results["edge_sources"]], axis=1), axis=0)


def described(paper: int, layer: str, graph: dict[str, np.ndarray], results: dict[str, np.ndarray]) -> str:
    """Return the class probabilities of a paper, the true class, and which part of the public split it is in.

    Raises:
        ValueError: with one line, if there is no such paper or layer, or the results are of another graph.
    """
    if not np.array_equal(edges_of_graph(graph), edges_of_results(results)):
        raise ValueError(f"{RESULTS} is of another graph than {GRAPH}: run dvc repro ch08_evaluate")
    layers = sorted(name.removesuffix("_predictions") for name in results if name.endswith("_predictions"))
    if layer not in layers:
        raise ValueError(f"there is no layer {layer}; there are {', '.join(layers)}")
    (nodes,) = np.nonzero(graph["papers"] == paper)
    if not len(nodes):
        example = graph["papers"][graph["public_test"][0]]
        raise ValueError(f"Cora has no paper {paper}; one that it has is {example}")
    node = nodes[0]
    part = next((part for part in ("train", "val", "test") if node in graph[f"public_{part}"]), "none")
    shares = results[f"{layer}_predictions"][node]
    lines = [f"paper {paper}, {layer}, part of the public split: {part}"]
    lines += [f"{shares[index]:8.4f}  {SUBJECTS[index]}" for index in np.argsort(-shares, kind="stable")]
    return "\n".join([*lines, f"true class: {SUBJECTS[graph['labels'][node]]}"])


def main() -> int:
    match sys.argv[1:]:
        case [paper, *rest] if len(rest) <= 1 and paper.lstrip("-").isdigit():
            layer = rest[0] if rest else "gcn"
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    if not (Path(GRAPH).exists() and RESULTS.exists()):
        print("nothing is trained yet: first run dvc repro ch08_evaluate", file=sys.stderr)
        return 1
    with np.load(GRAPH) as graph, np.load(RESULTS) as results:
        try:
            print(described(int(paper), layer, dict(graph), dict(results)))
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
