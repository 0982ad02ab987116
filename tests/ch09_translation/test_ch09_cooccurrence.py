"""Vectors of tokens before any training: a word and its translation are alike, also where there are few pairs."""

import numpy as np
import pytest

from stages.ch09_translation.cooccurrence import cooccurrence_vectors

WORDS = 40  # of each language; word i is translated by word i


def parallel(pairs: int) -> tuple[list[list[int]], list[list[int]]]:
    generator = np.random.default_rng(5)
    sentences = [generator.choice(WORDS, 5, replace=False).tolist() for _ in range(pairs)]
    return sentences, [sentence[::-1] for sentence in sentences]


@pytest.mark.parametrize("pairs, size", [(400, 32), (30, 64)])
def test_a_word_and_its_translation_are_alike(pairs, size):
    src, tgt = parallel(pairs)
    english, russian = cooccurrence_vectors(src, tgt, WORDS, WORDS, size, seed=3)
    assert english.dtype == russian.dtype == np.float32
    occurring = sorted({word for sentence in src for word in sentence})
    alike = english[occurring] @ russian[occurring].T
    np.testing.assert_allclose(np.diag(alike), 1, atol=1e-3)
    assert (alike.argmax(axis=1) == np.arange(len(occurring))).all()
    assert (english[occurring][:, pairs:] == 0).all()  # no more vectors than pairs


def test_what_never_occurs_gets_a_random_vector_of_length_one():
    src, tgt = parallel(400)
    english, russian = cooccurrence_vectors(src, tgt, WORDS + 2, WORDS + 1, 16, seed=3)
    strange = np.concatenate([english[WORDS:], russian[WORDS:]])
    np.testing.assert_allclose(np.linalg.norm(strange, axis=1), 1, atol=1e-6)
    assert np.abs(strange @ strange.T - np.eye(3)).max() < 0.9
