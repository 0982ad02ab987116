"""The networks of chapter 6: a recurrent layer, and a linear layer on what it gives (figs. 60, 61)."""

import torch
from torch import nn

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM}


class Forecaster(nn.Module):
    """Predicts the values that follow a window of a series.

    The book gives its LSTM network an `init_hidden` whose result is never used, and reshapes every batch to a fixed
    size. Here the state starts at zero unless it is passed, and a batch may have any size.
    """

    def __init__(self, cell: str, hidden_size: int, num_layers: int):
        super().__init__()
        self.recurrent = CELLS[cell](1, hidden_size, num_layers, batch_first=True)
        self.output = nn.Linear(hidden_size, 1)

    def forward(self, inputs: torch.Tensor, state=None) -> torch.Tensor:
        """Map inputs (batch, window) to predictions (batch,): the value `steps_ahead` after the window.

        `state` is what nn.RNN or nn.LSTM takes as its initial state, shape (layers, batch, hidden); None is zeros.
        """
        return self.last_steps(inputs, 1, state).squeeze(1)

    def last_steps(self, inputs: torch.Tensor, steps: int, state=None) -> torch.Tensor:
        """Map inputs (batch, window) to a prediction at each of the last `steps` positions, (batch, steps)."""
        hidden, _ = self.recurrent(inputs.unsqueeze(-1), state)  # (batch, window, hidden)
        return self.output(hidden[:, -steps:]).squeeze(-1)  # (batch, steps)
