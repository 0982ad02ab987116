"""Train the networks of chapter 4 (fig. 41): on the book's training rows from several seeds, and for every fold.

In: data/prepared/ch04/housing.npz. Out: data/models/ch04/runs.safetensors, data/models/ch04/folds.safetensors,
metrics/history/ch04.csv with the first run's loss, and a run in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch04_train", model="module")  # loads MLflow while this process gets ready

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from stages.ch04_housing.model import HousingModel, model_shape
from stages.common.devices import in_processes, set_up_torch
from stages.common.files import placed, write_history
from stages.common.optimizers import SGD, Adam
from stages.common.params import declared_parameters
from stages.common.progress import progress
from stages.common.roots import square_root
from stages.common.seeds import seed_of

HOUSING = "data/prepared/ch04/housing.npz"
MODELS = Path("data/models/ch04")
HISTORY = "metrics/history/ch04.csv"
RUNS_PER_PART = 3  # trained as one batch
WARM_UP = 0.2  # share of the epochs in which a one-cycle schedule rises
BETAS = (0.9, 0.99)  # of Adam; of the squares it forgets faster than by default, in so few steps


def fold_splits(folds: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (training rows, held-out rows) for every fold of `folds` (repeats, rows), repeat after repeat."""
    return [
        (np.flatnonzero(repeat != fold), np.flatnonzero(repeat == fold))
        for repeat in folds
        for fold in range(repeat.max() + 1)
    ]


def training_weights(train_rows: Sequence[np.ndarray], rows: int) -> torch.Tensor:
    """Return (runs, rows): 1/n for each of a run's n training rows, and 0 for a row that it must not learn from.

    With all rows in every run, runs with different numbers of training rows fit into one batch.
    """
    weights = torch.zeros(len(train_rows), rows)
    for run, chosen in enumerate(train_rows):
        weights[run, chosen] = 1 / len(chosen)
    return weights


def fit_scaling(model: HousingModel, features: torch.Tensor, targets: torch.Tensor, weights, scaled_on: str) -> None:
    """Set the scaling of `model` from the training rows.

    With `scaled_on` "all", the features' comes from all rows: the book fits its StandardScaler before it splits, so
    that the test rows take part in it. The price is scaled only where its logarithm is the target.

    Args:
        features: shape (rows, F).
        targets: shape (rows,).
        weights: shape (runs, rows), each run's sum 1.
    """
    shares = weights if scaled_on == "train" else torch.full_like(weights, 1 / weights.shape[1])
    model.feature_mean = (shares @ features).unsqueeze(1)  # (R, 1, F)
    squares = (features - model.feature_mean).square()  # (R, N, F)
    model.feature_deviation = square_root(torch.einsum("rn,rnf->rf", shares, squares)).unsqueeze(1)
    if model.target == "log":
        model.target_mean = (weights @ targets).unsqueeze(1)
        squares = (targets - model.target_mean).square()
        model.target_deviation = square_root((weights * squares).sum(dim=1, keepdim=True))


def train(
    model: HousingModel,
    features: torch.Tensor,
    prices: torch.Tensor,
    train_rows: Sequence[np.ndarray],
    scaled_on: str,
    optimizer: str,
    schedule: str,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    process_steps: int,
    process_learning_rate: float,
) -> dict[str, list[float]]:
    """Train all runs of `model` in place, each on its own rows, full batch, on the squared error; fit the processes.

    Args:
        features: shape (rows, F), unscaled.
        prices: shape (rows,), in 1,000 dollars.
        train_rows: for each run, the rows that it learns from.

    Returns:
        `train_loss`, the first run's mean squared error before each step, in units of the (scaled) target squared.
    """
    features, prices = features.float(), prices.float()
    targets = prices.log() if model.target == "log" else prices
    weights = training_weights(train_rows, len(prices))
    fit_scaling(model, features, targets, weights, scaled_on)
    scaled = (targets - model.target_mean) / model.target_deviation  # (R, N)
    encoded = model.encoded(features.expand(model.runs, -1, -1))
    if model.process is not None:
        model.process.fit(encoded[0][:: model.members].mT, scaled, weights > 0, process_steps, process_learning_rate)
    scaled, weights = (values.repeat_interleave(model.members, dim=0) for values in (scaled, weights))  # (B, N)

    decayed = [parameter for name, parameter in model.named_parameters() if name.endswith("weight")]
    others = [parameter for name, parameter in model.named_parameters() if not name.endswith("weight")]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    if optimizer == "adamw":
        stepper = Adam(groups, lr=learning_rate, betas=BETAS, decoupled_weight_decay=True)  # AdamW
    else:
        stepper = SGD(groups, lr=learning_rate)
    scheduler = None
    if schedule == "one_cycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            stepper, learning_rate, total_steps=epochs, pct_start=WARM_UP, cycle_momentum=False
        )
    losses: list[float] = []
    for _ in range(epochs):
        squares = (model.scaled_outputs(*encoded) - scaled).square() * weights  # (B, N), zero for rows not learnt from
        stepper.zero_grad()
        squares.sum().backward()  # a network's gradient comes from its own error alone
        stepper.step()
        if scheduler:
            scheduler.step()
        losses.append(squares[: model.members].sum().item() / model.members)
    return {"train_loss": losses}


