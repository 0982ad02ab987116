"""Measure the trained network of chapter 7 on the 10,000 test pictures (fig. 75); check what figs. 67 to 73 say.

In: data/prepared/ch07/mnist.npz, data/models/ch07/network.safetensors. Out: metrics/ch07.json; metrics/facts/ch07.json
with every statement about convolution and pooling, and whether it holds; and data/evaluated/ch07/predictions.npz with
`probabilities` (pictures, 10) of the test pictures, the first layer's `filters` (channels, height, width) and its
`feature_maps` of the first test picture, likewise, for fig. 72.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch07_evaluate")  # loads MLflow while this process gets ready

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from stages.ch07_mnist.dataset import load_split
from stages.ch07_mnist.facts import all_facts
from stages.ch07_mnist.model import build_network
from stages.common.arrays import save_arrays
from stages.common.devices import find_device, set_up_torch
from stages.common.files import rounded, write_json
from stages.common.params import declared_parameters

MODEL = "data/models/ch07/network.safetensors"
PREDICTIONS = "data/evaluated/ch07/predictions.npz"
PICTURES_PER_FORWARD = 500
CALIBRATION_BINS = 15
NEIGHBOURS = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]  # the picture itself, and moved by a pixel in four directions


@torch.inference_mode()
def probabilities_of(model: nn.Module, images: torch.Tensor, shifted_views: bool) -> np.ndarray:
    """Return class probabilities (pictures, 10) of images (pictures, 1, 28, 28).

    With `shifted_views` they are the mean over the picture and its four neighbours, which costs five times as much.
    """
    model.eval()
    shifts = NEIGHBOURS if shifted_views else NEIGHBOURS[:1]
    parts = [
        torch.stack([model(part.roll(shift, dims=(2, 3))).softmax(dim=1) for shift in shifts]).mean(dim=0)
        for part in images.split(PICTURES_PER_FORWARD)
    ]
    return torch.cat(parts).cpu().numpy()


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Return the expected calibration error (Guo et al., 2017, equation 3).

    The mean distance between confidence and accuracy over bins of equal width, each bin with its share of the pictures.

    Args:
        probabilities: shape (pictures, classes).
        labels: shape (pictures,).
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.clip((confidence * bins).astype(int), 0, bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def measure(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """Return accuracy, mean negative log-likelihood, number of errors, calibration error and accuracy by class.

    Args:
        probabilities: shape (pictures, classes).
        labels: shape (pictures,).
    """
    correct = probabilities.argmax(axis=1) == labels
    likelihoods = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return {
        **rounded({"accuracy": correct.mean(), "loss": -np.log(np.maximum(likelihoods, 1e-12)).mean()}),
        "error_count": int((~correct).sum()),
        **rounded({"ece": calibration_error(probabilities, labels)}),
        "class_accuracy": rounded({str(digit): correct[labels == digit].mean() for digit in np.unique(labels)}),
    }


@torch.inference_mode()
def first_layer(model: nn.Module, image: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the filters of the first convolution, (channels, height, width), and its maps of image (1, 1, 28, 28)."""
    convolution = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    return convolution.weight[:, 0].cpu().numpy(), convolution(image)[0].cpu().numpy()


def main() -> None:
    parameters = declared_parameters("ch07_evaluate")
    recipe = parameters.ch07.active
    device = find_device(parameters.device)
    set_up_torch(parameters.seed, parameters.ch07.num_threads, device)
    images, labels = load_split("test", device)
    model = build_network(**recipe.select("network", "widths", "dropout")).to(device)
    model.load_state_dict(load_file(MODEL))
    probabilities = probabilities_of(model, images, recipe.shifted_views)
    measured = measure(probabilities, labels.cpu().numpy())
    torch.manual_seed(parameters.seed)
    facts = all_facts()
    metrics = {**measured, "facts": len(facts), "facts_true": sum(fact["holds"] for fact in facts)}
    write_json("metrics/ch07.json", metrics)
    write_json("metrics/facts/ch07.json", {"facts": facts})
    filters, feature_maps = first_layer(model, images[:1])
    save_arrays(PREDICTIONS, probabilities=probabilities, filters=filters, feature_maps=feature_maps)

    by_class = {f"test_accuracy_of_{digit}": value for digit, value in measured.pop("class_accuracy").items()}
    tracking.record_results(
        "ch07_evaluate",
        MODEL,
        {f"test_{name}": value for name, value in measured.items()} | by_class,
        recipe.select("shifted_views"),
    )


if __name__ == "__main__":
    main()
