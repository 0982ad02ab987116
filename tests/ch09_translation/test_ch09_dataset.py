"""Batches: every pair once, no batch above its budget, little padding."""

import itertools

import numpy as np
import pytest

from stages.ch09_translation.dataset import BATCH_COST, batch_numbers, cuts, make_batch, padded
from stages.ch09_translation.tokens import FIRST, LAST, PAD, too_long


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
    # Filled up to the budget each it would be 0.83, sorted by the longer side and the sum 0.72, and unsorted 0.52.
    assert real / filled > 0.85


@pytest.mark.parametrize("seed", range(6))
def test_no_other_cuts_cost_less(seed):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 12, (9, 2))
    lengths, budget = lengths[lengths.max(axis=1).argsort()], 40

    def cost(ends: tuple[int, ...]) -> float:
        parts = np.split(lengths, ends[:-1])
        tokens = [len(part) * part.max(axis=0).sum() for part in parts]
        if any(count > budget and len(part) > 1 for count, part in zip(tokens, parts, strict=True)):
            return np.inf
        return sum(tokens) + BATCH_COST * budget * len(parts)

    every = [(*some, 9) for count in range(9) for some in itertools.combinations(range(1, 9), count)]
    assert cost(tuple(cuts(lengths, budget))) == pytest.approx(min(map(cost, every)))


@pytest.mark.parametrize("longest", [20, 1100])
def test_large_batches_are_cut_within_their_budget_too(longest):
    """With so large a budget only every 31st place is tried among short pairs; long ones follow between two of them."""
    lengths, budget = np.repeat([(2, 2), (longest, longest)], (10_000, 30), axis=0), 64_000
    ends = cuts(lengths, budget)
    assert ends[-1] == len(lengths)
    tokens = [len(part) * part.max(axis=0).sum() for part in np.split(lengths, ends[:-1])]
    assert max(tokens) <= budget
    assert lengths.sum() / sum(tokens) > 0.9


def test_batches_of_a_number_of_pairs():
    src, tgt = sentences(45, 2), sentences(45, 3)
    batches = batch_numbers(src, tgt, 0, np.random.default_rng(1), 8)
    assert sorted(map(len, batches)) == [5, 8, 8, 8, 8, 8]
    assert np.concatenate(batches).tolist() == np.random.default_rng(1).permutation(45).tolist()  # of all lengths
    assert np.concatenate(batch_numbers(src, tgt, 0, None, 8)).tolist() == list(range(45))


@pytest.mark.parametrize(("budget", "count"), [(40, 1), (39, 2)])
def test_budget_counts_both_sides_with_their_ends(budget, count):
    batches = batch_numbers([[7] * 4] * 4, [[7] * 4] * 4, budget)  # a pair has 5 + 5 tokens
    assert len(batches) == count


def test_shuffling_follows_the_generator():
    src, tgt = sentences(100, 2), sentences(100, 3)
    same = [batch_numbers(src, tgt, 100, np.random.default_rng(1)) for _ in range(2)]
    assert [numbers.tolist() for numbers in same[0]] == [numbers.tolist() for numbers in same[1]]
    other = batch_numbers(src, tgt, 100, np.random.default_rng(2))
    assert [numbers.tolist() for numbers in other] != [numbers.tolist() for numbers in same[0]]


def test_a_pair_beyond_the_budget_and_none_at_all():
    assert [numbers.tolist() for numbers in batch_numbers([[7] * 50], [[7]], 10)] == [[0]]
    assert batch_numbers([], [], 10) == []
    assert batch_numbers([], [], 0, None, 8) == []


def test_too_long_counts_the_end():
    assert too_long([[7] * 3, [7] * 2], [[7], [7] * 2], 3).tolist() == [True, False]
    assert too_long([], [], 3).tolist() == []
