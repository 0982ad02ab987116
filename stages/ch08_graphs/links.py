"""The prediction of links as a module, for MLflow."""

import torch
from torch import nn


class LinkPredictor(nn.Module):
    """The trained autoencoder's answer: pairs (pairs, 2) of nodes, as numbers in the graph, to how likely each is an
    edge, (pairs,). `places` (nodes, channels) are what the encoder makes of the nodes."""

    def __init__(self, places: torch.Tensor):
        super().__init__()
        self.register_buffer("places", places)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        first, second = self.places[pairs[:, 0]], self.places[pairs[:, 1]]
        return torch.sigmoid((first * second).sum(dim=1))
