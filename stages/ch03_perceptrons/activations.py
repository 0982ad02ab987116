"""The activation functions of figs. 25 and 26: PyTorch's, and their values and derivatives in closed form."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

# What doesn't fill the processor's vectors PyTorch computes by the C library, of which another version may give another
# last bit, as glibc 2.41 does with log1p.
WHOLE_VECTORS = 32


class Activation(NamedTuple):
    function: Callable[[torch.Tensor], torch.Tensor]
    value: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    # torch.heaviside has no derivative; of this one autograd says what is true wherever there is one: zero. Gradient
    # descent learns nothing through it.
    "threshold": Activation(
        lambda x: (torch.sign(x) + 1) / 2, lambda x: (x > 0).astype(float), lambda x: np.zeros_like(x)
    ),
    "linear": Activation(lambda x: 1 * x, lambda x: x, lambda x: np.ones_like(x)),
    "relu": Activation(torch.relu, lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
    "sigmoid": Activation(torch.sigmoid, sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "tanh": Activation(torch.tanh, np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "softplus": Activation(F.softplus, lambda x: np.log1p(np.exp(x)), sigmoid),
}


def curves(points: int, limit: float = 5.0) -> dict[str, np.ndarray]:
    """Return each function's values and autograd's derivatives in float32, as in fig. 27.

    Args:
        points: how many, evenly from −limit to limit, shape (points,).

    Returns:
        "x", and for each function `<name>` and `<name>_derivative`, each (points,).
    """
    result = {"x": torch.linspace(-limit, limit, points).numpy()}
    for name, activation in ACTIVATIONS.items():
        x = F.pad(torch.linspace(-limit, limit, points), (0, -points % WHOLE_VECTORS)).requires_grad_()
        y = activation.function(x)
        y.sum().backward()  # each y depends on its own x alone, so that the gradient of the sum is each derivative
        result |= {name: y.detach()[:points].numpy(), f"{name}_derivative": x.grad[:points].numpy()}
    return result


def largest_errors(computed: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return how far values and derivatives of `curves` are from the closed forms in float64, at most.

    The point x = 0 is left out: threshold and ReLU have a kink there, and no derivative.
    """
    x = computed["x"].astype(float)
    smooth = x != 0
    values = max(np.abs(computed[name] - activation.value(x))[smooth].max() for name, activation in ACTIVATIONS.items())
    derivatives = max(
        np.abs(computed[f"{name}_derivative"] - activation.derivative(x))[smooth].max()
        for name, activation in ACTIVATIONS.items()
    )
    return float(values), float(derivatives)
