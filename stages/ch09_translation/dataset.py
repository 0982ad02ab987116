"""Batches of sentence pairs of similar length, so that little of a batch is padding."""

from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from stages.ch09_translation.tokens import FIRST, LAST, PAD

Tokens = list[list[int]]


class Batch(NamedTuple):
    """Source (B, S) with its end, target input (B, T) with its beginning, labels (B, T) with its end; padded."""

    src: torch.Tensor
    tgt: torch.Tensor
    labels: torch.Tensor


def padded(sentences: Tokens) -> torch.Tensor:
    """Return sentences as one tensor (B, longest), filled with PAD at their ends."""
    lengths = np.fromiter(map(len, sentences), np.int64)
    filled = np.full((len(lengths), lengths.max()), PAD)
    # At once: row by row it takes as long as a GPU's step.
    filled[np.arange(filled.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(sentences), np.int64)
    return torch.from_numpy(filled)


def make_batch(src: Tokens, tgt: Tokens) -> Batch:
    """Return a batch of pairs; the network is to tell each target token from the source and those before it."""
    return Batch(
        padded([[*tokens, LAST] for tokens in src]),
        padded([[FIRST, *tokens] for tokens in tgt]),
        padded([[*tokens, LAST] for tokens in tgt]),
    )


def too_long(src: Tokens, tgt: Tokens, longest: int) -> np.ndarray:
    """Return (pairs,), True where either side, with its end, has more than `longest` tokens."""
    return np.array([max(len(own), len(other)) + 1 > longest for own, other in zip(src, tgt, strict=True)], dtype=bool)


def batch_numbers(
    src: Tokens, tgt: Tokens, budget: int, generator: np.random.Generator | None = None, most: int = 0
) -> list[np.ndarray]:
    """Return the numbers of the pairs of each batch: sorted by length, cut where a batch would exceed its budget.

    Args:
        budget: the most tokens of a batch, source and target together, padding and ends included; 0: any number. A pair
            that alone has more is a batch of its own.
        generator: shuffles pairs of the same length, and the batches; None leaves them sorted.
        most: the most pairs of a batch; 0: any number.
    """
    lengths = np.array([(len(own) + 1, len(other) + 1) for own, other in zip(src, tgt, strict=True)]).reshape(-1, 2)
    order = np.arange(len(lengths)) if generator is None else generator.permutation(len(lengths))
    # By the longer side, and then by what the other one lacks, up and down in turn: next to each other both sides fit.
    longer, lacking = lengths[order].max(axis=1), lengths[order] @ (1, -1)
    order = order[np.lexsort((np.where(longer % 2, lacking, -lacking), longer))]
    batches: list[np.ndarray] = []
    start, widest = 0, np.zeros(2, dtype=np.int64)
    for place, number in enumerate(order):
        wider = np.maximum(widest, lengths[number])
        count = place - start + 1
        if count > 1 and ((budget and wider.sum() * count > budget) or (most and count > most)):
            batches.append(order[start:place])
            start, wider = place, lengths[number]
        widest = wider
    if len(order):
        batches.append(order[start:])
    if generator is not None:
        batches = [batches[place] for place in generator.permutation(len(batches))]
    return batches
