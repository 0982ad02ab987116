"""Translation with a memory at hand: the network asks, word by word, what followed in texts that are like this one.

kNN-MT (Khandelwal et al., 2021) in the form of SK-MT (Dai et al., 2023): of the pairs trained on, the few whose English
is nearest to a text are read through the network, which leaves for every place of their Russian the decoder's state
and the token that came next. While the text is translated, a state that is near to some of these raises their tokens:

    p = λ p_memory + (1 − λ) p_network,   λ = max(0, 1 − d₁/reach),   p_memory ∝ Σ_i exp(−d_i²/temperature) [token i]

Distances d are Euclidean, divided by √D so that they mean the same for every size of network; d₁ is the nearest's.
The paper finds its pairs by BM25; here TF-IDF of letters does it, as for the baseline.

Letters of the shapes: Q sentences, W open translations of each, N places in the pairs of one sentence, D, V as in
model.py.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from stages.ch09_translation.dataset import Batch, batch_numbers, make_batch
from stages.ch09_translation.memory import TranslationMemory
from stages.ch09_translation.model import Transformer, padding_mask
from stages.ch09_translation.tokens import PAD, Tokens
from stages.common.roots import square_root

TOKENS_PER_FORWARD = 4000
FAR = 1e4  # what a place that is only padding holds in each of its D numbers


def squared_distances(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return those between each of left (Q, W, D) and each of right (Q, N, D), (Q, W, N), in single precision.

    torch.cdist would take roots, which may differ in the last bit between the processors of two makers.
    """
    with torch.autocast(left.device.type, enabled=False):
        left, right = left.float(), right.float()
        lengths = left.square().sum(2, keepdim=True) + right.square().sum(2).unsqueeze(1)
        return torch.baddbmm(lengths, left, right.mT, alpha=-2).clamp_min(0)


class Neighbours(NamedTuple):
    """What the memory knows for Q sentences: states (Q, N, D) of the decoder, and the tokens (Q, N) that came next."""

    states: torch.Tensor
    tokens: torch.Tensor
    nearest: int
    temperature: float
    reach: float

    def log_shares(self, states: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return log p (Q, W, V) for the network's states (Q, W, D) and logits (Q, W, V)."""
        squares = squared_distances(states, self.states) / states.shape[-1]  # (Q, W, N)
        near, at = squares.topk(min(self.nearest, squares.shape[-1]), dim=-1, largest=False)
        weights = torch.softmax(-near / self.temperature, dim=-1)
        share = (1 - square_root(near[..., :1]) / self.reach).clamp_min(0)  # (Q, W, 1)
        tokens = self.tokens[:, None].expand(-1, states.shape[1], -1).gather(2, at)
        mixed = (1 - share) * logits.float().softmax(dim=-1)
        return mixed.scatter_add_(2, tokens, share * weights).log()

    def of(self, sentences: torch.Tensor) -> "Neighbours":
        """Return what is known for some of the sentences (any number of them)."""
        return self._replace(states=self.states[sentences], tokens=self.tokens[sentences])


class Memory:
    """The pairs that were trained on, and how many of them to look at.

    Args:
        english: their English texts.
        src, tgt: the tokens of both sides.
        memory_pairs: how many of them are looked at for a text.
        memory_nearest: how many of their places count for a word.
        memory_temperature, memory_reach: see above; the larger, the more places count, and the more the memory does.
    """

    def __init__(
        self,
        english: Sequence[str],
        src: Tokens,
        tgt: Tokens,
        memory_pairs: int,
        memory_nearest: int,
        memory_temperature: float,
        memory_reach: float,
    ):
        self.texts, self.src, self.tgt = TranslationMemory(english), src, tgt
        self.pairs, self.options = memory_pairs, (memory_nearest, memory_temperature, memory_reach)

    @classmethod
    def of(cls, train: Mapping[str, Sequence], options: Mapping[str, float]) -> "Memory":
        """Return the memory of a training split, its columns `en`, `src` and `tgt`; options by the names above."""
        return cls(train["en"][:], train["src"][:], train["tgt"][:], **options)

    def find(self, texts: Sequence[str]) -> np.ndarray:
        """Return (texts, pairs): the numbers of the pairs whose English is nearest to each text."""
        return self.texts.nearest(texts, self.pairs)

    @torch.no_grad()
    def read(self, model: Transformer, numbers: np.ndarray) -> "Read":
        """Read pairs through the network; numbers in any shape, repeated or not."""
        device, kept = next(model.parameters()).device, np.unique(numbers).tolist()
        src, tgt = ([tokens[number] for number in kept] for tokens in (self.src, self.tgt))
        pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for rows in batch_numbers(src, tgt, TOKENS_PER_FORWARD):
            batch = make_batch([src[row] for row in rows], [tgt[row] for row in rows])
            batch = Batch(*(part.to(device) for part in batch))
            mask = padding_mask(batch.src, PAD)
            states = model.decode(batch.tgt, model.encode(batch.src, mask), mask)  # (B, T, D)
            for row, own, labels in zip(rows, states, batch.labels, strict=True):
                labelled = labels != PAD
                pairs[kept[row]] = (own[labelled], labels[labelled])
        return Read(pairs, self.options)


class Read:
    """The states and next tokens of pairs that were read, by the pair's number."""

    def __init__(self, pairs: dict[int, tuple[torch.Tensor, torch.Tensor]], options: tuple[int, float, float]):
        self.pairs, self.options = pairs, options

    def neighbours(self, numbers: np.ndarray) -> Neighbours:
        """Return what is known for sentences whose pairs are numbers (Q, pairs)."""
        parts = [[self.pairs[number] for number in row] for row in numbers.tolist()]
        states, tokens = ([torch.cat([pair[side] for pair in row]) for row in parts] for side in (0, 1))
        return Neighbours(
            torch.nn.utils.rnn.pad_sequence(states, batch_first=True, padding_value=FAR),
            torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PAD),
            *self.options,
        )
