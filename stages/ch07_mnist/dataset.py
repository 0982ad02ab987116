"""MNIST in memory, as tensors: whole batches are cut, normalised and augmented at once, no picture by itself."""

import numpy as np
import torch
from torchvision.transforms import v2

from stages.ch07_mnist.preprocess import MNIST

MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's training pictures, as in fig. 76
PICTURES_PER_DRAW = 32  # that share one random transformation, because a transform draws once a call


def load_split(name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the normalised images (pictures, 1, 28, 28) and the labels (pictures,) of "train", "validation" or "test".

    The images are in channels-last order, in which convolutions run faster.
    """
    with np.load(MNIST) as arrays:
        images, labels = torch.from_numpy(arrays[f"{name}_images"]), torch.from_numpy(arrays[f"{name}_labels"])
    images = images.unsqueeze(1).to(device, torch.float32).div_(255).sub_(MEAN).div_(DEVIATION)
    return images.contiguous(memory_format=torch.channels_last), labels.to(device, torch.int64)


def random_affine(rotation: float, translation: float, scaling: float, shear: float) -> v2.Transform | None:
    """Return the augmentation, or None where nothing is to be changed.

    Args:
        rotation: largest angle in degrees, to either side; `shear` likewise.
        translation: largest shift, as a share of the picture's side.
        scaling: largest change of size, as a share of it.
    """
    if not any((rotation, translation, scaling, shear)):
        return None
    return v2.RandomAffine(
        rotation,
        translate=(translation, translation),
        scale=(1 - scaling, 1 + scaling),
        shear=shear,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=-MEAN / DEVIATION,  # black, after normalisation
    )


def augment(images: torch.Tensor, transform: v2.Transform | None) -> torch.Tensor:
    """Transform a batch (batch, 1, 28, 28), each group of pictures in its own way."""
    if transform is None:
        return images
    changed = torch.cat([transform(group) for group in images.split(PICTURES_PER_DRAW)])
    return changed.contiguous(memory_format=torch.channels_last)
