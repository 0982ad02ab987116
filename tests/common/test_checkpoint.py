"""stages.common.checkpoint: what was saved comes back the same, and only to the one who saved it."""

import os

import pytest
import torch
from torch import nn

from stages.common.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer, with_prefix, without_prefix

OPTIMIZERS = {
    "momentum": lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.9, nesterov=True),
    "plain SGD": lambda weights: torch.optim.SGD(weights, 0.1),
    "Adadelta": lambda weights: torch.optim.Adadelta(weights, 0.5),
    "AdamW": lambda weights: torch.optim.AdamW(weights, 0.01, amsgrad=True),
}


@pytest.fixture(autouse=True)
def main_workspace(tmp_path, monkeypatch):
    """A main workspace that isn't the working directory, as when DVC runs a stage in a temporary copy."""
    root, elsewhere = tmp_path / "main", tmp_path / "copy"
    root.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.chdir(elsewhere)
    yield root
    assert os.listdir(elsewhere) == []


def test_saved_comes_back(main_workspace):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "c": torch.zeros(0, dtype=torch.bfloat16)}
    state = {"history": {"loss": [0.1, 1 / 3]}, "best": None}
    Checkpoint("ch07_train", "f" * 64).save(tensors, state)
    loaded, loaded_state = Checkpoint("ch07_train", "f" * 64).load()
    assert loaded_state == state
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    assert os.listdir(main_workspace / ".checkpoints") == [
        f"ch07_train-torch{torch.__version__}-{'f' * 32}.safetensors"
    ]


def test_another_order_in_memory_comes_back_equal():
    tensor = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    checkpoint = Checkpoint("ch07_train", "f" * 64)
    checkpoint.save({"images": tensor, "transposed": tensor[0, 0].T}, {})
    loaded, _ = checkpoint.load()
    assert torch.equal(loaded["images"], tensor) and torch.equal(loaded["transposed"], tensor[0, 0].T)


def test_tensors_that_share_memory_come_back_each_by_itself():
    whole = torch.arange(12.0).reshape(3, 4)
    weight = nn.Parameter(torch.ones(2))
    checkpoint = Checkpoint("ch07_train", "f" * 64)
    shared = {"whole": whole, "again": whole, "rows": whole[1:], "columns": whole[:, 1:], "tied": weight, "to": weight}
    checkpoint.save(shared, {})
    loaded, _ = checkpoint.load()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in shared.items())
    loaded["whole"].zero_()
    assert loaded["again"].sum() == whole.sum()


def test_saving_again_replaces(main_workspace):
    checkpoint = Checkpoint("ch07_train", "f" * 64)
    for epoch in range(3):
        checkpoint.save({"weight": torch.tensor([float(epoch)])}, {"epoch": epoch})
    tensors, state = checkpoint.load()
    assert (tensors["weight"].item(), state) == (2.0, {"epoch": 2})
    assert len(os.listdir(main_workspace / ".checkpoints")) == 1


@pytest.mark.parametrize("stage, fingerprint", [("ch07_train", "e" * 64), ("ch08_train", "f" * 64)])
def test_nobody_else_finds_it(stage, fingerprint):
    Checkpoint("ch07_train", "f" * 64).save({"weight": torch.ones(1)}, {})
    assert Checkpoint(stage, fingerprint).load() is None


@pytest.mark.parametrize("left", [0, 5, -10], ids=["nothing", "five bytes", "all but ten bytes"])
def test_what_cannot_be_read_is_nothing(main_workspace, capsys, left):
    checkpoint = Checkpoint("ch07_train", "f" * 64)
    checkpoint.save({"weight": torch.ones(100)}, {"epoch": 1})
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:left])
    assert checkpoint.load() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{checkpoint.path}: can't be read, so that the training begins anew: ")
    checkpoint.save({"weight": torch.ones(100)}, {"epoch": 2})
    assert checkpoint.load()[1] == {"epoch": 2}


def test_removed_is_gone(main_workspace):
    checkpoint = Checkpoint("ch07_train", "f" * 64)
    checkpoint.save({"weight": torch.ones(1)}, {})
    checkpoint.remove()
    assert checkpoint.load() is None
    assert os.listdir(main_workspace / ".checkpoints") == []
    checkpoint.remove()  # twice is no error


def test_prefixes_of_one_file_stay_apart():
    model, average = {"weight": torch.ones(1)}, {"weight": torch.zeros(1)}
    joined = {**with_prefix("model", model), **with_prefix("model2", average)}
    assert joined.keys() == {"model.weight", "model2.weight"}
    assert without_prefix("model", joined) == model
    assert without_prefix("model2", joined) == average


def new_training(optimizer: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    matrices, others = ([p for p in model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return model, OPTIMIZERS[optimizer](groups)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, bytes]:
    tensors = {**model.state_dict(), **optimizer_tensors(optimizer)}
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_takes_the_same_steps(name):
    model, optimizer = new_training(name)
    train(model, optimizer, range(3))
    checkpoint = Checkpoint("ch07_train", "f" * 64)
    tensors = {**with_prefix("model", model.state_dict()), **with_prefix("optimizer", optimizer_tensors(optimizer))}
    checkpoint.save(tensors, {})
    at_three = everything(model, optimizer)
    train(model, optimizer, range(3, 5))

    restored, other = new_training(name)
    loaded, _ = checkpoint.load()
    restored.load_state_dict(without_prefix("model", loaded))
    restore_optimizer(other, without_prefix("optimizer", loaded))
    assert everything(restored, other) == at_three
    train(restored, other, range(3, 5))
    assert everything(restored, other) == everything(model, optimizer) != at_three


def test_without_the_optimizers_state_the_steps_differ():
    """So that the test above tests something."""
    model, optimizer = new_training("momentum")
    train(model, optimizer, range(3))
    copy, other = new_training("momentum")
    copy.load_state_dict(model.state_dict())
    train(model, optimizer, range(3, 5))
    train(copy, other, range(3, 5))
    assert not torch.equal(model[0].weight, copy[0].weight)
