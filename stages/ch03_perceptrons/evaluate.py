"""Check chapter 3's formulas against autograd and closed forms, and measure its trained networks.

In: data/raw/ch03/patterns.npz, data/models/ch03/networks.safetensors, data/evaluated/ch03/training.npz,
metrics/history/ch03.csv. Out: metrics/ch03.json; metrics/facts/ch03.json with every statement and whether it holds;
data/evaluated/ch03/figures.npz with the curves, surfaces and regions that `plot` draws.
"""

import itertools
import warnings

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.metrics import r2_score

from stages.ch03_perceptrons.activations import curves, largest_errors
from stages.ch03_perceptrons.facts import all_facts
from stages.ch03_perceptrons.generate import PATTERNS
from stages.ch03_perceptrons.model import (
    MultiLayer,
    MultiLayerAsPrinted,
    SingleLayer,
    fitted_network,
    parameter_count,
    sequential,
)
from stages.ch03_perceptrons.train import MODEL, TRAINING, Tensors, xor_logits
from stages.common.arrays import save_arrays
from stages.common.devices import set_up_torch
from stages.common.files import read_history, rounded, write_json
from stages.common.params import declared_parameters

FIGURES = "data/evaluated/ch03/figures.npz"
GRID = 81  # points a side of surfaces and regions


def weights_of(weights: Tensors, network: str) -> Tensors:
    """Return the weights of one of the networks in the model file, under the names within it."""
    return {name.partition(".")[2]: value for name, value in weights.items() if name.partition(".")[0] == network}


def rule_differences(ways: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Return for each step how far the rule's weights and biases are from autograd's at most, (steps,)."""
    parts = [ways[f"{name}_rule_{part}"] - ways[f"{name}_autograd_{part}"] for part in ("weight", "bias")]
    return np.max([np.abs(part).reshape(len(part), -1).max(axis=1) for part in parts], axis=0)


def least_squares(inputs: np.ndarray, targets: np.ndarray) -> float:
    """Return the smallest root mean square error that a linear layer with biases can have on these patterns."""
    x = np.column_stack([inputs, np.ones(len(inputs))]).astype(float)
    solution, *_ = np.linalg.lstsq(x, targets.astype(float), rcond=None)
    return float(np.sqrt(np.mean((x @ solution - targets) ** 2)))


def loss_surface(inputs: np.ndarray, targets: np.ndarray, path: np.ndarray) -> dict[str, np.ndarray]:
    """Return the loss E(w1, w2) of `gradient_descent` on a grid around `path` (steps, 2), and its minimum.

    Returns:
        w1, w2 (GRID,), surface (GRID, GRID) with w2 along the first dimension, minimum (2,), curvature (2,): the
        eigenvalues of E's second derivatives; descent diverges from a rate of 2 over the larger on.
    """
    x, d = inputs.astype(float), targets[:, 0].astype(float)
    hessian = x.T @ x / len(x)
    minimum = np.linalg.solve(hessian, x.T @ d / len(x))
    reach = 1.15 * np.abs(path - minimum).max()
    w1, w2 = (np.linspace(center - reach, center + reach, GRID) for center in minimum)
    weights = np.stack(np.meshgrid(w1, w2), axis=-1)  # (GRID, GRID, 2)
    surface = ((d - weights @ x.T) ** 2).mean(axis=-1) / 2
    return {"w1": w1, "w2": w2, "surface": surface, "minimum": minimum, "curvature": np.linalg.eigvalsh(hessian)}


def xor_accuracies(weights: Tensors, points: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return the share of points (points, 2) whose class (points, 1) each run finds, (runs,)."""
    found = (xor_logits(weights, points) > 0).float()  # (runs, points)
    return (found == classes.T).float().mean(dim=1)


def xor_region(weights: Tensors, run: int) -> np.ndarray:
    """Return the probability of class 1 on a grid over [−0.5, 1.5]², (GRID, GRID), second input first."""
    axis = torch.linspace(-0.5, 1.5, GRID)
    second, first = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([first.flatten(), second.flatten()], dim=1)
    one = {name: value[run : run + 1] for name, value in weights.items()}
    return torch.sigmoid(xor_logits(one, points)).view(GRID, GRID).numpy()


def best_line(points: torch.Tensor, classes: torch.Tensor) -> tuple[float, np.ndarray]:
    """Return the largest share of the points (points, 2) that a line can put on the side of its class (points, 1).

    Of all lines a few stand for every way to part the corners of a square by one: those with weights of −1, 0 and 1.

    Returns:
        The share, and the first such line, (w1, w2, b): class 1 is where w1·x1 + w2·x2 + b > 0.
    """
    lines = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0), (-1.5, -0.5, 0.5, 1.5))))
    found = points @ lines[:, :2].T + lines[:, 2] > 0  # (points, lines)
    shares = (found == (classes > 0.5)).float().mean(dim=0)
    return shares.max().item(), lines[shares.argmax()].numpy()


