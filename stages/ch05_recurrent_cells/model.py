"""The networks of chapter 5: one of PyTorch's recurrent layers, and y_t = V h_t + c behind it (fig. 46)."""

import torch
from torch import nn

LAYERS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentNetwork(nn.Module):
    """Maps inputs (time, batch, in) to outputs (time, batch, out), one for each step.

    Args:
        cell: "rnn", "lstm" or "gru".
        recurrent_init: how the matrix W starts that leads from a state to the next: "uniform", as PyTorch has it, or
            "orthogonal", gate by gate, which keeps the length of what passes through it (Saxe et al., 2014).
        memory_bias: what the bias of the gate that keeps the state starts with, the forget gate of an LSTM (Gers et
            al., 2000) and the update gate of a GRU: at 5 it starts 99 % open. 0: as PyTorch has it. An RNN has no gate.
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        output_size: int,
        recurrent_init: str = "uniform",
        memory_bias: float = 0.0,
    ):
        super().__init__()
        self.recurrent = LAYERS[cell](input_size, hidden_size)
        self.output = nn.Linear(hidden_size, output_size)
        with torch.no_grad():
            if recurrent_init == "orthogonal":
                for gate in self.recurrent.weight_hh_l0.split(hidden_size):
                    nn.init.orthogonal_(gate)
            if memory_bias and cell != "rnn":
                # Second in both: behind the LSTM's input gate, and behind the GRU's reset gate.
                self.recurrent.bias_ih_l0[hidden_size : 2 * hidden_size] = memory_bias
                self.recurrent.bias_hh_l0[hidden_size : 2 * hidden_size] = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrent(inputs)  # (time, batch, hidden); the state starts at zero
        return self.output(states)


class BatchFirst(nn.Module):
    """The same network for inputs (batch, time, in), outputs (batch, time, out): a batch in MLflow comes first."""

    def __init__(self, network: RecurrentNetwork):
        super().__init__()
        self.network = network

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(inputs.transpose(0, 1)).transpose(0, 1)
