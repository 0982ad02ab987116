"""Checkpoints of a long training: killed at any moment, it goes on from its last epoch to the same final bytes."""

import json
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stages.common.files import placed
from stages.common.params import main_root


class Checkpoint:
    """One file, named after all that made it: another stage, other parameters or another PyTorch never find it.

    Args:
        stage: its name, and what else decides how it computes, such as the device.
        fingerprint: of its parameters and dependencies.

    It lies outside the stage's outputs, which DVC removes before it runs a stage.
    """

    def __init__(self, stage: str, fingerprint: str):
        self.path: Path = (
            main_root() / ".checkpoints" / f"{stage}-torch{torch.__version__}-{fingerprint[:32]}.safetensors"
        )

    def save(self, tensors: dict[str, torch.Tensor], state: dict) -> None:
        """Replace what was saved; `state` is anything that JSON can hold."""
        with placed(self.path) as path:
            # A single metadata key, because with more of them the bytes vary from process to process.
            save_file(_apart(tensors), path, {"state": json.dumps(state)})

    def load(self) -> tuple[dict[str, torch.Tensor], dict] | None:
        """Return (tensors, state) as saved, or None if there is nothing to go on from.

        A file that can't be read, as a machine that lost its power may leave it, is nothing; one line says so.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                # Copies: what is read lies in the file's own memory, and Windows replaces no file that is in use.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
                return tensors, json.loads(file.metadata()["state"])
        except (OSError, SafetensorError) as error:
            print(f"{self.path}: can't be read, so that the training begins anew: {error}", file=sys.stderr)
            return None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors contiguous, with copies of those that share another's memory: safetensors refuses such."""
    taken = set()
    apart = {}
    for key, value in tensors.items():
        value = value.detach().contiguous()
        memory = value.untyped_storage().data_ptr()
        apart[key] = value.clone() if memory in taken else value
        taken.add(memory)
    return apart


def with_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state, parameter by parameter: "3.exp_avg" and so on."""
    states = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, state in states.items() for name, tensor in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
