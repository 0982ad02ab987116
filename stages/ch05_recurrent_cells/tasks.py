"""What chapter 5's networks learn: to recall a symbol, and a task for each of the four modes of fig. 53.

A task draws a batch: inputs (time, batch, in), and targets for the steps that count, the last of the sequence or all.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

Batch = tuple[torch.Tensor, torch.Tensor]


def draw_recall(batch: int, generator: torch.Generator, length: int, symbols: int, noise: float) -> Batch:
    """A symbol, then `length` steps of noise; the answer is the symbol.

    Returns:
        inputs (length + 1, batch, symbols + 1): one-hot in the first step; noise of standard deviation `noise` in the
        last channel of the others.
        targets (1, batch): the symbol, due at the last step.
    """
    answers = torch.randint(symbols, (batch,), generator=generator)
    inputs = torch.zeros(length + 1, batch, symbols + 1)
    inputs[0, :, :symbols] = F.one_hot(answers, symbols)
    inputs[1:, :, symbols] = noise * torch.randn(length, batch, generator=generator)
    return inputs, answers[None]


def draw_one_to_one(batch: int, generator: torch.Generator) -> Batch:
    """Two numbers of sizes in [0.2, 1), one step; class 1 where they have the same sign. targets (1, batch)."""
    signs = 2 * torch.randint(2, (1, batch, 2), generator=generator) - 1
    inputs = signs * (0.2 + 0.8 * torch.rand(1, batch, 2, generator=generator))
    return inputs, (signs.prod(dim=-1) > 0).long()


def draw_one_to_many(batch: int, generator: torch.Generator, steps: int = 12) -> Batch:
    """A size at the first step, in the channel of one of four frequencies; the answer is that sine, of that size.

    inputs (steps, batch, 4), zero behind the first; targets (steps, batch, 1).
    """
    frequency = torch.randint(4, (batch,), generator=generator)
    size = 0.5 + 0.5 * torch.rand(batch, generator=generator)
    inputs = torch.zeros(steps, batch, 4)
    inputs[0] = size[:, None] * F.one_hot(frequency, 4)
    time = torch.arange(1, steps + 1)[:, None] / steps  # (steps, 1)
    return inputs, (size * torch.sin(2 * math.pi * (frequency + 1) / 2 * time))[..., None]


def draw_many_to_one(batch: int, generator: torch.Generator, steps: int = 11) -> Batch:
    """`steps` votes of −1 or 1; the answer is the majority. inputs (steps, batch, 1), targets (1, batch)."""
    inputs = 2.0 * torch.randint(2, (steps, batch, 1), generator=generator) - 1
    return inputs, (inputs.sum(dim=0) > 0).long().T


def draw_many_to_many(batch: int, generator: torch.Generator, steps: int = 10) -> Batch:
    """The bits of two numbers, lowest first; the answer is the bits of their sum, each due at once.

    inputs (steps, batch, 2), targets (steps, batch). The last bits are 0, so that the sum fits.
    """
    bits = torch.randint(2, (steps, batch, 2), generator=generator)
    bits[-1] = 0
    targets, carry = [], torch.zeros(batch, dtype=torch.long)
    for pair in bits.unbind(0):
        total = pair.sum(dim=-1) + carry
        targets.append(total % 2)
        carry = total // 2
    return bits.float(), torch.stack(targets)


class Mode(NamedTuple):
    draw: Callable[[int, torch.Generator], Batch]
    input_size: int
    output_size: int
    measure: str  # accuracy of whole sequences, or r2


MODES = {  # fig. 53
    "one_to_one": Mode(draw_one_to_one, 2, 2, "accuracy"),
    "one_to_many": Mode(draw_one_to_many, 4, 1, "r2"),
    "many_to_one": Mode(draw_many_to_one, 1, 2, "accuracy"),
    "many_to_many": Mode(draw_many_to_many, 2, 2, "accuracy"),
}


def loss_of(outputs: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Return the loss of outputs (time, batch, out) at the last steps, as many as the targets have.

    Classes (steps, batch) of integers give the cross-entropy, numbers (steps, batch, out) the squared error.
    """
    due = outputs[-len(targets) :]
    if targets.dtype == torch.long:
        return F.cross_entropy(due.flatten(0, 1), targets.flatten(), reduction=reduction)
    return F.mse_loss(due, targets, reduction=reduction)
