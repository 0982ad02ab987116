"""Fit chapter 2's line w·x by gradient descent in three ways: NumPy, autograd, torch.func (figs. 18, 19, 21, 22).

In: data/raw/ch02/line.npz. Out: data/models/ch02/weights.safetensors with the last weight of each way,
data/evaluated/ch02/descent.npz with `<way>_weight`, `<way>_loss` and `<way>_gradient` (iterations,) at full precision,
metrics/history/ch02.csv with those of autograd, and a run in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch02_train", model="module")  # loads MLflow while this process gets ready

import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from stages.ch02_autograd.generate import LINE
from stages.ch02_autograd.model import Line
from stages.common.arrays import save_arrays
from stages.common.devices import set_up_torch
from stages.common.files import placed, write_history
from stages.common.params import declared_parameters

MODEL = Path("data/models/ch02/weights.safetensors")
DESCENT = "data/evaluated/ch02/descent.npz"

Descent = dict[str, np.ndarray]  # "weight" after each iteration; "loss" and "gradient" that the iteration began with


def as_arrays(rows: list[tuple[float, float, float]]) -> Descent:
    """Turn rows of (weight, loss, gradient) into float32 arrays of shape (iterations,)."""
    names = ("weight", "loss", "gradient")
    return dict(zip(names, np.array(rows, dtype=np.float32).T, strict=True))


def numpy_gradient(weight: float, inputs: np.ndarray, targets: np.ndarray, gradient: str) -> np.float32:
    """Return the derivative of mean((w·x − y)²) by w, from its formula mean(2x·(w·x − y)).

    With "sum" the mean is left out, as in fig. 18: there `np.dot(…)` has summed to one number already, and `.mean()`
    of one number is that number. The gradient is then as many times too large as there are points.
    """
    products = 2 * inputs * (weight * inputs - targets)  # (points,)
    return products.mean() if gradient == "mean" else np.dot(2 * inputs, weight * inputs - targets)


def descend_numpy(
    inputs: np.ndarray, targets: np.ndarray, weight: float, learning_rate: float, iterations: int, gradient: str
) -> Descent:
    """Descend by the formula of the gradient (figs. 18, 19); inputs and targets are float32 of shape (points,)."""
    rows, w, rate = [], np.float32(weight), np.float32(learning_rate)
    for _ in range(iterations):
        loss = ((w * inputs - targets) ** 2).mean()
        slope = numpy_gradient(w, inputs, targets, gradient)
        w -= rate * slope
        rows.append((w, loss, slope))
    return as_arrays(rows)


def descend_autograd(
    inputs: np.ndarray, targets: np.ndarray, weight: float, learning_rate: float, iterations: int
) -> Descent:
    """Descend by autograd (figs. 21, 22): the graph is recorded anew each time, and run backwards."""
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
    w = torch.tensor(weight, dtype=torch.float32, requires_grad=True)
    rows = []
    for _ in range(iterations):
        loss = ((w * x - y) ** 2).mean()
        loss.backward()
        slope = w.grad.item()
        with torch.no_grad():  # the step itself is no part of the graph
            w -= learning_rate * w.grad
        w.grad.zero_()  # or the next gradient would be added to this one
        rows.append((w.item(), loss.item(), slope))
    return as_arrays(rows)


def descend_func(
    inputs: np.ndarray, targets: np.ndarray, weight: float, learning_rate: float, iterations: int
) -> Descent:
    """Descend by torch.func: the gradient is a function made from the loss, and no tensor keeps a state."""
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)

    def loss_of(w: torch.Tensor) -> torch.Tensor:
        return ((w * x - y) ** 2).mean()

    gradient_and_loss = torch.func.grad_and_value(loss_of)
    w, rows = torch.tensor(weight, dtype=torch.float32), []
    for _ in range(iterations):
        slope, loss = gradient_and_loss(w)
        w = w - learning_rate * slope
        rows.append((w.item(), loss.item(), slope.item()))
    return as_arrays(rows)


def main() -> None:
    parameters = declared_parameters("ch02_train")
    recipe = parameters.ch02.active
    set_up_torch(parameters.seed, parameters.ch02.num_threads)
    with np.load(LINE) as data:
        inputs, targets = data["inputs"], data["targets"]
    started = time.time()
    start, rate = recipe.initial_weight, recipe.learning_rate
    ways = {
        "numpy": descend_numpy(inputs, targets, start, rate, recipe.numpy_iterations, recipe.gradient),
        "autograd": descend_autograd(inputs, targets, start, rate, recipe.autograd_iterations),
        "func": descend_func(inputs, targets, start, rate, recipe.autograd_iterations),
    }
    save_arrays(DESCENT, **{f"{way}_{name}": values for way, run in ways.items() for name, values in run.items()})
    with placed(MODEL) as path:
        save_file({way: run["weight"][-1:] for way, run in ways.items()}, path)
    history = {name: values.tolist() for name, values in ways["autograd"].items()}
    write_history("metrics/history/ch02.csv", history, unit="iteration")
    tracking.record_training(
        "ch02_train",
        None,
        MODEL,
        history=history,
        datasets={"ch02_line": Path(LINE)},
        started=started,
        model=Line(ways["autograd"]["weight"][-1]),
        example=inputs[:2],
    )


if __name__ == "__main__":
    main()
