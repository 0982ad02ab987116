"""The convolutional networks of chapter 7: the book's (fig. 73), and one that learns more in less time.

Both map images (batch, 1, 28, 28) to logits (batch, 10). The book's `log_softmax` (its text says softmax) is part of
the loss here: cross-entropy of logits is the negative log-likelihood of their log_softmax.
"""

import torch
from torch import nn
from torch.nn import functional as F

from stages.common.dropout import ByteDropout


class BookNetwork(nn.Module):
    """Fig. 73, 1,199,882 parameters, written so that it runs faster and computes the same.

    Max pooling stands before the second ReLU: the two commute, and the ReLU then has a quarter of the work.
    """

    def __init__(self, dropout: float):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dropout1 = ByteDropout(dropout)
        self.dropout2 = ByteDropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = F.relu(self.conv1(images), inplace=True)  # (batch, 32, 26, 26)
        maps = F.relu(F.max_pool2d(self.conv2(maps), 2), inplace=True)  # (batch, 64, 12, 12)
        features = self.dropout1(maps).flatten(1)  # (batch, 9216)
        return self.fc2(self.dropout2(F.relu(self.fc1(features), inplace=True)))


def convolution(in_channels: int, out_channels: int, kernel_size: int, padding: int, pool: bool) -> list[nn.Module]:
    """Return a convolution, its normalisation and ReLU, with pooling first where that leaves them less to do."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return [*layers, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class TunedNetwork(nn.Module):
    """Three convolutions with batch normalisation; early pooling keeps most of the work on small maps."""

    def __init__(self, widths: list[int], dropout: float):
        super().__init__()
        first, second, third = widths
        self.features = nn.Sequential(
            *convolution(1, first, kernel_size=5, padding=0, pool=True),  # (batch, first, 12, 12)
            *convolution(first, second, kernel_size=3, padding=0, pool=True),  # (batch, second, 5, 5)
            *convolution(second, third, kernel_size=3, padding=0, pool=False),  # (batch, third, 3, 3)
        )
        self.dropout = ByteDropout(dropout)
        self.output = nn.Linear(third * 9, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.output(self.dropout(self.features(images).flatten(1)))


def build_network(network: str, widths: list[int], dropout: float) -> nn.Module:
    """Return the network called "tuned" or "book" in channels-last order; `widths` are for the tuned one."""
    model = BookNetwork(dropout) if network == "book" else TunedNetwork(widths, dropout)
    return model.to(memory_format=torch.channels_last)
