"""Batches: every pair once, no batch above its budget, little padding."""

import numpy as np
import pytest

from stages.ch09_translation.dataset import batch_numbers, make_batch, padded, too_long
from stages.ch09_translation.tokens import FIRST, LAST, PAD


def sentences(count: int, seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [[7] * length for length in generator.geometric(0.12, count)]


def test_batch_by_hand():
    batch = make_batch([[5, 6], [7]], [[8], [9, 10, 11]])
    assert batch.src.tolist() == [[5, 6, LAST], [7, LAST, PAD]]
    assert batch.tgt.tolist() == [[FIRST, 8, PAD, PAD], [FIRST, 9, 10, 11]]
    assert batch.labels.tolist() == [[8, LAST, PAD, PAD], [9, 10, 11, LAST]]


def test_an_empty_source_is_its_end_alone():
    assert make_batch([[]], [[]]).src.tolist() == [[LAST]]
    assert padded([[1], []]).tolist() == [[1], [PAD]]
    assert padded([[], []]).shape == (2, 0)


@pytest.mark.parametrize("seed", [None, 1])
def test_every_pair_is_in_one_batch_within_the_budget(seed):
    src, tgt = sentences(500, 2), sentences(500, 3)
    generator = None if seed is None else np.random.default_rng(seed)
    batches = batch_numbers(src, tgt, 200, generator)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    filled = real = 0
    for numbers in batches:
        batch = make_batch([src[n] for n in numbers], [tgt[n] for n in numbers])
        size = batch.src.numel() + batch.tgt.numel()
        assert size <= 200 or len(numbers) == 1
        filled += size
        real += int((batch.src != PAD).sum() + (batch.tgt != PAD).sum())
    # Sorted by the longer side and the sum it would be 0.72; in batches of all lengths, a third.
    assert real / filled > 0.8


def test_shuffling_follows_the_generator():
    src, tgt = sentences(100, 2), sentences(100, 3)
    same = [batch_numbers(src, tgt, 100, np.random.default_rng(1)) for _ in range(2)]
    assert [numbers.tolist() for numbers in same[0]] == [numbers.tolist() for numbers in same[1]]
    other = batch_numbers(src, tgt, 100, np.random.default_rng(2))
    assert [numbers.tolist() for numbers in other] != [numbers.tolist() for numbers in same[0]]


def test_a_pair_beyond_the_budget_and_none_at_all():
    assert [numbers.tolist() for numbers in batch_numbers([[7] * 50], [[7]], 10)] == [[0]]
    assert batch_numbers([], [], 10) == []


def test_too_long_counts_the_end():
    assert too_long([[7] * 3, [7] * 2], [[7], [7] * 2], 3).tolist() == [True, False]
    assert too_long([], [], 3).tolist() == []
