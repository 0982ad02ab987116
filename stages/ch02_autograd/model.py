"""The line of figs. 18 to 23 as a module, for MLflow."""

import torch
from torch import nn


class Line(nn.Module):
    """w·x: inputs (points,) to outputs (points,)."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.weight * inputs
