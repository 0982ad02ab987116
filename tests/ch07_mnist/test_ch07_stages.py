"""Chapter 7 as dvc.yaml runs it, small: what comes out, that the numbers belong to the model, the same bytes again.

Killed while it trains, it goes on to the same bytes; with anything changed, it starts anew.
"""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from stages.ch07_mnist.model import build_network
from stages.ch07_mnist.train import Trainer
from stages.common.arrays import save_arrays
from stages.common.files import read_history
from stages.common.params import declared_parameters
from tests.conftest import arrays, by_epoch, changed, curves, figures_of, load_recorded_model, md5, recorded_runs

SMALL = {
    "ch07.tuned.validation_images": 40,
    "ch07.tuned.widths": [4, 8, 8],
    "ch07.tuned.epochs": 3,
    "ch07.tuned.batch_size": 32,
    "ch07.book.epochs": 1,
}
MODEL, HISTORY = "data/models/ch07/network.safetensors", "metrics/history/ch07.csv"


@pytest.fixture(scope="module", params=["tuned", "book"])
def chapter(open_workspace, request):
    """(workspace, recipe, outputs) after a whole run of the chapter."""
    with open_workspace({**SMALL, "ch07.recipe": request.param}) as workspace:
        workspace.write_mnist()
        yield workspace, request.param, workspace.run("ch07", tracked=request.param == "tuned")


def test_no_checkpoint_is_left(chapter):
    workspace, *_ = chapter
    assert list((workspace.path / ".checkpoints").iterdir()) == []


def test_pictures_are_all_there(chapter):
    _, recipe, outputs = chapter
    prepared = arrays(outputs, "data/prepared/ch07/mnist.npz")
    held_out = {"tuned": 40, "book": 0}[recipe]
    counts = {"train": 240 - held_out, "validation": held_out, "test": 70}
    assert {name: prepared[f"{name}_images"].shape for name in counts} == {
        name: (count, 28, 28) for name, count in counts.items()
    }
    raw = outputs["data/raw/ch07/train-images-idx3-ubyte"][16:]
    labels = outputs["data/raw/ch07/train-labels-idx1-ubyte"][8:]
    original = sorted((raw[784 * row : 784 * row + 784], labels[row]) for row in range(240))
    kept = [
        (image.tobytes(), label)
        for name in ("train", "validation")
        for image, label in zip(prepared[f"{name}_images"], prepared[f"{name}_labels"], strict=True)
    ]
    assert sorted(kept) == original
    assert prepared["test_images"].tobytes() == outputs["data/raw/ch07/t10k-images-idx3-ubyte"][16:]
    assert prepared["test_labels"].tobytes() == outputs["data/raw/ch07/t10k-labels-idx1-ubyte"][8:]


def test_metrics_reproduce_what_the_model_file_gives(chapter):
    _, recipe, outputs = chapter
    prepared, metrics = arrays(outputs, "data/prepared/ch07/mnist.npz"), json.loads(outputs["metrics/ch07.json"])
    model = build_network(recipe, [4, 8, 8], dropout=0.0).eval()
    model.load_state_dict(load(outputs[MODEL]))
    images = (torch.from_numpy(prepared["test_images"]).float().unsqueeze(1) / 255 - 0.1307) / 0.3081
    labels = torch.from_numpy(prepared["test_labels"]).long()
    shifts = {"tuned": [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)], "book": [(0, 0)]}[recipe]
    with torch.no_grad():
        probabilities = sum(model(images.roll(shift, (2, 3))).softmax(dim=1) for shift in shifts) / len(shifts)
    correct = probabilities.argmax(dim=1) == labels
    predictions = arrays(outputs, "data/evaluated/ch07/predictions.npz")
    np.testing.assert_allclose(predictions["probabilities"], probabilities.numpy(), atol=1e-5)
    assert metrics["accuracy"] == pytest.approx(correct.double().mean().item(), abs=1e-6)
    assert metrics["error_count"] == (~correct).sum().item()
    assert metrics["loss"] == pytest.approx(-probabilities[range(70), labels].log().mean().item(), abs=1e-4)
    assert metrics["class_accuracy"] == {
        str(digit): pytest.approx(correct[labels == digit].double().mean().item(), abs=1e-6) for digit in range(10)
    }
    assert 0 <= metrics["ece"] <= 1


