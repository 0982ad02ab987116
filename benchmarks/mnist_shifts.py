"""Test accuracy of chapter 7's trained network on digits that are turned and shifted.

    python -m benchmarks.mnist_shifts      # the network of the recipe in params.yaml: dvc repro ch07_train
    dvc exp run -S ch07.recipe=book ch07_train && python -m benchmarks.mnist_shifts     # the book's

One view a digit. Turned about the picture's middle, bilinear; shifted along the diagonal; what comes in is black.
"""

import argparse

import torch
from safetensors.torch import load_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import affine

from stages.ch07_mnist.dataset import load_split
from stages.ch07_mnist.evaluate import MODEL, probabilities_of
from stages.ch07_mnist.model import build_network
from stages.common.devices import set_up_torch
from stages.common.params import PARAMS_FILE, read_yaml

ANGLES = (0, 15, 30, 45, 90)  # degrees
SHIFTS = (1, 2, 3, 4)  # pixels, to the right and down


def moved(images: torch.Tensor, angle: float, shift: int) -> torch.Tensor:
    """Return images (pictures, 1, 28, 28) turned by `angle` degrees and shifted by `shift` pixels both ways."""
    options = {"scale": 1.0, "shear": [0.0, 0.0], "interpolation": InterpolationMode.BILINEAR}
    return affine(images, angle=angle, translate=[shift, shift], fill=images.min().item(), **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    parameters = read_yaml(PARAMS_FILE)
    chapter = parameters["ch07"]
    recipe = chapter[chapter["recipe"]]
    set_up_torch(parameters["seed"], chapter["num_threads"])
    images, labels = load_split("test", torch.device("cpu"))
    model = build_network(**{name: recipe[name] for name in ("network", "widths", "dropout")})
    model.load_state_dict(load_file(MODEL))
    print(f"recipe {chapter['recipe']}")
    for angle, shift in (*((angle, 0) for angle in ANGLES), *((0, shift) for shift in SHIFTS)):
        predicted = probabilities_of(model, moved(images, angle, shift), shifted_views=False).argmax(axis=1)
        accuracy = (predicted == labels.numpy()).mean()
        print(f"turned by {angle:2d}°, shifted by {shift} px: {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()
