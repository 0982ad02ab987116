"""Train chapter 3's networks: a neuron, a layer, exclusive or, fig. 33's network, and fig. 35 with three optimizers.

In: data/raw/ch03/patterns.npz. Out: data/models/ch03/networks.safetensors with the last weights of all of them,
data/evaluated/ch03/training.npz with their way there, metrics/history/ch03.csv with the loss by step of fig. 35, and a
run in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch03_train", model="module")  # loads MLflow while this process gets ready

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from stages.ch03_perceptrons.generate import PATTERNS
from stages.ch03_perceptrons.model import MultiLayer, fitted_network
from stages.common.arrays import save_arrays
from stages.common.devices import set_up_torch
from stages.common.files import placed, write_history
from stages.common.optimizers import SGD, Adagrad, Adam
from stages.common.params import declared_parameters
from stages.common.seeds import seed_of

MODEL = Path("data/models/ch03/networks.safetensors")
TRAINING = "data/evaluated/ch03/training.npz"
OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adagrad": Adagrad}

Tensors = dict[str, torch.Tensor]


def widrow_hoff(
    inputs: np.ndarray, targets: np.ndarray, rate: float, epochs: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train a linear layer by the rule of Widrow and Hoff (fig. 30), written out; start at zero.

    For each pattern, an input vector X and its target D, in their order:

        Y_i = Σ_j w_ij X_j + b_i
        w_ij(t + 1) = w_ij(t) + α (D_i − Y_i) X_j
        b_i(t + 1)  = b_i(t)  + α (D_i − Y_i)

    Args:
        inputs: X, float32 (patterns, in).
        targets: D, float32 (patterns, out).
        rate: α.

    Yields:
        The weights (out, in) and biases (out,) after each step.
    """
    alpha = np.float32(rate)
    weight = np.zeros((targets.shape[1], inputs.shape[1]), dtype=np.float32)
    bias = np.zeros(targets.shape[1], dtype=np.float32)
    for _ in range(epochs):
        for pattern, target in zip(inputs, targets, strict=True):
            error = target - (weight @ pattern + bias)
            weight = weight + alpha * np.outer(error, pattern)
            bias = bias + alpha * error
            yield weight, bias


