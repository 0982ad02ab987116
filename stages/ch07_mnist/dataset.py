"""MNIST in memory, as tensors: all pictures are normalised at once, and batches are cut from them."""

import numpy as np
import torch

from stages.ch07_mnist.preprocess import MNIST

MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's training pictures, as in fig. 76


def load_split(name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the normalised images (pictures, 1, 28, 28) and the labels (pictures,) of "train", "validation" or "test".

    The images are in channels-last order, in which convolutions run faster.
    """
    with np.load(MNIST) as arrays:
        images, labels = torch.from_numpy(arrays[f"{name}_images"]), torch.from_numpy(arrays[f"{name}_labels"])
    images = images.unsqueeze(1).to(device, torch.float32).div_(255).sub_(MEAN).div_(DEVIATION)
    return images.contiguous(memory_format=torch.channels_last), labels.to(device, torch.int64)