def test_history_and_the_epoch_kept(chapter):
    _, recipe, outputs = chapter
    header, *rows = outputs[HISTORY].decode().splitlines()
    if recipe == "book":
        assert (header, len(rows)) == ("epoch,train_loss", 1)
        return
    assert (header, len(rows)) == ("epoch,train_loss,validation_loss,validation_accuracy", 3)
    prepared = arrays(outputs, "data/prepared/ch07/mnist.npz")
    model = build_network("tuned", [4, 8, 8], dropout=0.0).eval()
    model.load_state_dict(load(outputs[MODEL]))
    images = (torch.from_numpy(prepared["validation_images"]).float().unsqueeze(1) / 255 - 0.1307) / 0.3081
    with torch.no_grad():
        right = model(images).argmax(dim=1).numpy() == prepared["validation_labels"]
    assert right.mean() == pytest.approx(max(float(row.split(",")[3]) for row in rows), abs=1e-6)


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
@pytest.mark.parametrize(("part", "counts"), [("train", True), ("validation", True), ("test", False)])
def test_test_pictures_leave_no_trace_in_the_training(chapter, monkeypatch, part, counts):
    workspace, _, outputs = chapter
    monkeypatch.setattr("stages.common.tracking.record_training", lambda *_, **__: "")
    path = "data/prepared/ch07/mnist.npz"
    prepared = arrays(outputs, path)
    try:
        save_arrays(path, **{**prepared, f"{part}_images": 255 - prepared[f"{part}_images"]})
        workspace.step("stages.ch07_mnist.train")
        assert ((Path(MODEL).read_bytes(), Path(HISTORY).read_bytes()) != (outputs[MODEL], outputs[HISTORY])) == counts
    finally:
        for changed_file in (path, MODEL, HISTORY):
            Path(changed_file).write_bytes(outputs[changed_file])


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_mlflow_has_the_run_and_its_model(chapter):
    workspace, recipe, outputs = chapter
    (run,) = recorded_runs(workspace, "ch07")
    metrics = json.loads(outputs["metrics/ch07.json"])
    assert run.data.metrics["test_accuracy"] == pytest.approx(metrics["accuracy"])
    assert run.data.metrics["test_error_count"] == metrics["error_count"]
    assert run.data.params["device"] == "cpu"
    (dataset,) = (entry.dataset for entry in run.inputs.dataset_inputs)
    assert (dataset.name, dataset.digest) == ("ch07_mnist", md5(outputs["data/prepared/ch07/mnist.npz"]))
    assert figures_of(run) == ["confusion.png", "feature_maps.png", "learning_curves.png", "mistakes.png"]
    images = arrays(outputs, "data/prepared/ch07/mnist.npz")["test_images"][:7].astype(np.float32)[:, None]
    images = (images / 255 - 0.1307) / 0.3081
    model = build_network(recipe, [4, 8, 8], dropout=0.0).eval()
    model.load_state_dict(load(outputs[MODEL]))
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    recorded = load_recorded_model(run)
    for count in (1, 7):
        np.testing.assert_allclose(recorded.predict(images[:count]), expected[:count], atol=1e-4)


def test_second_run_gives_the_same_bytes(chapter):
    workspace, _, outputs = chapter
    workspace.remove_outputs()
    assert all(path.startswith("data/raw/ch07/") for path in workspace.outputs())
    again = workspace.run("ch07", tracked=False)
    assert changed(again, outputs) == []


# Kill and resume.
LONG = {**SMALL, "ch07.tuned.epochs": 40}


