"""Train chapter 5's networks with each of the three cells: recall over several lengths, and the four modes of fig. 53.

In: parameters only; every batch is drawn anew. Out, for each cell: data/models/ch05/<cell>.safetensors with the weights
of all its networks, metrics/history/ch05/<cell>.csv with the loss by step of each length and their
mean, and a run in MLflow.

One process for the three, because starting three would take longer than their training.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from stages.ch05_recurrent_cells.model import LAYERS, RecurrentNetwork
from stages.ch05_recurrent_cells.tasks import MODES, Batch, draw_recall, loss_of
from stages.common.devices import set_up_torch
from stages.common.files import placed, write_history
from stages.common.params import declared_parameters
from stages.common.progress import progress


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
    # Fused, because with so few weights a step's time is that of its calls.
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
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


def main() -> None:
    parameters = declared_parameters("ch05_train")
    recipe = parameters.ch05.active
    seed = parameters.seed
    set_up_torch(seed, parameters.ch05.num_threads)
    start = recipe.select("recurrent_init", "memory_bias")
    task = recipe.select("symbols", "noise")
    options = recipe.select("learning_rate", "schedule", "gradient_clip")
    hidden_size, symbols, batch_size = recipe.hidden_size, recipe.symbols, recipe.batch_size
    lengths, runs, steps, mode_steps = recipe.lengths, recipe.runs, recipe.steps, recipe.mode_steps
    records = {}
    for cell in LAYERS:
        started, weights, history = time.time(), {}, {}
        trainings = [(length, run) for length in lengths for run in range(runs)]
        for length, run in progress(trainings, f"ch05 {cell}"):
            # The same batches for every cell, so that the weights alone differ.
            torch.manual_seed(seed + run)
            generator = torch.Generator().manual_seed(seed + run)
            model = RecurrentNetwork(cell, symbols + 1, hidden_size, symbols, **start)
            draw = lambda length=length, generator=generator: draw_recall(batch_size, generator, length, **task)  # noqa: E731
            losses = train(model, draw, steps, **options)
            mean = history.setdefault(f"length_{length}", [0.0] * steps)
            history[f"length_{length}"] = [total + loss / runs for total, loss in zip(mean, losses, strict=True)]
            weights |= {f"recall_{length}_{run}.{name}": value for name, value in model.state_dict().items()}
        history["mean"] = [sum(losses) / len(lengths) for losses in zip(*history.values(), strict=True)]
        for name, mode in MODES.items():
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(seed)
            # From PyTorch's own start: one that holds on to what was long ago is no help in tasks without it.
            model = RecurrentNetwork(cell, mode.input_size, hidden_size, mode.output_size)
            draw = lambda mode=mode, generator=generator: mode.draw(batch_size, generator)  # noqa: E731
            train(model, draw, mode_steps, **options)
            weights |= {f"{name}.{key}": value for key, value in model.state_dict().items()}
        with placed(model_path(cell)) as path:
            save_file(weights, path)
        write_history(f"metrics/history/ch05/{cell}.csv", history)
        records[cell] = (history, started)

    from stages.common.tracking import record_training

    fixed = {"seed": seed, **parameters.ch05.select("recipe", "num_threads")}
    sizes = {"hidden_size": hidden_size, "batch_size": batch_size, "lengths": lengths, "runs": runs}
    for cell, (history, started) in records.items():
        record_training(
            "ch05_train",
            None,
            model_path(cell),
            parameters={
                "cell": cell,
                **fixed,
                **sizes,
                "steps": steps,
                "mode_steps": mode_steps,
                **start,
                **task,
                **options,
            },
            history=history,
            datasets={},
            started=started,
        )


if __name__ == "__main__":
    main()
