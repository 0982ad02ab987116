"""Chapter 8 as dvc.yaml runs it, on a small made-up graph: what comes out, and the same bytes again."""

import json
from collections import Counter
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load

from stages.ch08_graphs import best
from stages.ch08_graphs.evaluate import embed
from stages.ch08_graphs.layers import build_graph, forward
from stages.ch08_graphs.plot import LABELS
from stages.ch08_graphs.preprocess import SUBJECTS
from stages.common.files import read_history
from tests.conftest import ROOT, arrays, changed, figures_of, history_of, load_recorded_model, recorded_runs
from tests.test_pipeline import missing_from

TRAINED = ("mlp", "dense", "gcn", "sage", "gat", "gin", "cheb", "best")
PLOTS = ("training", "accuracy", "embedding", "confusion", "attention", "computation", "adjacency")
RECIPE = {"hidden_size": 8, "heads": 2, "epochs": 20, "validate_every": 5, "best_hidden_size": 4, "best_epochs": 10}
RECIPE |= {"motif_graphs": 20, "motif_nodes": 8, "task_epochs": 10}
SMALL = {"ch08.runs": 3, "ch08.splits": 4, "ch08.best_runs": 2}
SMALL |= {f"ch08.{recipe}.{key}": value for recipe in ("tuned", "book") for key, value in RECIPE.items()}


@pytest.fixture(scope="module", params=["tuned", "book"])
def chapter(open_workspace, request):
    """(workspace, recipe, outputs) after a whole run of the chapter."""
    with open_workspace({**SMALL, "ch08.recipe": request.param}) as workspace:
        workspace.write_cora()
        yield workspace, request.param, workspace.run("ch08", tracked=request.param == "tuned")


def test_graph_is_symmetric_and_its_features_are_the_recipes(chapter):
    _, recipe, outputs = chapter
    graph = arrays(outputs, "data/prepared/ch08/graph.npz")
    assert len(graph["papers"]) == 7 * 260 and graph["train"].shape == (4, 140)
    pairs = set(
        zip(np.repeat(np.arange(1820), np.diff(graph["adjacency_indptr"])), graph["adjacency_indices"], strict=True)
    )
    assert all((second, first) in pairs and first != second for first, second in pairs)
    paper_of = np.repeat(np.arange(1820), np.diff(graph["features_indptr"]))
    totals = np.bincount(paper_of, graph["features_values"])
    assert np.allclose(totals[totals > 0], 1) == (recipe == "tuned")


