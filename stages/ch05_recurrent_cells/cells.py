"""RNN, LSTM and GRU written out from the equations (figs. 46, 48, 50, 51), in layers stacked on one another.

In the equations * is the product element by element, and sigma the logistic function. A layer's weights are a dict with
PyTorch's names: U is `weight_ih_l0`, W is `weight_hh_l0`, and b the sum of `bias_ih_l0` and `bias_hh_l0`, where the
book has one bias. PyTorch keeps the matrices of all gates below one another in one, and so does this file:

    weight_ih  (gates·hidden, in)     weight_hh  (gates·hidden, hidden)     bias_ih, bias_hh  (gates·hidden,)
"""

import torch
from torch.nn.functional import linear

State = tuple[torch.Tensor, ...]  # (h,), of an LSTM (h, c); each (batch, hidden)


def rnn_step(projected: torch.Tensor, state: State, weight: torch.Tensor, bias: torch.Tensor) -> State:
    """h_t = tanh(U x_t + W h_{t−1} + b): fig. 46 with f = tanh.

    Args (of all three cells):
        projected: U x_t and the first bias, (batch, gates·hidden), which need no state and are computed for all steps
            at once.
        state: h_{t−1}, and of an LSTM c_{t−1}.
        weight, bias: W and the second bias.
    """
    return (torch.tanh(projected + linear(state[0], weight, bias)),)


def lstm_step(projected: torch.Tensor, state: State, weight: torch.Tensor, bias: torch.Tensor) -> State:
    """The equations of fig. 51, each gate with U, W and b of its own.

    i_t = sigma(U_i x_t + W_i h_{t−1} + b_i)     input gate
    f_t = sigma(U_f x_t + W_f h_{t−1} + b_f)     forget gate
    g_t = tanh (U_g x_t + W_g h_{t−1} + b_g)     candidate
    o_t = sigma(U_o x_t + W_o h_{t−1} + b_o)     output gate
    c_t = f_t * c_{t−1} + i_t * g_t
    h_t = o_t * tanh(c_t)
    """
    hidden, memory = state
    i, f, g, o = (projected + linear(hidden, weight, bias)).chunk(4, dim=-1)  # each (batch, hidden)
    memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(memory), memory


def gru_step(projected: torch.Tensor, state: State, weight: torch.Tensor, bias: torch.Tensor) -> State:
    """The gated recurrent unit (Cho et al., 2014), which the book only names; in PyTorch's form.

    r_t = sigma(U_r x_t + W_r h_{t−1} + b_r)                   reset gate
    z_t = sigma(U_z x_t + W_z h_{t−1} + b_z)                   update gate
    n_t = tanh (U_n x_t + b_n + r_t * (W_n h_{t−1} + b'_n))    candidate; here the two biases aren't one
    h_t = (1 − z_t) * n_t + z_t * h_{t−1}
    """
    (hidden,) = state
    reset_x, update_x, new_x = projected.chunk(3, dim=-1)  # each (batch, hidden)
    reset_h, update_h, new_h = linear(hidden, weight, bias).chunk(3, dim=-1)
    update = torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return ((1 - update) * new + update * hidden,)


STEPS = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}


def run_layer(
    cell: str, inputs: torch.Tensor, state: State, weights: dict[str, torch.Tensor], layer: int = 0
) -> tuple[torch.Tensor, State]:
    """Run one layer over inputs (time, batch, in); return its outputs (time, batch, hidden) and its last state."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weight_ih, weight_hh, bias_ih, bias_hh = (weights[f"{name}_l{layer}"] for name in names)
    outputs = []
    for projected in linear(inputs, weight_ih, bias_ih):  # (time, batch, gates·hidden), step by step
        state = STEPS[cell](projected, state, weight_hh, bias_hh)
        outputs.append(state[0])
    return torch.stack(outputs), state


def run_layers(
    cell: str, inputs: torch.Tensor, weights: dict[str, torch.Tensor], states: list[State]
) -> tuple[torch.Tensor, list[State]]:
    """Run stacked layers, each on the outputs of the one below (fig. 48).

    Args:
        inputs: (time, batch, in).
        states: the initial state of each layer.

    Returns:
        The top layer's outputs (time, batch, hidden), and the last state of each layer.
    """
    last = []
    for layer, state in enumerate(states):
        inputs, state = run_layer(cell, inputs, state, weights, layer)
        last.append(state)
    return inputs, last
