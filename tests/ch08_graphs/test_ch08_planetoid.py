"""Chapter 8's second source: the same graph comes out of Planetoid's files, and nothing else is taken for it."""

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stages.ch08_graphs.planetoid import FILES, SUBJECT_OF_CLASS, check_file, content_digest, run
from stages.ch08_graphs.preprocess import GRAPH, PUBLIC_SPLIT, adjacency_matrix, stored_matrix

RAW = Path("data/raw/ch08")


def write_planetoid_files(folder: Path, words, subjects, adjacency, parts) -> np.ndarray:
    """Write a graph as ind.cora.* and return its nodes in the order that they have there."""
    generator = np.random.default_rng(0)
    unnamed = np.flatnonzero(parts == "")
    first = np.concatenate([np.flatnonzero(parts == "train"), np.flatnonzero(parts == "val"), unnamed])
    test = np.flatnonzero(parts == "test")
    order = np.concatenate([first, test])
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    listed = generator.permutation(test)  # the files list the test papers in an order of their own
    one_hot = np.eye(7, dtype=np.int32)[np.argsort(SUBJECT_OF_CLASS)[subjects]]
    train = (parts == "train").sum()
    contents = {
        "x": sparse.csr_matrix(words[first[:train]].astype(np.float32)),
        "allx": sparse.csr_matrix(words[first].astype(np.float32)),
        "tx": sparse.csr_matrix(words[listed].astype(np.float32)),
        "y": one_hot[first[:train]],
        "ally": one_hot[first],
        "ty": one_hot[listed],
        # Some edges stand there twice, and one leads to itself.
        "graph": {int(number[node]): number[adjacency[node].indices].tolist() * 2 for node in range(len(order))},
    }
    contents["graph"][0].append(0)
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / f"ind.cora.{name}").write_bytes(pickle.dumps(content, protocol=2))
    lines = "".join(f"{number[node]}\n" for node in listed)
    (folder / "ind.cora.test.index").write_text(lines, encoding="ascii")
    return order


@pytest.fixture
def both(workspace, monkeypatch):
    """(workspace, arrays that preprocess gives of the default form, nodes in Planetoid's order, the content's sum)."""
    workspace.write_cora()
    nodes = pd.read_parquet(workspace.path / RAW / "cora_nodes.parquet")
    citations = pd.read_parquet(workspace.path / RAW / "cora_rels.parquet")
    papers, words = nodes["nodeId"].to_numpy(), np.stack(nodes["features"].to_numpy())
    adjacency = adjacency_matrix(papers, citations[["sourceNodeId", "targetNodeId"]].to_numpy())
    parts = np.full(len(papers), "", dtype=object)
    for part, ids in json.loads(PUBLIC_SPLIT.read_text(encoding="utf-8")).items():
        parts[np.isin(papers, ids)] = part
    workspace.step("stages.ch08_graphs.preprocess")
    with np.load(workspace.path / GRAPH) as loaded:
        arrays = dict(loaded)
    order = write_planetoid_files(workspace.path / "mirror/ch08", words, nodes["subject"].to_numpy(), adjacency, parts)
    edges = np.argwhere(adjacency.toarray())
    monkeypatch.setenv("DATA_MIRROR", "mirror")
    monkeypatch.setenv("DVC_ROOT", str(workspace.path))
    monkeypatch.chdir(workspace.path)
    shutil.rmtree(RAW)
    RAW.mkdir()
    return workspace, arrays, order, content_digest(words, nodes["subject"].to_numpy(), parts, edges)


def test_both_forms_give_the_same_tensors(both):
    workspace, expected, order, digest = both
    assert run(RAW, digest) == 0
    workspace.step("stages.ch08_graphs.preprocess")
    with np.load(GRAPH) as loaded:
        found = dict(loaded)
    assert found["papers"].tolist() == list(range(1820))
    assert np.array_equal(found["labels"], expected["labels"][order])
    for name in ("features", "adjacency"):
        old, new = stored_matrix(expected, name).toarray(), stored_matrix(found, name).toarray()
        assert np.array_equal(new, old[order] if name == "features" else old[np.ix_(order, order)])
    for part in ("train", "val", "test"):
        assert sorted(order[found[f"public_{part}"]]) == sorted(expected[f"public_{part}"])


def test_another_graph_is_refused(both, capfd):
    assert run(RAW) == 1
    assert "hold another graph than Cora" in capfd.readouterr().err
    assert list(RAW.iterdir()) == []


def test_download_takes_the_source_that_the_parameter_names(both, capfd):
    workspace = both[0]
    workspace.set_parameters({"ch08.source": "planetoid"})
    shutil.rmtree("mirror")
    from stages.ch08_graphs import download, planetoid

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planetoid, "run", lambda destination: 40 + len(destination.parts))
        assert download.main() == 43


class Harmful:
    def __reduce__(self):
        return print, ("run by a pickle",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(Harmful()), "the pickle asks for builtins.print"),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (pickle.dumps(np.arange(3))[:-5], "no pickle of arrays"),
        (b"", "no pickle of arrays"),
    ],
)
def test_files_that_are_not_arrays_are_refused(tmp_path, content, reason, capsys):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        check_file(path)
    assert "\n" not in str(error.value)
    assert "run by" not in capsys.readouterr().out


