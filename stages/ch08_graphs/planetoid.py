"""Cora as Planetoid publishes it (Yang et al., 2016), which the book's `Planetoid(name='Cora')` reads (fig. 85).

In: the files ind.cora.*, from GitHub or `DATA_MIRROR`. Out: the same two tables as of the other source, whose papers
have here the numbers of the nodes as ids, since the files hold no others, and a column `part` with the public split.

Nobody has published sums of these files, and all but one are pickles. So each is read with nothing allowed but the
arrays that belong there, before PyTorch Geometric's reader may open it, and the graph that comes out is compared with
Cora's.
"""

import hashlib
import pickle
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from stages.common.download import DataFile, DownloadError, UrlSource, fetch
from stages.common.files import placed

ADDRESS = "https://github.com/kimiyoung/planetoid/raw/master/data"
NAMES = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
SUBJECT_OF_CLASS = (4, 2, 5, 0, 3, 6, 1)  # Planetoid counts the classes in another order
CONTENT_SHA256 = (
    "06225e0b75be0bfc7f63132f525d41f06f36293273e53e8e188301c2ca604a1a"  # of `content_digest` of the default source
)
ALLOWED = {
    "scipy.sparse.csr": {"csr_matrix"},
    "scipy.sparse._csr": {"csr_matrix"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "collections": {"defaultdict"},
    "builtins": {"list", "int", "object"},
    "__builtin__": {"list", "int", "object"},
    "copy_reg": {"_reconstructor"},
    "copyreg": {"_reconstructor"},
    "_codecs": {"encode"},
}


class ArraysOnly(pickle.Unpickler):
    """Reads pickles of arrays, sparse matrices, dictionaries and lists, and refuses to look anything else up."""

    def find_class(self, module: str, name: str):
        if name not in ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}")
        return super().find_class(module, name)


def check_file(path: Path) -> None:
    """Raise ValueError, with one line, unless a file is a harmless pickle, or a column of numbers."""
    content = path.read_bytes()
    if content.strip().replace(b"\n", b"").replace(b"\r", b"").isdigit():
        return
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")  # old names of modules
            ArraysOnly(stream, encoding="latin1").load()
    except Exception as error:  # what a broken pickle raises has no common type
        page = ", an HTML page" if content.lstrip()[:1] == b"<" else ""
        raise ValueError(f"no pickle of arrays{page}: {' '.join(str(error).split())}") from None


FILES = [
    DataFile(name=f"ind.cora.{name}", sha256=None, sources=(UrlSource(f"{ADDRESS}/ind.cora.{name}"),), check=check_file)
    for name in NAMES
]


def read_tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of papers and of citations, each citation once, from the files ind.cora.* of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric.io import read_planetoid_data

        data = read_planetoid_data(str(folder), "cora")
    part = np.full(data.num_nodes, "", dtype=object)
    for name in ("train", "val", "test"):
        part[data[f"{name}_mask"].numpy()] = name
    nodes = {
        "nodeId": np.arange(data.num_nodes),
        "labels": "Paper",
        "subject": np.array(SUBJECT_OF_CLASS)[data.y.numpy()],
        "features": list(data.x.numpy().astype(np.int64)),
        "part": part,
    }
    ends = np.unique(np.sort(data.edge_index.numpy(), axis=0), axis=1)
    citations = {"sourceNodeId": ends[0], "targetNodeId": ends[1], "relationshipType": "CITES"}
    return pd.DataFrame(nodes), pd.DataFrame(citations)


def content_digest(words: np.ndarray, labels: np.ndarray, parts: np.ndarray, edges: np.ndarray) -> str:
    """Return a SHA-256 that the order and the names of the nodes leave alone.

    After Weisfeiler and Leman: each node's sum is that of its own content, then, twice, of its own and its neighbours'.

    words (nodes, words): 0 or 1; labels (nodes,); parts (nodes,): "train", "val", "test" or ""; edges (edges, 2):
    nodes, in either direction, repeated or not.
    """
    neighbours: list[set[int]] = [set() for _ in labels]
    for first, second in edges.tolist():
        if first != second:
            neighbours[first].add(second)
            neighbours[second].add(first)
    sums = [
        hashlib.sha256(f"{label} {part} {np.flatnonzero(row).tolist()}".encode()).digest()
        for row, label, part in zip(words, labels, parts, strict=True)
    ]
    for _ in range(2):
        around = [b"".join(sorted(sums[other] for other in own)) for own in neighbours]
        sums = [hashlib.sha256(own + others).digest() for own, others in zip(sums, around, strict=True)]
    return hashlib.sha256(b"".join(sorted(sums))).hexdigest()


def run(destination: Path, expected: str = CONTENT_SHA256) -> int:
    """Fetch the files, check them and write the two tables; return the exit status, with the reasons on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / destination.name  # a mirror keeps them under the chapter's name
        try:
            fetch(FILES, files)
        except (DownloadError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        try:
            nodes, citations = read_tables(files)
        except (OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
            # Each is what a reader says of a file in another's place.
            print(f"error: the files ind.cora.* don't fit together: {error}", file=sys.stderr)
            return 1
    edges = citations[["sourceNodeId", "targetNodeId"]].to_numpy()
    words = np.stack(nodes["features"].to_numpy())
    found = content_digest(words, nodes["subject"].to_numpy(), nodes["part"].to_numpy(), edges)
    if found != expected:
        print(f"error: the files ind.cora.* hold another graph than Cora: {found[:12]}… for {expected[:12]}…: "
              f"{len(nodes)} papers, {len(edges)} citations", file=sys.stderr)  # fmt: skip
        return 1
    for table, name in ((nodes, "nodes"), (citations, "rels")):
        with placed(destination / f"cora_{name}.parquet") as path:
            table.to_parquet(path, index=False)
    return 0
