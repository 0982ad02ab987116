"""What chapter 5 shows and says of recurrent networks, and of the GRU beside them, computed and found true or false;
cells beside PyTorch's."""

import torch
from torch import nn

from stages.ch05_recurrent_cells.cells import State, lstm_step, rnn_step, run_layer, run_layers
from stages.ch05_recurrent_cells.model import LAYERS
from stages.common.facts import Facts, collected


def split_states(cell: str, states: tuple[torch.Tensor, ...]) -> list[State]:
    """Turn PyTorch's states, h or (h, c) of shape (layers, batch, hidden), into one state a layer."""
    return list(zip(*(states if cell == "lstm" else (states,)), strict=True))


def differences(cell: str, layers: int = 2) -> tuple[float, float]:
    """Compare the written-out cell with PyTorch's layer: fig. 52's sizes, the same weights, random initial states.

    Returns:
        The largest difference of outputs and last states, and that of the gradients of their mean square by all
        weights, inputs and initial states.
    """
    theirs = LAYERS[cell](10, 20, layers)
    inputs = torch.randn(5, 3, 10, requires_grad=True)
    starts = [torch.randn(layers, 3, 20, requires_grad=True) for _ in range(2 if cell == "lstm" else 1)]
    start = tuple(starts) if cell == "lstm" else starts[0]
    weights = dict(theirs.named_parameters())
    leaves = [inputs, *starts, *weights.values()]

    output, last = theirs(inputs, start)
    expected = [output, *(last if cell == "lstm" else (last,))]
    own_output, own_last = run_layers(cell, inputs, weights, split_states(cell, start))
    found = [own_output, *(torch.stack(parts) for parts in zip(*own_last, strict=True))]
    gradients = [
        torch.autograd.grad(sum(result.square().mean() for result in results), leaves) for results in (expected, found)
    ]
    forward = max((first - second).abs().max().item() for first, second in zip(expected, found, strict=True))
    backward = max((first - second).abs().max().item() for first, second in zip(*gradients, strict=True))
    return forward, backward


def shape_facts() -> Facts:
    inputs, h0, c0 = torch.randn(5, 3, 10), torch.randn(2, 3, 20), torch.randn(2, 3, 20)
    rnn, lstm, gru = nn.RNN(10, 20, 2), nn.LSTM(10, 20, 2), nn.GRU(10, 20, 2)
    output, hn = rnn(inputs, h0)
    yield "52", "RNN(10, 20, 2) maps (5, 3, 10) to (5, 3, 20)", output.shape == (5, 3, 20)
    yield "52", "its last state is (2, 3, 20), a layer each", hn.shape == (2, 3, 20)
    yield "52", "the last output is the top layer's last state", torch.equal(output[-1], hn[-1])
    yield "52", "without h0 it starts at zero", torch.equal(rnn(inputs)[0], rnn(inputs, torch.zeros(2, 3, 20))[0])
    output, (hn, cn) = lstm(inputs, (h0, c0))
    yield "52", "LSTM(10, 20, 2) maps (5, 3, 10) to (5, 3, 20)", output.shape == (5, 3, 20)
    yield "52", "its last states are two of (2, 3, 20)", hn.shape == cn.shape == (2, 3, 20)
    yield "text", "GRU(10, 20, 2) has the shapes of RNN", gru(inputs, h0)[1].shape == (2, 3, 20)
    batch_first = nn.RNN(10, 20, 2, batch_first=True)
    yield "52", "batch_first=True takes (3, 5, 10)", batch_first(inputs.transpose(0, 1))[0].shape == (3, 5, 20)
    mixed_up = rnn(inputs.transpose(0, 1))[1].shape == (2, 5, 20)  # a last state for each sequence
    yield "52", "a layer without it takes them, too, as 3 steps of 5 sequences: no error tells", mixed_up
    counts = [sum(parameter.numel() for parameter in layer.parameters()) for layer in (rnn, lstm, gru)]
    yield "50", "an LSTM has four times the parameters of an RNN", counts[1] == 4 * counts[0]
    yield "text", "a GRU has three times as many", counts[2] == 3 * counts[0]
    # The book has one bias; PyTorch has two, of which the sum counts.
    expected = (20 * 10 + 20 * 20 + 2 * 20) + (20 * 20 + 20 * 20 + 2 * 20)
    yield "46", "PyTorch's RNN has two biases a layer where the book has one", counts[0] == expected


def unrolling_facts() -> Facts:
    rnn = nn.RNN(10, 20, 2)
    weights, inputs = dict(rnn.named_parameters()), torch.randn(3, 4, 10)
    zero = torch.zeros(4, 20)
    output, hn = rnn(inputs)
    below, first = run_layer("rnn", inputs, (zero,), weights, 0)
    above, second = run_layer("rnn", below, (zero,), weights, 1)
    yield "48", "the second layer runs on the first one's outputs", torch.allclose(above, output, atol=1e-6)
    both = torch.stack([first[0], second[0]])
    yield "47", "the last copy hands on a state, too: nn.RNN returns it", torch.allclose(both, hn, atol=1e-6)

    single = nn.RNN(10, 20)
    half, state = single(inputs[:2])
    rest, _ = single(inputs[2:], state)
    yield (
        "47",
        "the state carries on: 2 steps and 1 more are 3",
        torch.allclose(torch.cat([half, rest]), single(inputs)[0], atol=1e-6),
    )
    shuffled = single(inputs.flip(0))[0][-1]
    yield "text", "the output depends on the order of the inputs", not torch.allclose(shuffled, single(inputs)[0][-1])
    changed = inputs.clone()
    changed[2] += 1
    yield "47", "an output doesn't depend on later inputs", torch.equal(single(changed)[0][:2], single(inputs)[0][:2])