def share_sum_error(softmax_dim: str) -> float:
    """Return how far fig. 34's shares of the two classes are from adding up to 1, of inputs (4, 3, 10), at most."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of the dimension left out, which is the point
        shares = sequential(softmax_dim)(torch.randn(4, 3, 10))
    return (shares.sum(dim=-1) - 1).abs().max().item()


def steps_to(losses: list[float], share: float) -> int | None:
    """Return after how many steps the loss stays below `share` of the first one, the loss before any; None: never.

    `losses` has the loss before each step.
    """
    above = [step for step, loss in enumerate(losses, start=1) if loss >= share * losses[0]]
    return above[-1] if above[-1] < len(losses) else None


@torch.no_grad()
def outputs_of(network: torch.nn.Module, weights: Tensors, inputs: torch.Tensor) -> np.ndarray:
    network.load_state_dict(weights)
    return network.eval()(inputs).numpy()


def main() -> None:
    parameters = declared_parameters("ch03_evaluate")
    recipe = parameters.ch03.active
    set_up_torch(parameters.seed, parameters.ch03.num_threads)
    with np.load(PATTERNS) as patterns, np.load(TRAINING) as training:
        arrays, ways = dict(patterns), dict(training)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    weights = load_file(MODEL)

    facts = all_facts()
    activation_curves = curves(recipe.activation_points)
    value_error, derivative_error = largest_errors(activation_curves)
    surface = loss_surface(arrays["neuron_inputs"], arrays["neuron_targets"], ways["descent"])
    differences = {name: rule_differences(ways, name) for name in ("neuron", "layer")}
    last_outputs = arrays["layer_inputs"] @ ways["layer_rule_weight"][-1].T + ways["layer_rule_bias"][-1]
    xor = {name: weights_of(weights, name) for name in ("xor_one", "xor_two")}
    points, classes = tensors["xor_inputs"], tensors["xor_targets"]
    solved = xor_accuracies(xor["xor_two"], points, classes) == 1  # (runs,)
    one_layer = torch.sigmoid(xor_logits(xor["xor_one"], points))  # (runs, points)
    line_share, line = best_line(points, classes)
    predictions = [
        outputs_of(MultiLayer(recipe.output), weights_of(weights, f"multilayer{run}"), tensors["test_inputs"])
        for run in range(recipe.multilayer_runs)
    ]
    scores = np.array([r2_score(arrays["test_targets"], prediction) for prediction in predictions])
    fresh = outputs_of(fitted_network(), weights_of(weights, "adam"), tensors["fresh_inputs"])
    history = read_history("metrics/history/ch03.csv")

    write_json(
        "metrics/ch03.json",
        {
            "facts": len(facts),
            "facts_true": sum(fact["holds"] for fact in facts),
            "activation_value_error": float(f"{value_error:.3g}"),
            "activation_derivative_error": float(f"{derivative_error:.3g}"),
            "descent_distance": float(f"{np.linalg.norm(ways['descent'][-1] - surface['minimum']):.3g}"),
            "descent_critical_rate": round(2 / surface["curvature"].max(), 4),
            **{f"{name}_rule_difference": float(f"{values.max():.3g}") for name, values in differences.items()},
            "layer_rmse": round(float(np.sqrt(np.mean((last_outputs - arrays["layer_targets"]) ** 2))), 6),
            "layer_rmse_least_squares": round(least_squares(arrays["layer_inputs"], arrays["layer_targets"]), 6),
            "xor_best_line": line_share,
            "xor_one_layer_from_half": float(f"{(one_layer - 0.5).abs().max().item():.3g}"),
            "xor_two_layers_solved": round(solved.float().mean().item(), 6),
            "single_layer_parameters": parameter_count(SingleLayer()),
            "multilayer_parameters": parameter_count(MultiLayer()),
            "multilayer_printed_parameters": parameter_count(MultiLayerAsPrinted()),
            "sequential_parameters": parameter_count(sequential()),
            "multilayer_r2_mean": round(float(scores.mean()), 6),
            "multilayer_r2_std": round(float(scores.std(ddof=1)), 6),
            "multilayer_negative_outputs": round(float(np.mean(np.array(predictions) < 0)), 6),
            "softmax_sum_error": round(share_sum_error(recipe.softmax_dim), 6),
            **{f"{name}_steps_to_1_percent": steps_to(losses, 0.01) for name, losses in history.items()},
            **{f"{name}_last_loss": losses[-1] for name, losses in history.items()},
            **rounded({"fit_fresh_r2": r2_score(arrays["fresh_targets"], fresh)}),
        },
    )
    write_json("metrics/facts/ch03.json", {"facts": facts})
    save_arrays(
        FIGURES,
        **{f"activation_{name}": values for name, values in activation_curves.items()},
        **surface,
        **{f"{name}_difference": values for name, values in differences.items()},
        xor_one=xor_region(xor["xor_one"], 0),
        xor_two=xor_region(xor["xor_two"], int(solved.int().argmax())),
        xor_line=line,
    )


if __name__ == "__main__":
    main()