def widrow_hoff_autograd(
    inputs: np.ndarray, targets: np.ndarray, rate: float, epochs: int, loss: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train the same layer by autograd and SGD, one pattern a step; arguments and results as in `widrow_hoff`.

    `loss`: "half", ½ Σ (D_i − Y_i)², whose gradient is the rule's; or "sum", without the half, as
    nn.MSELoss(reduction="sum") of fig. 35 has it, which takes steps twice as large.
    """
    layer = nn.Linear(inputs.shape[1], targets.shape[1])
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = SGD(layer.parameters(), lr=rate)
    factor = 0.5 if loss == "half" else 1.0
    for _ in range(epochs):
        for pattern, target in zip(torch.from_numpy(inputs), torch.from_numpy(targets), strict=True):
            error = factor * (layer(pattern) - target).square().sum()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            yield layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()


def gradient_descent(inputs: np.ndarray, targets: np.ndarray, start: np.ndarray, rate: float, steps: int) -> np.ndarray:
    """Descend the loss E = mean(½ (D − w·X)²) of a neuron without bias, w(t + 1) = w(t) − α ∂E/∂w (fig. 29).

    inputs (patterns, in), targets (patterns, 1), start (in,); returns the path (steps + 1, in) in float64.
    """
    x, d = inputs.astype(float), targets[:, 0].astype(float)
    path = [start.astype(float)]
    for _ in range(steps):
        gradient = -((d - x @ path[-1])[:, None] * x).mean(axis=0)
        path.append(path[-1] - rate * gradient)
    return np.array(path)


def start_xor(hidden: int, runs: int) -> Tensors:
    """Draw the weights of `runs` networks with two inputs and one output; `hidden` 0 is a single layer.

    All are uniform in ±1, shapes (runs, in, out) and (runs, 1, out).
    """
    sizes = [2, hidden, 1] if hidden else [2, 1]
    weights = {}
    for number, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False), start=1):
        weights[f"weight{number}"] = torch.empty(runs, fan_in, fan_out).uniform_(-1, 1)
        weights[f"bias{number}"] = torch.empty(runs, 1, fan_out).uniform_(-1, 1)
    return weights


def xor_logits(weights: Tensors, points: torch.Tensor) -> torch.Tensor:
    """Return the logit that a point (points, 2) is of class 1, for each run: (runs, points). Hidden units are tanh."""
    values = points.expand(len(weights["weight1"]), *points.shape)  # (runs, points, 2)
    values = values @ weights["weight1"] + weights["bias1"]
    if "weight2" in weights:
        values = torch.tanh(values) @ weights["weight2"] + weights["bias2"]
    return values.squeeze(-1)


def train_xor(points: torch.Tensor, classes: torch.Tensor, hidden: int, rate: float, steps: int, runs: int) -> Tensors:
    """Train `runs` networks side by side with Adam on all of points (points, 2), classes (points, 1) at once."""
    weights = {name: value.requires_grad_() for name, value in start_xor(hidden, runs).items()}
    optimizer = Adam(weights.values(), lr=rate)
    targets = classes.T.expand(runs, -1)  # (runs, points)
    for _ in range(steps):
        # A sum over the runs, so that none changes another's gradient.
        loss = nn.functional.binary_cross_entropy_with_logits(xor_logits(weights, points), targets, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: value.detach() for name, value in weights.items()}


def train_multilayer(inputs: torch.Tensor, targets: torch.Tensor, output: str, rate: float, steps: int) -> Tensors:
    """Train fig. 33's network, mended, with Adam on all patterns at once: inputs (patterns, 100), targets (…, 1)."""
    model = MultiLayer(output)
    optimizer = Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()


def fit(
    inputs: torch.Tensor, targets: torch.Tensor, optimizer: str, rate: float, steps: int, start: Tensors
) -> tuple[list[float], Tensors]:
    """Run fig. 35 with one optimizer from the weights `start`; return the loss that each step began with, and the last
    weights. inputs (64, 1000), targets (64, 10)."""
    model = fitted_network()
    model.load_state_dict(start)
    loss_fn = nn.MSELoss(reduction="sum")
    method = OPTIMIZERS[optimizer](model.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        loss = loss_fn(model(inputs), targets)
        method.zero_grad()
        loss.backward()
        method.step()
        losses.append(loss.item())
    return losses, model.state_dict()


def main() -> None:
    parameters = declared_parameters("ch03_train")
    recipe = parameters.ch03.active
    seed = parameters.seed
    set_up_torch(seed, parameters.ch03.num_threads)
    with np.load(PATTERNS) as loaded:
        arrays = dict(loaded)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    started = time.time()

    ways, weights = {}, {}
    ways["descent"] = gradient_descent(
        arrays["neuron_inputs"],
        arrays["neuron_targets"],
        np.array([-1.0, 2.0]),
        recipe.neuron_rate,
        recipe.neuron_steps,
    )
    for name in ("neuron", "layer"):
        data = (arrays[f"{name}_inputs"], arrays[f"{name}_targets"], recipe.layer_rate, recipe.layer_epochs)
        rules = {"rule": widrow_hoff(*data), "autograd": widrow_hoff_autograd(*data, recipe.layer_loss)}
        for rule, steps in rules.items():
            for key, values in zip(("weight", "bias"), zip(*steps, strict=True), strict=True):
                ways[f"{name}_{rule}_{key}"] = np.stack(values)
        for key in ("weight", "bias"):
            weights[f"{name}.{key}"] = torch.from_numpy(ways[f"{name}_rule_{key}"][-1])

    for name, hidden in {"xor_one": 0, "xor_two": recipe.xor_hidden}.items():
        trained = train_xor(
            tensors["xor_inputs"], tensors["xor_targets"], hidden, recipe.xor_rate, recipe.xor_steps, recipe.xor_runs
        )
        weights |= {f"{name}.{key}": value for key, value in trained.items()}

    for run in range(recipe.multilayer_runs):
        torch.manual_seed(seed_of(seed, run))
        options = (recipe.output, recipe.multilayer_rate, recipe.multilayer_steps)
        trained = train_multilayer(tensors["train_inputs"], tensors["train_targets"], *options)
        weights |= {f"multilayer{run}.{key}": value for key, value in trained.items()}

    model = MultiLayer(recipe.output)
    model.load_state_dict({name: weights[f"multilayer0.{name}"] for name in model.state_dict()})

    torch.manual_seed(seed)
    start = fitted_network().state_dict()
    rates = {"sgd": recipe.sgd_rate, "adam": recipe.adam_rate, "adagrad": recipe.adagrad_rate}
    history = {}
    for name, rate in rates.items():
        losses, trained = fit(tensors["fit_inputs"], tensors["fit_targets"], name, rate, recipe.optimizer_steps, start)
        history[name] = losses
        weights |= {f"{name}.{key}": value for key, value in trained.items()}

    for name, values in {**ways, **{name: value.numpy() for name, value in weights.items()}}.items():
        if not np.isfinite(values).all():
            raise SystemExit(f"ch03_train: {name} is not finite: the training diverged; try a lower rate")
    save_arrays(TRAINING, **ways)
    with placed(MODEL) as path:
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
    write_history("metrics/history/ch03.csv", history, unit="step")
    tracking.record_training(
        "ch03_train",
        None,
        MODEL,
        history={f"{name}_loss": losses for name, losses in history.items()},
        datasets={"ch03_patterns": Path(PATTERNS)},
        started=started,
        model=model.eval(),  # of all the networks the one with a task of its own and test rows
        example=arrays["train_inputs"][:2],
    )


if __name__ == "__main__":
    main()