def time_facts() -> Facts:
    """Fig. 49: backpropagation through time is backpropagation through the copies, their gradients added."""
    weight_ih, bias = torch.randn(20, 10) / 4, torch.zeros(20)
    weight_hh = (torch.randn(20, 20) / 5).requires_grad_()
    copies = [weight_hh.detach().clone().requires_grad_() for _ in range(3)]
    inputs = torch.randn(3, 4, 10)

    def loss(weights: list[torch.Tensor]) -> torch.Tensor:
        state = (torch.ones(4, 20),)
        for x, weight in zip(inputs, weights, strict=True):
            state = rnn_step(x @ weight_ih.T, state, weight, bias)
        return state[0].square().mean()

    (shared,) = torch.autograd.grad(loss([weight_hh] * 3), weight_hh)
    parts = torch.autograd.grad(loss(copies), copies)
    yield "49", "the gradient of W is the sum over the three copies", torch.allclose(shared, sum(parts), atol=1e-7)
    yield "49", "no copy alone has it", not any(torch.allclose(shared, part, atol=1e-4) for part in parts)
    for factor, word in ((0.5, "vanishes"), (1.0, "stays"), (2.0, "explodes")):
        # Near zero tanh is the identity, so that each step multiplies the gradient by W.
        matrix = factor * torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64))[0]
        start = torch.zeros(1, 20, dtype=torch.float64, requires_grad=True)
        state = (start,)
        for _ in range(20):
            state = rnn_step(torch.zeros(1, 20, dtype=torch.float64), state, matrix, bias.double())
        (gradient,) = torch.autograd.grad(state[0][0, 0], start)
        ratio = gradient.norm().item()
        statement = f"with W = {factor:g} times an orthogonal matrix the gradient {word}: {factor:g}^20 after 20 steps"
        yield "49", statement, abs(ratio / factor**20 - 1) < 1e-9


def gate_facts() -> Facts:
    """Fig. 51: what a gate of 0 or 1 does. 100 before the sigmoid opens it, −200 shuts it."""
    hidden, memory = torch.rand(2, 6) - 0.5, torch.randn(2, 6)
    no_weight, no_bias = torch.zeros(24, 6), torch.zeros(24)

    def step(i: float, f: float, g: float, o: float) -> State:
        projected = torch.tensor([i, f, g, o]).repeat_interleave(6).expand(2, 24)
        return lstm_step(projected, (hidden, memory), no_weight, no_bias)

    yield "51", "forget gate 1, input gate 0: the memory stays as it is", torch.equal(step(-200, 100, 1, 0)[1], memory)
    yield "51", "forget gate 0: the memory is lost", torch.equal(step(-200, -200, 1, 0)[1], torch.zeros(2, 6))
    written = step(100, -200, 0.5, 0)[1]
    yield "51", "input gate 1: the candidate is written", torch.allclose(written, torch.full((2, 6), 0.5).tanh())
    new_hidden, new_memory = step(100, 100, 0.5, 100)
    yield "51", "output gate 1: the output is tanh of the memory", torch.equal(new_hidden, new_memory.tanh())
    closed, kept = step(-200, 100, 1, -200)
    yield (
        "51",
        "output gate 0: nothing comes out, and the memory is kept",
        (torch.equal(closed, torch.zeros(2, 6)) and torch.equal(kept, memory)),
    )
    outputs = nn.LSTM(3, 6)(100 * torch.randn(50, 2, 3))[0]
    yield "51", "outputs stay between −1 and 1", bool((outputs.abs() <= 1).all())


def mode_facts() -> Facts:
    """Fig. 53: with a single step nothing recurs."""
    weight = torch.eye(20).requires_grad_()
    inputs, bias = torch.linspace(-1, 1, 20).expand(4, 20), torch.zeros(20)
    state = (torch.zeros(4, 20),)
    (once,) = torch.autograd.grad(rnn_step(inputs, state, weight, bias)[0].sum(), weight)
    yield "53", "one to one: of a single step from zero W gets no gradient, nothing recurs", not once.any()
    state = rnn_step(inputs, state, weight, bias)
    (twice,) = torch.autograd.grad(rnn_step(inputs, state, weight, bias)[0].sum(), weight)
    yield "53", "of two steps it gets one", bool(twice.any())


def all_facts() -> list[dict[str, str | bool]]:
    """Return every statement as {"figure", "statement", "holds"}; seed PyTorch before for the same random tensors."""
    return collected((shape_facts, unrolling_facts, time_facts, gate_facts, mode_facts))