def test_a_bad_file_in_the_mirror_is_reported_with_every_source(both, monkeypatch, capfd):
    Path("mirror/ch08/ind.cora.x").write_bytes(pickle.dumps(Harmful()))
    monkeypatch.setattr("stages.ch08_graphs.planetoid.FILES", [mirror_only(file) for file in FILES])
    assert run(RAW) == 1
    lines = capfd.readouterr().err
    assert "ind.cora.x: no source gave it" in lines and "the pickle asks for builtins.print" in lines


@pytest.mark.parametrize(("name", "content"), [("graph", np.arange(3)), ("x", {0: [1]})])
def test_a_file_in_anothers_place_is_one_line(both, name, content, capfd):
    Path(f"mirror/ch08/ind.cora.{name}").write_bytes(pickle.dumps(content))
    assert run(RAW) == 1
    assert "error: the files ind.cora.* don't fit together: " in capfd.readouterr().err.splitlines()[-1]


def mirror_only(file):
    from dataclasses import replace

    return replace(file, sources=())


def test_digest_knows_the_content_and_not_the_order():
    generator = np.random.default_rng(3)
    words, labels = generator.integers(0, 2, (6, 4)), np.array([0, 1, 2, 0, 1, 2])
    parts = np.array(["train", "", "val", "test", "", ""], dtype=object)
    edges = np.array([[0, 1], [1, 2], [3, 4], [4, 5]])
    digest = content_digest(words, labels, parts, edges)
    order = generator.permutation(6)
    place = np.argsort(order)
    renamed = np.concatenate([place[edges][:, ::-1], [[place[0], place[1]], [2, 2]]])  # turned, repeated, to itself
    assert content_digest(words[order], labels[order], parts[order], renamed) == digest
    changed = words.copy()
    changed[5, 0] ^= 1
    assert content_digest(changed, labels, parts, edges) != digest
    assert content_digest(words, labels, parts, edges[:-1]) != digest
    assert content_digest(words, labels, np.roll(parts, 1), edges) != digest


def test_cora_itself_has_the_digest_that_planetoids_files_must_have():
    """On the real data, where they were fetched; a small one otherwise proves nothing."""
    from stages.ch08_graphs.planetoid import CONTENT_SHA256

    root = Path(__file__).parents[2] / RAW
    if not (root / "cora_nodes.parquet").exists():
        pytest.skip("Cora was not fetched here")
    nodes, citations = (pd.read_parquet(root / f"cora_{name}.parquet") for name in ("nodes", "rels"))
    papers = nodes["nodeId"].to_numpy()
    place = {paper: node for node, paper in enumerate(papers.tolist())}
    parts = np.full(len(papers), "", dtype=object)
    for part, ids in json.loads(PUBLIC_SPLIT.read_text(encoding="utf-8")).items():
        parts[np.isin(papers, ids)] = part
    edges = np.array([[place[a], place[b]] for a, b in citations.iloc[:, :2].to_numpy().tolist()])
    words = np.stack(nodes["features"].to_numpy())
    assert content_digest(words, nodes["subject"].to_numpy(), parts, edges) == CONTENT_SHA256
    # The sizes that everybody gives for it.
    adjacency = adjacency_matrix(papers, citations.iloc[:, :2].to_numpy())
    assert words.shape == (2708, 1433) and adjacency.nnz == 2 * 5278
    assert [(parts == part).sum() for part in ("train", "val", "test")] == [140, 500, 1000]


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda nodes, rels: nodes.loc.__setitem__((1, "nodeId"), nodes["nodeId"][0]), "is there 2 times"),
        (lambda nodes, rels: nodes.loc.__setitem__((3, "subject"), 7), "subject 7 is none of 0 to 6"),
        (lambda nodes, rels: rels.loc.__setitem__((0, "targetNodeId"), 5), "there is no paper 5"),
        (lambda nodes, rels: nodes.at.__setitem__((2, "features"), np.full(40, np.nan)), "word 0 is no number"),
        (lambda nodes, rels: nodes.loc.__setitem__((0, "nodeId"), 99), "train: there is no paper 128"),
    ],
)
def test_preprocess_names_what_is_wrong(workspace, harm, problem):
    workspace.write_cora()
    folder = workspace.path / RAW
    nodes, rels = (pd.read_parquet(folder / f"cora_{name}.parquet") for name in ("nodes", "rels"))
    if "train: " in problem:  # the paper must not be cited either, or that comes first
        gone = nodes["nodeId"][0]
        rels = rels[(rels["sourceNodeId"] != gone) & (rels["targetNodeId"] != gone)]
    harm(nodes, rels)
    nodes.to_parquet(folder / "cora_nodes.parquet")
    rels.to_parquet(folder / "cora_rels.parquet")
    with pytest.raises(SystemExit) as end:
        workspace.step("stages.ch08_graphs.preprocess")
    message = str(end.value.code)
    assert message.startswith("error: data/raw/ch08: ") and problem in message and "\n" not in message


def test_parts_that_overlap_are_refused():
    from stages.ch08_graphs.preprocess import public_split

    papers = np.array([1, 2, 3])
    with pytest.raises(ValueError, match="paper 2 is in train and again in test"):
        public_split(papers, {"train": [1, 2], "val": [3], "test": [2]})
    with pytest.raises(ValueError, match="paper 3 is in val and again in val"):
        public_split(papers, {"train": [1], "val": [3, 3], "test": [2]})


def test_unpickled_buffers_are_arrays(tmp_path):
    stream = io.BytesIO()
    pickle.dump(sparse.csr_matrix(np.eye(2)), stream)
    (tmp_path / "x").write_bytes(stream.getvalue())
    check_file(tmp_path / "x")
