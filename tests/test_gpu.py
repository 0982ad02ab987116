"""The chapters that take `device`, on a GPU: the same bytes again, also after a break, and much what a CPU gives.

Without a GPU these are passed over.
"""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from stages.common.checkpoint import Checkpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SMALL = {
    "device": "cuda",
    "ch01.tuned.sizes": [20, 40],
    "ch07.tuned.validation_images": 40,
    "ch07.tuned.widths": [4, 8, 8],
    "ch07.tuned.epochs": 6,
    "ch07.tuned.batch_size": 32,
    "ch07.book.epochs": 2,
    "ch09.tuned.vocabulary": 320,
    "ch09.tuned.d_model": 64,
    "ch09.tuned.layers": 1,
    "ch09.tuned.d_ff": 64,
    "ch09.tuned.epochs": 4,
    "ch09.tuned.learning_rate": 0.01,
    "ch09.tuned.averaged_epochs": 2,
    "ch09.book.pairs": 200,
    "ch09.book.d_model": 64,
    "ch09.book.layers": 1,
    "ch09.book.heads": 2,
    "ch09.book.d_ff": 64,
    "ch09.book.epochs": 2,
}
MODELS = {"ch07": "data/models/ch07/network.safetensors", "ch09": "data/models/ch09/transformer.safetensors"}
STEPS = {"ch07": "stages.ch07_mnist.train", "ch09": "stages.ch09_translation.train"}


def of_device(outputs: dict[str, bytes]) -> dict[str, bytes]:
    """Return what was computed on the device; figures are made of it."""
    return {path: content for path, content in outputs.items() if not path.endswith(".png")}


@pytest.fixture(scope="module", params=[("ch07", "tuned"), ("ch07", "book"), ("ch09", "tuned"), ("ch09", "book")])
def chapter(open_workspace, request):
    """(workspace, chapter, recipe, outputs) after a whole run on the GPU, recorded in MLflow."""
    name, recipe = request.param
    with open_workspace({**SMALL, f"{name}.recipe": recipe}) as workspace:
        {"ch07": workspace.write_mnist, "ch09": workspace.write_translations}[name]()
        AcceleratorState._reset_state(True)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        outputs = workspace.run(name)
        assert torch.cuda.max_memory_allocated() > before + 2**16  # the GPU was used
        yield workspace, name, recipe, outputs
        AcceleratorState._reset_state(True)


def test_second_run_gives_the_same_bytes(chapter):
    workspace, name, _, outputs = chapter
    workspace.remove_outputs()
    assert of_device(workspace.run(name, tracked=False)) == of_device(outputs)


def test_interrupted_training_goes_on_to_the_same_bytes(chapter, monkeypatch):
    workspace, name, recipe, outputs = chapter
    epochs = SMALL[f"{name}.{recipe}.epochs"]
    save, saved = Checkpoint.save, []

    def interrupted(*arguments) -> None:
        save(*arguments)
        saved.append(arguments)
        if len(saved) == epochs - 1:
            raise KeyboardInterrupt

    Path(MODELS[name]).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            workspace.step(STEPS[name])
    assert list(Path(".checkpoints").iterdir()) and not Path(MODELS[name]).exists()
    saved.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", lambda *arguments: saved.append(arguments))
        patch.setattr("stages.common.tracking.record_training", lambda *arguments, **options: "")
        workspace.step(STEPS[name])
    assert len(saved) == 1  # the last epoch alone
    assert Path(MODELS[name]).read_bytes() == outputs[MODELS[name]]


def test_gpu_and_cpu_agree(chapter):
    """On the network that the GPU trained, and both in float32; the training's own roundings differ."""
    workspace, name, recipe, _ = chapter
    chosen = {**SMALL, f"{name}.recipe": recipe}
    metrics = []
    with workspace.monkeypatch.context() as patch:
        patch.setattr("stages.common.tracking.record_results", lambda *arguments, **options: "")
        for device in ("cuda", "cpu"):
            workspace.set_parameters({**chosen, "device": device, f"{name}.{recipe}.precision": "float32"})
            workspace.step(STEPS[name].replace("train", "evaluate"))
            metrics.append(json.loads(Path(f"metrics/{name}.json").read_text(encoding="utf-8")))
    workspace.set_parameters(chosen)
    on_gpu, on_cpu = metrics
    if name == "ch07":
        assert on_gpu["error_count"] == pytest.approx(on_cpu["error_count"], abs=1)
        assert on_gpu["loss"] == pytest.approx(on_cpu["loss"], abs=0.01)
    else:
        assert on_gpu["chrf"] == pytest.approx(on_cpu["chrf"], abs=1)
        assert on_gpu["token_accuracy"] == pytest.approx(on_cpu["token_accuracy"], abs=0.01)
    if recipe == "tuned":  # it has learned something at all
        assert on_gpu["accuracy" if name == "ch07" else "token_accuracy"] > 0.5


def test_chapter_1_times_the_gpu(open_workspace):
    with open_workspace(SMALL) as workspace:
        outputs = workspace.run("ch01")
        (timings,) = (json.loads(content) for path, content in outputs.items() if path.startswith("metrics/timings"))
        assert set(timings["products"]["cuda"]) == {"20", "40"}