@pytest.fixture(scope="module")
def killed(open_workspace):
    """(workspace, path of the checkpoint): `python -m stages.ch07_mnist.train` got SIGKILL behind its first epoch."""
    with open_workspace(LONG) as workspace:
        workspace.write_mnist()
        workspace.step("stages.ch07_mnist.preprocess")
        process = subprocess.Popen([sys.executable, "-m", "stages.ch07_mnist.train"], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while not (found := list(Path(".checkpoints").glob("ch07_train-*"))):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL
        yield workspace, workspace.path / found[0]


@pytest.fixture
def epochs_begun(monkeypatch) -> list[int]:
    """The number of epochs already done, each time one begins."""
    begun, train_epoch = [], Trainer.train_epoch

    def watched(trainer, *arguments, **options):
        begun.append(trainer.epochs_done)
        return train_epoch(trainer, *arguments, **options)

    monkeypatch.setattr(Trainer, "train_epoch", watched)
    return begun


def test_killed_training_leaves_a_checkpoint_and_no_result(killed):
    workspace, checkpoint = killed
    assert checkpoint.is_file()
    assert not (workspace.path / MODEL).exists() and not (workspace.path / HISTORY).exists()


@pytest.mark.parametrize("change", [{"seed": 1}, {"ch07.tuned.learning_rate": 0.05}, {"ch07.recipe": "book"}])
def test_other_parameters_have_another_checkpoint(killed, change):
    workspace, checkpoint = killed
    workspace.set_parameters({**LONG, **change})
    try:
        assert declared_parameters("ch07_train").fingerprint()[:32] not in checkpoint.name
    finally:
        workspace.set_parameters(LONG)
    assert declared_parameters("ch07_train").fingerprint()[:32] in checkpoint.name


def test_other_pictures_have_another_checkpoint(killed):
    workspace, checkpoint = killed
    prepared = workspace.path / "data/prepared/ch07/mnist.npz"
    content = prepared.read_bytes()
    try:
        prepared.write_bytes(content + b"\0")
        assert declared_parameters("ch07_train").fingerprint()[:32] not in checkpoint.name
    finally:
        prepared.write_bytes(content)


def test_other_parameters_start_anew_and_leave_the_checkpoint_alone(killed, epochs_begun):
    workspace, checkpoint = killed
    content = checkpoint.read_bytes()
    workspace.set_parameters({**LONG, "ch07.tuned.epochs": 2})
    try:
        workspace.step("stages.ch07_mnist.train")
        assert epochs_begun == [0, 1]
        assert checkpoint.read_bytes() == content
        assert list(checkpoint.parent.glob("[!.]*")) == [checkpoint]  # the kill may have left a hidden folder
    finally:
        workspace.set_parameters(LONG)
        (workspace.path / MODEL).unlink(missing_ok=True)
        (workspace.path / HISTORY).unlink(missing_ok=True)


def test_killed_training_goes_on_to_the_same_bytes(killed, epochs_begun):
    workspace, checkpoint = killed
    workspace.step("stages.ch07_mnist.train")
    first = epochs_begun[0]
    assert 1 <= first < 40
    assert epochs_begun == list(range(first, 40))
    resumed = {path: (workspace.path / path).read_bytes() for path in (MODEL, HISTORY)}
    assert not checkpoint.exists()

    epochs_begun.clear()
    workspace.step("stages.ch07_mnist.train")
    assert epochs_begun == list(range(40))
    assert {path: (workspace.path / path).read_bytes() for path in (MODEL, HISTORY)} == resumed


def test_figures_show_the_predictions(chapter):
    workspace, recipe, outputs = chapter
    drawn = workspace.drawn("stages.ch07_mnist.plot")
    labels = arrays(outputs, "data/prepared/ch07/mnist.npz")["test_labels"]
    probabilities = arrays(outputs, "data/evaluated/ch07/predictions.npz")["probabilities"]
    predicted = probabilities.argmax(axis=1)
    axes = drawn["confusion.png"].axes[0]
    shown = {(text.get_position()[1], text.get_position()[0]): int(text.get_text()) for text in axes.texts}
    assert shown == Counter(zip(labels.tolist(), predicted.tolist(), strict=True))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted digit", "true digit")
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")]
    titles = [axis.get_title().split("\n")[0] for axis in drawn["mistakes.png"].axes]
    expected = [f"{labels[index]} → {predicted[index]}" for index in surest]
    assert [title for title in titles if title] == expected[: len(titles)]
    history = read_history("metrics/history/ch07.csv")
    losses = curves(drawn["learning_curves.png"].axes[0])
    if recipe == "book":
        assert losses == {"training": by_epoch(history["train_loss"])}
    else:
        assert losses == {
            "training (augmented, label smoothing 0.05)": by_epoch(history["train_loss"]),
            "validation (without)": by_epoch(history["validation_loss"]),
        }
        (accuracy,) = drawn["learning_curves.png"].axes[1].get_lines()
        np.testing.assert_allclose(accuracy.get_ydata(), 100 * np.array(history["validation_accuracy"]))
