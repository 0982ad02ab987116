"""Batches of sentence pairs of similar length, so that little of a batch is padding."""

from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from stages.ch09_translation.tokens import FIRST, LAST, PAD

Tokens = list[list[int]]
# What a batch costs beside its tokens, as a share of its budget: a step's work that the tokens don't add to, such as
# Adam's. At a tenth batches are so much fuller of words that they take less time in all, though there are more of them.
BATCH_COST = 0.1


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


def cuts(lengths: np.ndarray, budget: int) -> list[int]:
    """Return where to cut sorted pairs into batches, each place the end of one, so that all cost the least.

    A batch costs its tokens with padding and a share BATCH_COST of the budget. The best cuts of the pairs up to a place
    follow from those of the pairs up to each earlier one (dynamic programming).

    Args:
        lengths: (pairs, 2), of source and target, the longer of the two in rising order.
        budget: the most tokens of a batch with padding; a pair that alone has more is a batch of its own.
    """
    pairs = len(lengths)
    least, start = np.full(pairs + 1, np.inf), np.zeros(pairs + 1, dtype=np.int64)
    least[0] = 0
    for first in range(pairs):
        following = lengths[first : first + max(1, budget // lengths[first].max())]
        tokens = np.maximum.accumulate(following).sum(axis=1) * np.arange(1, len(following) + 1)
        tokens = tokens[: max(1, np.searchsorted(tokens, budget, side="right"))]  # they rise from pair to pair
        ends = slice(first + 1, first + 1 + len(tokens))
        costs = least[first] + BATCH_COST * budget + tokens
        start[ends][costs < least[ends]] = first
        np.minimum(least[ends], costs, out=least[ends])
    ends = [pairs] if pairs else []
    while ends and start[ends[-1]]:
        ends.append(int(start[ends[-1]]))
    return ends[::-1]


def batch_numbers(
    src: Tokens, tgt: Tokens, budget: int, generator: np.random.Generator | None = None, most: int = 0
) -> list[np.ndarray]:
    """Return the numbers of the pairs of each batch: sorted by length, and cut.

    Args:
        budget: the most tokens of a batch, source and target together, padding and ends included; 0: `most` counts.
        generator: shuffles pairs of the same length, and the batches; None leaves them sorted.
        most: the pairs of a batch, where there is no budget.
    """
    lengths = np.array([(len(own) + 1, len(other) + 1) for own, other in zip(src, tgt, strict=True)]).reshape(-1, 2)
    order = np.arange(len(lengths)) if generator is None else generator.permutation(len(lengths))
    # By the longer side, and then by what the other one lacks, up and down in turn: next to each other both sides fit.
    longer, lacking = lengths[order].max(axis=1), lengths[order] @ (1, -1)
    order = order[np.lexsort((np.where(longer % 2, lacking, -lacking), longer))]
    ends = cuts(lengths[order], budget) if budget else range(most, len(order) + most, most)
    batches = [numbers for numbers in np.split(order, ends[:-1]) if len(numbers)]
    if generator is not None:
        batches = [batches[place] for place in generator.permutation(len(batches))]
    return batches
