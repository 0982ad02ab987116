"""Greedy and beam search: the same tokens as without caches, alone as in a batch, the best where all can be tried."""

import itertools

import pytest
import torch

from stages.ch09_translation.model import KeyValue, LayerCache, Transformer, padding_mask
from stages.ch09_translation.neighbours import Neighbours
from stages.ch09_translation.search import beam_search, greedy

PAD, FIRST, LAST, LONGEST = 1, 2, 3, 12


def make_model(tgt_vocabulary: int = 9, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(11, tgt_vocabulary, d_model=16, layers=2, heads=4, d_ff=32, dropout=0.0, longest=20, pad=PAD)
    with torch.no_grad():
        model.weight.mul_(4)  # so that one token is clearly likelier than another, and the source counts
        for layer in model.decoder:
            layer.cross_attention.w_o.weight.mul_(4)
        model.bias[LAST] = 6.0
    return model.eval()


def sources(count: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    src = torch.randint(4, 11, (count, 8), generator=generator)
    lengths = torch.randint(1, 9, (count, 1), generator=generator)
    return torch.where(torch.arange(8) < lengths, src, PAD)


class WithoutCaches(torch.nn.Module):
    """The same network, which computes all that is written anew for every token; a cache holds tokens and source."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model, self.pad, self.encode, self.project = model, model.pad, model.encode, model.project

    def start(self, memory):
        return [LayerCache(None, KeyValue(memory, memory))]

    def step(self, tokens, place, caches, src_mask):
        ((target, source),) = caches
        written = tokens[:, None] if target is None else torch.cat([target.key, tokens[:, None]], dim=1)
        assert written.shape[1] == place + 1
        states = self.model.decode(written, source.key, src_mask)
        return states[:, -1], [LayerCache(KeyValue(written, written), source)]


def neighbours(src: torch.Tensor) -> Neighbours:
    """A memory for each source that makes a difference: states of the size that the network has, and random tokens."""
    drawn = [torch.Generator().manual_seed(int(row[row != PAD].sum())) for row in src]  # the same alone as in a batch
    states = torch.stack([torch.randn(5, 16, generator=generator) for generator in drawn])
    tokens = torch.stack([torch.randint(LAST, 9, (5,), generator=generator) for generator in drawn])
    return Neighbours(states, tokens, nearest=3, temperature=0.5, reach=2.0)


SEARCHES = {
    "greedy": lambda model, src: greedy(model, src, FIRST, LAST, LONGEST),
    "beam": lambda model, src: beam_search(model, src, FIRST, LAST, LONGEST, beams=4),
    "greedy with a memory": lambda model, src: greedy(model, src, FIRST, LAST, LONGEST, neighbours(src)),
    "beam with a memory": lambda model, src: beam_search(
        model, src, FIRST, LAST, LONGEST, beams=4, neighbours=neighbours(src)
    ),
}


@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_a_memory_changes_what_is_written(name):
    model, src = make_model(), sources()
    assert SEARCHES[f"{name} with a memory"](model, src) != SEARCHES[name](model, src)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("seed", range(3))
def test_caches_change_no_token(monkeypatch, name, seed):
    monkeypatch.setattr("stages.ch09_translation.model.MOST_REAL", 0.0)  # the token for padding may be written, too
    model, src = make_model(seed=seed), sources()
    found = SEARCHES[name](model, src)
    assert found == SEARCHES[name](WithoutCaches(model), src)
    assert len(set(map(len, found))) > 1  # sentences end at different times


@pytest.mark.parametrize("name", SEARCHES)
def test_a_sentence_is_translated_alike_alone_and_in_a_batch(name):
    model, src = make_model(), sources()
    together = SEARCHES[name](model, src)
    for row, tokens in zip(src, together, strict=True):
        assert SEARCHES[name](model, row[row != PAD][None]) == [tokens]


def test_a_beam_of_one_is_greedy():
    for seed in range(3):
        model, src = make_model(seed=seed), sources()
        assert beam_search(model, src, FIRST, LAST, LONGEST, beams=1) == greedy(model, src, FIRST, LAST, LONGEST)


def score(model: Transformer, src: torch.Tensor, words: tuple[int, ...], ends: bool, penalty: float, longest: int):
    """How good a sentence is, by one look at all of it."""
    tokens = torch.tensor([[FIRST, *words]])
    mask = padding_mask(src, PAD)
    shares = model.project(model.decode(tokens, model.encode(src, mask), mask))[0].log_softmax(dim=-1)
    total = sum(shares[place, word] for place, word in enumerate((*words, LAST) if ends else words))
    return float(total) / (len(words) + 1 if ends else longest) ** penalty


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_sentences(monkeypatch, penalty):
    monkeypatch.setattr("stages.ch09_translation.model.MOST_REAL", 0.0)  # here the token for padding is a word
    longest = 3
    for seed in range(4):
        model, src = make_model(tgt_vocabulary=5, seed=seed), sources(1)
        others = [token for token in range(5) if token != LAST]
        with torch.no_grad():
            candidates = {
                words: score(model, src, words, len(words) < longest, penalty, longest)
                for length in range(longest + 1)
                for words in itertools.product(others, repeat=length)
            }
        best = max(candidates, key=candidates.get)
        # All ends are kept, since the beam is wider than there are sentences.
        (found,) = beam_search(model, src, FIRST, LAST, longest, beams=200, penalty=penalty)
        assert candidates[tuple(found)] == pytest.approx(candidates[best], abs=1e-5)


def test_the_longest_sentence_ends():
    model = make_model()
    with torch.no_grad():
        model.bias[LAST] = -1e4
    for name in ("greedy", "beam"):
        assert all(len(tokens) == LONGEST for tokens in SEARCHES[name](model, sources(3)))


def test_a_sentence_may_be_empty():
    model = make_model()
    with torch.no_grad():
        model.bias[LAST] = 1e4
    for name in ("greedy", "beam"):
        assert SEARCHES[name](model, sources(3)) == [[], [], []]
