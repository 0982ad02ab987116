"""Train one of the recurrent networks of chapter 6 (figs. 62, 64): `python -m stages.ch06_timeseries.train rnn`.

In: data/prepared/ch06/windows.npz. Out: data/models/ch06/<cell>.safetensors, metrics/history/ch06/<cell>.csv with the
loss of every epoch, and a run in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch06_train", model="module")  # loads MLflow while this process gets ready

import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from stages.ch06_timeseries.model import Forecaster
from stages.ch06_timeseries.preprocess import WINDOWS
from stages.common.devices import set_up_torch
from stages.common.files import placed, write_history
from stages.common.optimizers import Adam
from stages.common.params import declared_parameters, variant_of
from stages.common.progress import progress


def model_path(cell: str) -> Path:
    return Path(f"data/models/ch06/{cell}.safetensors")


def train(
    model: Forecaster,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    schedule: str,
    gradient_clip: float,
    label: str = "training",
) -> dict[str, list[float]]:
    """Train `model` in place with Adam on the squared error; return the mean loss of each epoch as `train_loss`.

    Args:
        inputs: shape (windows, window).
        targets: shape (windows, loss_steps): what follows each of the window's last `loss_steps` positions. With one,
            the network learns from the forecast alone, as in the book; with more, each window teaches more.
        schedule: "constant", or "one_cycle" (Smith and Topin, 2017) with its peak at `learning_rate`.
        gradient_clip: largest norm of the gradient; 0 for no limit.
    """
    steps_per_epoch = -(-len(inputs) // batch_size)
    optimizer = Adam(model.parameters(), lr=learning_rate)
    scheduler = None
    if schedule == "one_cycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps_per_epoch)
    losses: list[float] = []
    for _ in progress(range(epochs), label, lambda: f"loss {losses[-1]:.4f}"):
        total = 0.0
        for batch in torch.randperm(len(inputs)).split(batch_size):
            predictions = model.last_steps(inputs[batch], targets.shape[1])
            loss = nn.functional.mse_loss(predictions, targets[batch])
            optimizer.zero_grad()
            loss.backward()
            if gradient_clip:
                nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
            optimizer.step()
            if scheduler:
                scheduler.step()
            total += loss.item() * len(batch)
        losses.append(total / len(inputs))
    return {"train_loss": losses}


def main() -> None:
    cell = variant_of("ch06_train")
    parameters = declared_parameters("ch06_train")
    recipe = parameters.ch06.active
    set_up_torch(parameters.seed, parameters.ch06.num_threads)
    with np.load(WINDOWS) as windows:
        inputs, targets = torch.from_numpy(windows["train_inputs"]), torch.from_numpy(windows["train_targets"])
    shape = {"cell": cell, **recipe.select("hidden_size", "num_layers")}
    model = Forecaster(**shape)
    started = time.time()
    options = recipe.select("epochs", "batch_size", "learning_rate", "schedule", "gradient_clip")
    history = train(model, inputs, targets, **options, label=f"ch06 {cell}")
    with placed(model_path(cell)) as path:
        save_file(model.state_dict(), path)
    write_history(f"metrics/history/ch06/{cell}.csv", history)
    tracking.record_training(
        "ch06_train",
        cell,
        model_path(cell),
        history=history,
        datasets={"ch06_windows": Path(WINDOWS)},
        started=started,
        parameters={"cell": cell},
        model=model.eval(),
        example=inputs[:2].numpy(),
    )


if __name__ == "__main__":
    main()