def train_part(
    part: tuple[int, Sequence[np.ndarray]],
    features: torch.Tensor,
    prices: torch.Tensor,
    seed: int,
    shape: dict,
    options: dict,
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Train the runs of a `part`, the first one's number and the rows of each; return the state and the history."""
    first, train_rows = part
    model = HousingModel([seed_of(seed, first + run) for run in range(len(train_rows))], features.shape[1], **shape)
    history = train(model, features, prices, train_rows, **options)
    return {name: value.numpy() for name, value in model.state_dict().items()}, history


def train_in_parts(
    features: torch.Tensor,
    prices: torch.Tensor,
    groups: Mapping[str, Sequence[np.ndarray]],
    seed: int,
    processes: int,
    shape: dict,
    options: dict,
) -> dict[str, tuple[HousingModel, dict[str, list[float]]]]:
    """Train a run for each of a group's sets of training rows, a few at a time in each of `processes`.

    The runs have nothing to do with one another, so the bytes of the result don't depend on the number of processes.

    Returns:
        for each group, the model of all its runs, and the history of the first.
    """
    parts = [
        (name, (first, train_rows[first : first + RUNS_PER_PART]))
        for name, train_rows in groups.items()
        for first in range(0, len(train_rows), RUNS_PER_PART)
    ]
    job = partial(train_part, features=features, prices=prices, seed=seed, shape=shape, options=options)
    trainings = in_processes(job, [part for _, part in parts], processes)
    trained = list(progress(trainings, "ch04", total=len(parts)))
    results = {}
    for name, train_rows in groups.items():
        own = [result for (group, _), result in zip(parts, trained, strict=True) if group == name]
        states = [state for state, _ in own]
        # In every tensor the first dimension counts networks, run after run.
        joined = {key: torch.from_numpy(np.concatenate([state[key] for state in states])) for key in states[0]}
        model = HousingModel([0] * len(train_rows), features.shape[1], **shape)
        model.load_state_dict(joined)
        results[name] = (model, own[0][1])
    return results


def main() -> None:
    parameters = declared_parameters("ch04_train")
    chapter, recipe = parameters.ch04, parameters.ch04.active
    set_up_torch(parameters.seed, num_threads=1)
    with np.load(HOUSING) as housing:
        features, prices = torch.from_numpy(housing["features"]), torch.from_numpy(housing["prices"])
        book_rows, fold_rows = housing["train_rows"], [rows for rows, _ in fold_splits(housing["folds"])]
        names = housing["names"]
    shape_parameters = recipe.select(
        "target",
        "members",
        "frequencies",
        "frequency_scale",
        "embedding_size",
        "hidden_sizes",
        "activation",
        "process_share",
        "process_groups",
    )
    shape = model_shape(shape_parameters, names, len(prices))
    options = recipe.select(
        "scaled_on",
        "optimizer",
        "schedule",
        "epochs",
        "learning_rate",
        "weight_decay",
        "process_steps",
        "process_learning_rate",
    )
    started = time.time()
    groups = {"folds": fold_rows, "runs": [book_rows] * chapter.runs}
    trained = train_in_parts(features, prices, groups, parameters.seed, chapter.num_threads, shape, options)
    for name, (model, _) in trained.items():
        with placed(MODELS / f"{name}.safetensors") as path:
            save_file(model.state_dict(), path)
    model, history = trained["runs"]
    write_history(HISTORY, history)

    tracking.record_training(
        "ch04_train",
        None,
        MODELS / "runs.safetensors",
        history=history,
        datasets={"ch04_housing": Path(HOUSING)},
        started=started,
        parameters={"rows": len(prices)},
        model=model.first_run().eval(),
        example=features[:2].float().numpy(),
    )


if __name__ == "__main__":
    main()
