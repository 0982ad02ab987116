"""Turn Cora into arrays: features, labels, the adjacency matrix, and who learns from whom.

In: data/raw/ch08/*.parquet, stages/ch08_graphs/cora_public_split.json. Out: data/prepared/ch08/graph.npz with

    papers (nodes,)             ids, in the order of the nodes
    labels (nodes,)             index into SUBJECTS
    features_*                  (nodes, words), sparse: indptr, indices, values
    adjacency_*                 (nodes, nodes), sparse, 1 where one paper cites the other, without self-loops
    public_train, _val, _test   nodes of the public split
    train, val, test            (splits, …): nodes of random splits of the same sizes, after Shchur et al. (2018)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from stages.common.arrays import save_arrays
from stages.common.params import declared_parameters

if TYPE_CHECKING:
    import pandas as pd

RAW = Path("data/raw/ch08")
PUBLIC_SPLIT = Path(__file__).with_name("cora_public_split.json")
GRAPH = "data/prepared/ch08/graph.npz"

SUBJECTS = (
    "Neural networks",
    "Rule learning",
    "Reinforcement learning",
    "Probabilistic methods",
    "Theory",
    "Genetic algorithms",
    "Case-based",
)
TRAIN_PER_CLASS, VALIDATION_NODES, TEST_NODES = 20, 500, 1000


def read_papers(nodes: "pd.DataFrame") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids (nodes,), subjects (nodes,) and words (nodes, words) of the table of papers."""
    return nodes["nodeId"].to_numpy(), nodes["subject"].to_numpy(), np.stack(nodes["features"].to_numpy())


def check_graph(papers: np.ndarray, labels: np.ndarray, words: np.ndarray, citations: np.ndarray) -> None:
    """Check papers (nodes,), labels (nodes,), words (nodes, words) and citations (citations, 2) before they are used.

    Raises:
        ValueError: with one line that names the first paper or citation that can't be right.
    """
    values, counts = np.unique(papers, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"paper {values[counts > 1][0]} is there {counts.max()} times")
    if not np.isin(labels, range(len(SUBJECTS))).all():
        node = np.flatnonzero(~np.isin(labels, range(len(SUBJECTS))))[0]
        raise ValueError(f"paper {papers[node]}: subject {labels[node]} is none of 0 to {len(SUBJECTS) - 1}")
    if not np.isfinite(words).all():
        node = np.flatnonzero(~np.isfinite(words).all(axis=1))[0]
        raise ValueError(f"paper {papers[node]}: word {np.flatnonzero(~np.isfinite(words[node]))[0]} is no number")
    known = np.isin(citations, papers)
    if not known.all():
        citing, cited = citations[~known.all(axis=1)][0]
        missing = citations[~known][0]
        raise ValueError(f"citation of {cited} by {citing}: there is no paper {missing}")


def adjacency_matrix(papers: np.ndarray, citations: np.ndarray) -> sparse.csr_matrix:
    """Return the symmetric matrix (nodes, nodes) of who cites or is cited by whom, without repeats or self-loops.

    papers (nodes,): ids; citations (citations, 2): ids of a citing and a cited paper.
    """
    node_of = {paper: node for node, paper in enumerate(papers.tolist())}
    first, second = np.array([[node_of[paper] for paper in pair] for pair in citations.tolist()]).T
    directed = sparse.coo_matrix((np.ones(len(first)), (first, second)), shape=(len(papers),) * 2)
    matrix = ((directed + directed.T) > 0).astype(np.float32).tolil()
    matrix.setdiag(0)
    matrix = matrix.tocsr()
    matrix.eliminate_zeros()
    return matrix


def feature_matrix(words: np.ndarray, features: str) -> sparse.csr_matrix:
    """Return words (nodes, words) as a sparse matrix; "normalized" makes each paper's words add up to 1."""
    matrix = sparse.csr_matrix(words.astype(np.float32))
    if features == "normalized":
        totals = np.asarray(matrix.sum(axis=1)).ravel()
        matrix = sparse.diags(1 / np.maximum(totals, 1)) @ matrix
    return matrix.tocsr().astype(np.float32)


