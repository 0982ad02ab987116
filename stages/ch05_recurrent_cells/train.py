"""Train chapter 5's networks with each of the three cells: recall over several lengths, and the four modes of fig. 53.

In: parameters only; every batch is drawn anew. Out, for each cell: data/models/ch05/<cell>.safetensors with the weights
of all its networks, metrics/history/ch05/<cell>.csv with the loss by step of each length and their
mean, and a run in MLflow.

One stage for the three, because starting three would take longer than their training.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch05_train", model="module")  # loads MLflow while this process gets ready

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file

from stages.ch05_recurrent_cells.model import LAYERS, BatchFirst, RecurrentNetwork
from stages.ch05_recurrent_cells.tasks import MODES, Batch, draw_recall, loss_of
from stages.common.devices import in_processes, set_up_torch
from stages.common.files import placed, write_history
from stages.common.optimizers import Adam
from stages.common.params import declared_parameters
from stages.common.progress import progress
from stages.common.seeds import seed_of


def model_path(cell: str) -> Path:
    return Path(f"data/models/ch05/{cell}.safetensors")


def train(
    model: RecurrentNetwork,
    draw: Callable[[], Batch],
    steps: int,
    learning_rate: float,
    schedule: str,
    gradient_clip: float,
) -> list[float]:
    """Train `model` in place with Adam on a batch of `draw()` a step; return the loss of each step.

    Args:
        schedule: "constant", or "one_cycle" (Smith and Topin, 2017) with its peak at `learning_rate`.
        gradient_clip: largest norm of the gradient; 0 for no limit.
    """
    optimizer = Adam(model.parameters(), lr=learning_rate)
    scheduler = None
    if schedule == "one_cycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    losses = []
    for _ in range(steps):
        inputs, targets = draw()
        loss = loss_of(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        if gradient_clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
        optimizer.step()
        if scheduler:
            scheduler.step()
        losses.append(loss.item())
    return losses


class Training(NamedTuple):
    """What one process needs to know to train one network."""

    name: str  # in the model file: recall_<length>_<run>, or a mode of fig. 53
    draw: Callable[[int, torch.Generator], Batch]
    network: dict[str, str | int | float]  # arguments of RecurrentNetwork
    seed: int
    steps: int
    batch_size: int


def recall_trainings(
    cell: str,
    seed: int,
    lengths: list[int],
    runs: int,
    hidden_size: int,
    batch_size: int,
    steps: int,
    task: dict[str, float],
    start: dict[str, str | float],
) -> list[Training]:
    """List the networks that learn to recall: `runs` of them for each length.

    `task` is what `draw_recall` takes beside the length, `start` how a RecurrentNetwork's weights start. A run has the
    same seed for every cell, and so the same batches: the networks alone differ.
    """
    sizes = {"input_size": task["symbols"] + 1, "hidden_size": hidden_size, "output_size": task["symbols"]}
    network = {"cell": cell, **sizes, **start}
    return [
        Training(
            f"recall_{length}_{run}",
            partial(draw_recall, length=length, **task),
            network,
            seed_of(seed, run),
            steps,
            batch_size,
        )
        for length in lengths
        for run in range(runs)
    ]


def mode_trainings(cell: str, seed: int, hidden_size: int, batch_size: int, steps: int) -> list[Training]:
    """List a network for each of the four modes.

    They have PyTorch's own start: one that holds on to what was long ago is no help in tasks without it.
    """
    return [
        Training(
            name,
            mode.draw,
            {"cell": cell, "input_size": mode.input_size, "hidden_size": hidden_size, "output_size": mode.output_size},
            seed_of(seed, 0),
            steps,
            batch_size,
        )
        for name, mode in MODES.items()
    ]


def run_training(training: Training, options: dict[str, float | str]) -> tuple[list[float], dict[str, np.ndarray]]:
    """Train one network from its seed; return the loss by step and the weights. `options` are those of `train`."""
    torch.manual_seed(training.seed)
    generator = torch.Generator().manual_seed(training.seed)
    model = RecurrentNetwork(**training.network)
    losses = train(model, partial(training.draw, training.batch_size, generator), training.steps, **options)
    return losses, {name: value.numpy() for name, value in model.state_dict().items()}


def run_trainings(
    trainings: list[Training], processes: int, **options
) -> list[tuple[list[float], dict[str, np.ndarray]]]:
    """Run all trainings, `processes` at a time; return what `run_training` does for each.

    Each has weights and random numbers of its own, so that the result doesn't depend on the number of processes.
    """
    job = partial(run_training, options=options)
    return list(progress(in_processes(job, trainings, processes), "ch05", total=len(trainings)))


def mean_losses(losses: dict[str, list[float]], lengths: list[int], runs: int) -> dict[str, list[float]]:
    """Return for each length of recall the loss by step, the mean of its runs, and as `mean` that of all lengths.

    `losses`: name of a training to its loss by step.
    """
    by_length = {
        length: np.mean([losses[f"recall_{length}_{run}"] for run in range(runs)], axis=0) for length in lengths
    }
    mean = np.mean(list(by_length.values()), axis=0)
    return {**{f"length_{length}": row.tolist() for length, row in by_length.items()}, "mean": mean.tolist()}


def main() -> None:
    parameters = declared_parameters("ch05_train")
    recipe = parameters.ch05.active
    seed, num_threads = parameters.seed, parameters.ch05.num_threads
    set_up_torch(seed, num_threads=1)
    start = recipe.select("recurrent_init", "memory_bias")
    task = recipe.select("symbols", "noise")
    options = recipe.select("learning_rate", "schedule", "gradient_clip")
    sizes = recipe.select("hidden_size", "batch_size")
    budget = recipe.select("lengths", "runs", "steps")
    mode_steps = recipe.mode_steps
    started = time.time()
    trainings = []
    for cell in LAYERS:
        trainings += recall_trainings(cell, seed, **budget, **sizes, task=task, start=start)
        trainings += mode_trainings(cell, seed, **sizes, steps=mode_steps)
    results = run_trainings(trainings, num_threads, **options)
    seconds = time.time() - started  # of all three cells, which are trained side by side

    longest = f"recall_{max(budget['lengths'])}_0"
    histories, networks = {}, {}
    for cell in LAYERS:
        pairs = zip(trainings, results, strict=True)
        own = {training.name: (training, *result) for training, result in pairs if training.network["cell"] == cell}
        with placed(model_path(cell)) as path:
            save_file(
                {f"{name}.{key}": value for name, (_, _, weights) in own.items() for key, value in weights.items()},
                path,
            )
        losses = {name: losses for name, (_, losses, _) in own.items()}
        histories[cell] = mean_losses(losses, budget["lengths"], budget["runs"])
        write_history(f"metrics/history/ch05/{cell}.csv", histories[cell], unit="step")
        training, _, weights = own[longest]
        networks[cell] = RecurrentNetwork(**training.network)
        networks[cell].load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})

    example, _ = draw_recall(2, torch.Generator().manual_seed(seed_of(seed, 0)), max(budget["lengths"]), **task)
    for cell, history in histories.items():
        tracking.record_training(
            "ch05_train",
            cell,
            model_path(cell),
            history={f"{name}_loss": losses for name, losses in history.items()},
            datasets={},
            started=time.time() - seconds,  # not `started`: the recording of the cells before this one is no training
            parameters={"cell": cell},
            model=BatchFirst(networks[cell]).eval(),
            example=example.transpose(0, 1).contiguous().numpy(),
        )


if __name__ == "__main__":
    main()