@pytest.mark.parametrize("layer", TRAINED)
def test_evaluation_reproduces_what_the_model_file_gives(chapter, layer):
    workspace, recipe, outputs = chapter
    spread = yaml.safe_load((workspace.path / "params.yaml").read_text(encoding="utf-8"))["ch08"][recipe]
    graph = arrays(outputs, "data/prepared/ch08/graph.npz")
    weights = load(outputs[f"data/models/ch08/{layer}.safetensors"])
    name = {"tuned": "dense_mean", "book": "dense_sum"}[recipe] if layer == "dense" else layer
    metrics = json.loads(outputs[f"metrics/ch08/{layer}.json"])
    counts = {"public": 2, "random": 2} if layer == "best" else {"public": 3, "random": 4}
    assert (metrics["runs"], metrics["splits"]) == (counts["public"], counts["random"])
    if layer in ("mlp", "best"):
        assert {weights[f"{group}.1.bias"].shape for group in counts} == {
            (count, 4 if layer == "best" else 8) for count in counts.values()
        }
    for group, key in (("public", "accuracy_mean"), ("random", "accuracy_random_split_mean")):
        own = {n.removeprefix(f"{group}."): value for n, value in weights.items() if n.startswith(f"{group}.")}
        built = build_graph(graph)
        if layer == "best":
            logits = best.predict(built, own, spread["restart"], spread["hops"])
        else:
            logits = forward(name, built, own)
        predicted = logits.argmax(dim=-1).numpy()  # (nodes, runs)
        tests = graph["test"] if group == "random" else np.stack([graph["public_test"]] * 3)
        right = [
            (predicted[nodes, run] == graph["labels"][nodes]).mean() for run, nodes in enumerate(tests[: counts[group]])
        ]
        assert metrics[key] == pytest.approx(np.mean(right), abs=1e-6)


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_the_graph_helps_and_propagation_learns_nothing_by_chance(chapter):
    _, _, outputs = chapter
    means = {layer: json.loads(outputs[f"metrics/ch08/{layer}.json"])["accuracy_mean"] for layer in ("gcn", "mlp")}
    assert means["gcn"] > max(means["mlp"], 0.5)
    assert json.loads(outputs["metrics/ch08/label_propagation.json"])["accuracy_mean"] > 0.5


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_mlflow_has_a_run_for_each_layer(chapter):
    workspace, _, outputs = chapter
    runs = recorded_runs(workspace, "ch08")
    (tasks,) = [run for run in runs if "layer" not in run.data.params]
    own = json.loads(outputs["metrics/ch08/tasks.json"])
    for name, key in (("test_link_auc", "link_auc"), ("cluster_nmi_words", "cluster_nmi_words")):
        assert tasks.data.metrics[name] == own[key]
    assert (tasks.data.params["task_epochs"], tasks.data.params["epochs"]) == ("10", "20")
    assert (tasks.data.params["task_learning_rate"], tasks.data.params["task_hidden_size"]) == ("0.01", "32")
    by_layer = {run.data.params["layer"].split("_")[0]: run for run in runs if run != tasks}
    assert sorted(by_layer) == sorted(TRAINED)
    assert {run.info.run_name for run in runs} == {f"repro-{name}" for name in (*TRAINED, "tasks")}
    for layer, run in by_layer.items():
        metrics = json.loads(outputs[f"metrics/ch08/{layer}.json"])
        for group, count in (("runs", 3), ("splits", 4)):
            assert int(run.data.params[group]) == metrics.pop(group) == (2 if layer == "best" else count)
        validation = {"validation_accuracy_mean": metrics.pop("val_accuracy_mean")}
        expected = {**validation, **{f"test_{name}": value for name, value in metrics.items()}}
        assert {name: run.data.metrics[name] for name in expected} == pytest.approx(expected)
        looks = [5, 10] if layer == "best" else [5, 10, 15, 20]  # epochs
        history = history_of(run, "public_validation_accuracy")
        assert [metric.step for metric in history] == looks
        rows = outputs[f"metrics/history/ch08/{layer}.csv"].decode().splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == looks
    assert len(figures_of(by_layer["gcn"])) == len(PLOTS)


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_mlflow_keeps_models_that_predict(chapter):
    workspace, _, outputs = chapter
    graph = arrays(outputs, "data/prepared/ch08/graph.npz")
    results = arrays(outputs, "data/evaluated/ch08/results.npz")
    papers = graph["papers"].tolist()
    for run in recorded_runs(workspace, "ch08"):
        model = load_recorded_model(run)
        if "layer" in run.data.params:
            layer = run.data.params["layer"].split("_")[0]
            expected = results[f"{layer}_predictions"].argmax(axis=1)  # of the first run
            assert model.predict(papers) == [SUBJECTS[label] for label in expected]
            required = Path(mlflow.pyfunc.get_model_dependencies(f"runs:/{run.info.run_id}/model")).read_text()
            assert missing_from(required, ROOT / "stages/ch08_graphs/served.py") == []
            with pytest.raises(ValueError, match=f"the graph has no paper {max(papers) + 1}"):
                model.predict([papers[0], max(papers) + 1])
        else:
            found = model.predict(np.array([[0, 1], [1, 0], [2, 2]]))
            assert found[0] == found[1] and found[2] >= 0.5  # symmetric; a square is never negative
    files = [path for path in (workspace.path / "mlartifacts/ch08").rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth")] == []


def test_tasks_have_their_numbers(chapter):
    metrics = json.loads(chapter[2]["metrics/ch08/tasks.json"])
    assert list(metrics) == [
        "link_auc",
        "cluster_nmi_hidden",
        "cluster_nmi_words",
        "graph_accuracy_sum",
        "graph_accuracy_attention",
    ]
    assert all(0 <= value <= 1 for value in metrics.values())
    assert len(chapter[2]["metrics/history/ch08/tasks.csv"].decode().splitlines()) == 11


def test_predict_prints_a_paper(chapter, capsys):
    workspace, _, outputs = chapter
    paper = arrays(outputs, "data/prepared/ch08/graph.npz")["papers"][-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace.path)
        from stages.ch08_graphs import predict

        for arguments, status in (([str(paper), "sage"], 0), (["1"], 1), ([], 2), (["a"], 2)):
            patch.setattr("sys.argv", ["predict", *arguments])
            assert predict.main() == status
        with np.load("data/prepared/ch08/graph.npz") as loaded:
            graph = dict(loaded)
        with np.load("data/evaluated/ch08/results.npz") as loaded:
            results = dict(loaded)
        results["edge_targets"] = np.roll(results["edge_targets"], 1)
        with pytest.raises(ValueError, match="is of another graph than .*: run dvc repro ch08_evaluate"):
            predict.described(paper, "sage", graph, results)
    printed = capsys.readouterr()
    assert f"paper {paper}, sage, part of the public split: none" in printed.out
    assert "Cora has no paper 1" in printed.err and "usage:" in printed.err


def test_second_run_gives_the_same_bytes(chapter):
    workspace, _, outputs = chapter
    workspace.remove_outputs()
    torch.manual_seed(123)  # what other code leaves behind plays no part
    again = workspace.run("ch08", tracked=False)
    assert changed(again, outputs) == []


def test_relations_between_parameters(workspace, capsys):
    for changes, problem in (
        ({"heads": 3}, "ch08.tuned: hidden_size 16 must be a multiple of heads 3"),
        ({"epochs": 7, "heads": 4}, "ch08.tuned: epochs 7 must be a multiple of validate_every 5"),
    ):
        workspace.set_parameters({f"ch08.tuned.{name}": value for name, value in changes.items()})
        with pytest.raises(SystemExit) as end:
            workspace.step("stages.ch08_graphs.preprocess")
        assert end.value.code == 2
        assert capsys.readouterr().err.strip() == f"params.yaml: {problem}"


def test_batches_of_sampled_neighbours_by_parameter(workspace):
    """The same seed gives the same bytes, other ones than with the whole graph; the best network has no batches."""
    workspace.write_cora()
    files = {}
    for batch_nodes in (0, 40, 40):
        workspace.set_parameters({**SMALL, "ch08.batch_nodes": batch_nodes, "ch08.num_threads": 1})
        workspace.step("stages.ch08_graphs.preprocess")
        for layer in ("gcn", "best"):
            workspace.step("stages.ch08_graphs.train", layer)
            path = workspace.path / f"data/models/ch08/{layer}.safetensors"
            files.setdefault(layer, []).append(path.read_bytes())
    assert files["gcn"][0] != files["gcn"][1] == files["gcn"][2]
    assert files["best"][0] == files["best"][1]


def test_figures_show_each_layers_own(chapter):
    workspace, recipe, outputs = chapter
    drawn = workspace.drawn("stages.ch08_graphs.plot")
    results = arrays(outputs, "data/evaluated/ch08/results.npz")
    losses, accuracies = drawn["training.png"].axes
    lines = dict(zip(TRAINED, losses.get_lines(), strict=True))
    assert lines["dense"].get_label() == ("dense, sum (fig. 84)" if recipe == "book" else "dense, mean")
    for number, layer in enumerate(TRAINED):
        file = f"metrics/history/ch08/{layer}.csv"
        epochs = [int(row.split(",")[0]) for row in outputs[file].decode().splitlines()[1:]]
        shown = {"public_train_loss": lines[layer], "public_val_accuracy": accuracies.get_lines()[number]}
        for name, line in shown.items():
            assert line.get_xdata().tolist() == epochs and list(line.get_ydata()) == read_history(file)[name]
    (axes,) = drawn["accuracy.png"].axes
    for container, group in zip(axes.containers, ("public", "random"), strict=True):
        means = [results[f"{layer}_{group}_accuracy"].mean() for layer in LABELS]
        counts = {"public": "public split, 3 seeds", "random": "4 random splits"}
        assert container.get_label() == f"{counts[group]} (APPNP + agreement: 2): mean ± s.d."
        np.testing.assert_allclose(np.asarray(container.lines[0].get_ydata(), dtype=float), means)
    prepared = arrays(outputs, "data/prepared/ch08/graph.npz")
    tested = prepared["public_test"]
    predicted = results["gcn_predictions"][tested].argmax(axis=1)
    counts = Counter(zip(prepared["labels"][tested].tolist(), predicted.tolist(), strict=True))
    axes = drawn["confusion.png"].axes[0]
    shown = {(text.get_position()[1], text.get_position()[0]): int(text.get_text()) for text in axes.texts}
    assert {place: count for place, count in shown.items() if count} == counts


def test_a_layer_that_has_died_is_drawn_in_one_place():
    assert embed(np.ones((50, 4), dtype=np.float32), 0).tolist() == [[0.0, 0.0]] * 50
