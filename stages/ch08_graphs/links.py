"""The prediction of links as a module, for MLflow."""

import torch
from torch import nn


class LinkPredictor(nn.Module):
    """The trained autoencoder's answer: pairs (pairs, 2) of nodes, as numbers in the graph, to a score from 0 to 1
    each, (pairs,): the higher, the more like an edge. `places` (nodes, channels) are what the encoder makes of nodes.

    It was trained with as many pairs without an edge as with one. So the scores put pairs in order; among all pairs,
    hardly any of which is an edge, they are not how likely one is."""

    def __init__(self, places: torch.Tensor):
        super().__init__()
        self.register_buffer("places", places)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        first, second = self.places[pairs[:, 0]], self.places[pairs[:, 1]]
        return torch.sigmoid((first * second).sum(dim=1))
