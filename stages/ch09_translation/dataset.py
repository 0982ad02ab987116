"""Batches of sentence pairs: of similar length, so that little of a batch is padding, or drawn at random."""

from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from stages.ch09_translation.tokens import FIRST, LAST, PAD, Tokens

# What a batch costs beside its tokens, as a share of its budget: a step's work that the tokens don't add to, such as
# Adam's. At a tenth batches are so much fuller of words that they take less time in all, though there are more of them.
BATCH_COST = 0.1
PLACES = 512  # that are tried for the end of a batch, about


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


def cuts(lengths: np.ndarray, budget: int) -> list[int]:
    """Return where to cut sorted pairs into batches, each place the end of one, so that all cost the least.

    A batch costs its tokens with padding and a share BATCH_COST of the budget. The best cuts of the pairs up to a place
    follow from those of the pairs up to each earlier one (dynamic programming). Where a batch can have
    2 · PLACES pairs or more, not every place is tried.

    Args:
        lengths: (pairs, 2), of source and target, the longer of the two in rising order.
        budget: the most tokens of a batch with padding; a pair that alone has more is a batch of its own.
    """
    places = [0]
    while places[-1] < len(lengths):
        following = lengths[places[-1] :][: max(1, budget // lengths[places[-1]].sum() // PLACES)]
        fitting = following.max(axis=0).sum() * len(following) <= budget
        places.append(places[-1] + (len(following) if fitting else 1))
    places = np.array(places)
    widest = np.maximum.reduceat(lengths, places[:-1]) if len(lengths) else lengths  # between each place and the next
    least, start = np.full(len(places), np.inf), np.zeros(len(places), dtype=np.int64)
    least[0] = 0
    for first in range(len(places) - 1):
        # No later pair is shorter than this one's longer side, so that no more of them fit.
        last = np.searchsorted(places, places[first] + budget // lengths[places[first]].max(), side="right")
        ends = slice(first + 1, max(int(last), first + 2))
        tokens = np.maximum.accumulate(widest[first : ends.stop - 1]).sum(axis=1) * (places[ends] - places[first])
        ends = slice(ends.start, ends.start + max(1, int(np.searchsorted(tokens, budget, side="right"))))
        costs = least[first] + BATCH_COST * budget + tokens[: ends.stop - ends.start]
        start[ends][costs < least[ends]] = first
        np.minimum(least[ends], costs, out=least[ends])
    chosen = [len(places) - 1]
    while start[chosen[-1]]:
        chosen.append(start[chosen[-1]])
    return [int(places[place]) for place in reversed(chosen)]


def batch_numbers(
    src: Tokens, tgt: Tokens, budget: int, generator: np.random.Generator | None = None, most: int = 0
) -> list[np.ndarray]:
    """Return the numbers of the pairs of each batch: with a budget sorted by length and cut, else as they are drawn.

    Args:
        budget: the most tokens of a batch, source and target together, padding and ends included; 0: `most` counts.
        generator: shuffles the pairs, with a budget those of the same length, and then the batches; None leaves both.
        most: the pairs of a batch, where there is no budget. They are of all lengths then: in a mean over the labels of
            a batch of short ones each label would count for more.
    """
    order = np.arange(len(src)) if generator is None else generator.permutation(len(src))
    if not budget:
        return np.split(order, range(most, len(order), most)) if len(order) else []
    lengths = np.array([(len(src[number]) + 1, len(tgt[number]) + 1) for number in order]).reshape(-1, 2)
    # By the longer side, and then by what the other one lacks, up and down in turn: next to each other both sides fit.
    longer, lacking = lengths.max(axis=1), lengths @ (1, -1)
    by_length = np.lexsort((np.where(longer % 2, lacking, -lacking), longer))
    ends = cuts(lengths[by_length], budget)
    batches = [numbers for numbers in np.split(order[by_length], ends[:-1]) if len(numbers)]
    if generator is not None:
        batches = [batches[place] for place in generator.permutation(len(batches))]
    return batches
