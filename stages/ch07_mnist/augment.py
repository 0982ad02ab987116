"""Augmentation of chapter 7's pictures by torchvision, a group of a batch at once."""

import torch
from torchvision.transforms import v2

from stages.ch07_mnist.dataset import DEVIATION, MEAN

PICTURES_PER_DRAW = 32  # that share one random transformation, because a transform draws once a call


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
        # Black, after normalisation. Where a slanted border covers half of a pixel, it comes out a little lighter.
        fill=-MEAN / DEVIATION,
    )


def augment(images: torch.Tensor, transform: v2.Transform | None) -> torch.Tensor:
    """Transform a batch (batch, 1, 28, 28), each group of pictures in its own way."""
    if transform is None:
        return images
    changed = torch.cat([transform(group) for group in images.split(PICTURES_PER_DRAW)])
    return changed.contiguous(memory_format=torch.channels_last)