def random_split(labels: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw nodes to train on (20 of each class), to validate and to test on: sizes as in the public split."""
    order = generator.permutation(len(labels))
    train = np.concatenate([order[labels[order] == label][:TRAIN_PER_CLASS] for label in range(labels.max() + 1)])
    rest = order[~np.isin(order, train)]
    return {
        "train": train,
        "val": rest[:VALIDATION_NODES],
        "test": rest[VALIDATION_NODES : VALIDATION_NODES + TEST_NODES],
    }


def split_ids(nodes: "pd.DataFrame") -> dict[str, list[int]]:
    """Return the papers of the public split under train, val and test.

    Planetoid's files say it themselves, in a column `part`; beside the others it lies in cora_public_split.json.
    """
    if "part" in nodes:
        return {part: nodes["nodeId"][nodes["part"] == part].tolist() for part in ("train", "val", "test")}
    return json.loads(PUBLIC_SPLIT.read_text(encoding="utf-8"))


def public_split(papers: np.ndarray, ids: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Return the nodes of the public split, whose papers `ids` names under train, val and test.

    Raises:
        ValueError: with one line, if a paper stands in two parts or twice in one, or isn't in the graph.
    """
    node_of = {paper: node for node, paper in enumerate(papers.tolist())}
    part_of: dict[int, str] = {}
    for part in ("train", "val", "test"):
        for paper in ids[part]:
            if paper not in node_of:
                raise ValueError(f"public split, {part}: there is no paper {paper}")
            if paper in part_of:
                raise ValueError(f"public split: paper {paper} is in {part_of[paper]} and again in {part}")
            part_of[paper] = part
    return {part: np.array([node_of[paper] for paper in ids[part]]) for part in ("train", "val", "test")}


def stored(name: str, matrix: sparse.csr_matrix) -> dict[str, np.ndarray]:
    """Return a sparse matrix as arrays to be saved, under names that begin with `name`."""
    matrix.sort_indices()
    return {
        f"{name}_indptr": matrix.indptr.astype(np.int32),
        f"{name}_indices": matrix.indices.astype(np.int32),
        f"{name}_values": matrix.data.astype(np.float32),
        f"{name}_shape": np.array(matrix.shape),
    }


def stored_matrix(arrays: Mapping[str, np.ndarray], name: str) -> sparse.csr_matrix:
    """Return the sparse matrix that `stored` made arrays of."""
    parts = tuple(arrays[f"{name}_{part}"] for part in ("values", "indices", "indptr"))
    return sparse.csr_matrix(parts, shape=tuple(arrays[f"{name}_shape"]))


def main() -> None:
    parameters = declared_parameters("ch08_preprocess")
    import pandas as pd  # here, because every other step of the chapter imports this module

    table = pd.read_parquet(RAW / "cora_nodes.parquet")
    papers, labels, words = read_papers(table)
    citations = pd.read_parquet(RAW / "cora_rels.parquet")[["sourceNodeId", "targetNodeId"]].to_numpy()
    try:
        check_graph(papers, labels, words, citations)
        public = public_split(papers, split_ids(table))
    except ValueError as error:
        raise SystemExit(f"error: {RAW.as_posix()}: {error}") from None
    generator = np.random.default_rng(parameters.seed)
    splits = [random_split(labels, generator) for _ in range(parameters.ch08.splits)]
    save_arrays(
        GRAPH,
        papers=papers,
        labels=labels,
        **stored("features", feature_matrix(words, parameters.ch08.active.features)),
        **stored("adjacency", adjacency_matrix(papers, citations)),
        **{f"public_{part}": nodes for part, nodes in public.items()},
        **{part: np.stack([split[part] for split in splits]) for part in ("train", "val", "test")},
    )


if __name__ == "__main__":
    main()
