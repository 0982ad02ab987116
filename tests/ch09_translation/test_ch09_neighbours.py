"""The memory beside the network: its formula by hand, what it reads, and that it helps where a text is known."""

import math

import numpy as np
import pytest
import torch

from stages.ch09_translation.memory import TranslationMemory
from stages.ch09_translation.model import Transformer, padding_mask
from stages.ch09_translation.neighbours import FAR, Memory, Neighbours
from stages.ch09_translation.search import beam_search, greedy
from stages.ch09_translation.tokens import FIRST, LAST, PAD

SRC, TGT = [[4, 5], [6, 7, 8], [9]], [[5, 6], [7], [8, 9, 4]]
TEXTS = ["alpha beta", "gamma delta", "zeta"]


def make_model(seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(11, 10, d_model=16, layers=1, heads=2, d_ff=32, dropout=0.0, longest=20, pad=PAD).eval()


def make_memory(pairs: int = 2, nearest: int = 8, temperature: float = 0.08, reach: float = 2.0) -> Memory:
    return Memory(TEXTS, SRC, TGT, pairs, nearest, temperature, reach)


def test_shares_by_hand():
    """Distances of 1 and 2 times √4, a third out of reach of the two nearest: λ = 1 − 1/4."""
    states = torch.zeros(1, 3, 4)
    states[0, 0, 0], states[0, 1, 1], states[0, 2] = 2.0, 4.0, FAR
    known = Neighbours(states, torch.tensor([[5, 6, 7]]), nearest=2, temperature=3.0, reach=4.0)
    logits = torch.arange(8.0).view(1, 1, 8)
    network = logits[0, 0].softmax(dim=0)
    first, second = math.exp(-1 / 3), math.exp(-4 / 3)
    expected = network / 4
    expected[5] += 0.75 * first / (first + second)
    expected[6] += 0.75 * second / (first + second)
    found = known.log_shares(torch.zeros(1, 1, 4), logits)[0, 0]
    assert torch.allclose(found, expected.log(), atol=1e-5)


def test_out_of_reach_the_network_decides_alone():
    known = Neighbours(torch.full((1, 2, 4), 9.0), torch.tensor([[5, 6]]), nearest=2, temperature=1.0, reach=4.0)
    logits = torch.randn(1, 3, 8)
    assert torch.allclose(known.log_shares(torch.zeros(1, 3, 4), logits), logits.log_softmax(dim=-1), atol=1e-6)


def test_two_places_with_one_token_add_up():
    known = Neighbours(torch.zeros(1, 2, 4), torch.tensor([[5, 5]]), nearest=2, temperature=1.0, reach=4.0)
    found = known.log_shares(torch.zeros(1, 1, 4), torch.zeros(1, 1, 8))[0, 0].exp()
    assert found[5].item() == pytest.approx(1.0) and found.sum().item() == pytest.approx(1.0)


def test_states_read_are_those_of_the_pairs_alone():
    model, memory = make_model(), make_memory()
    numbers = np.array([[1, 2], [2, 0]])
    known = memory.read(model, numbers).neighbours(numbers)
    for row, pairs in enumerate(numbers):
        start = 0
        for number in pairs:
            src, tgt = torch.tensor([[*SRC[number], LAST]]), torch.tensor([[FIRST, *TGT[number]]])
            mask = padding_mask(src, PAD)
            states = model.decode(tgt, model.encode(src, mask), mask)[0]
            end = start + len(states)
            assert torch.allclose(known.states[row, start:end], states, atol=1e-5)
            assert known.tokens[row, start:end].tolist() == [*TGT[number], LAST]
            start = end
        assert (known.states[row, start:] == FAR).all()


def test_a_known_text_is_translated_as_it_was():
    """Whatever the network would write: its states are the very ones that the memory holds."""
    memory = make_memory(pairs=1, nearest=1)
    for seed in range(3):
        model = make_model(seed)
        for number, text in enumerate(TEXTS):
            numbers = memory.find([text])
            assert numbers.tolist() == [[number]]
            src, known = torch.tensor([[*SRC[number], LAST]]), memory.read(model, numbers).neighbours(numbers)
            assert greedy(model, src, FIRST, LAST, 12, known) == [TGT[number]]
            assert beam_search(model, src, FIRST, LAST, 12, 3, neighbours=known) == [TGT[number]]


def test_more_pairs_asked_for_than_there_are():
    numbers = make_memory(pairs=9).find(["beta", "zeta"])
    assert numbers.shape == (2, 3) and numbers[:, 0].tolist() == [0, 2]
    assert TranslationMemory(TEXTS).nearest([]).shape == (0, 1)


def test_of_texts_as_near_the_earlier_comes_first():
    texts = TranslationMemory(["one two", "three", "one two", "one two"])
    assert texts.nearest(["one two"], 3).tolist() == [[0, 2, 3]]
