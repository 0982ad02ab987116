"""Vectors of tokens before any training: what occurs in the same pairs of sentences gets similar ones.

A word and its translation stand in the same pairs, so their vectors are alike, and attention between them finds the
translation from the first step on. It is latent semantic analysis over two languages (Dumais et al., 1997).
"""

import numpy as np
import scipy.sparse
from sklearn.utils.extmath import randomized_svd

from stages.ch09_translation.tokens import Tokens


def cooccurrence_vectors(
    src: Tokens, tgt: Tokens, src_vocabulary: int, tgt_vocabulary: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 vectors of length 1 of the source's tokens (V, size) and the target's.

    They are the left singular vectors of the matrix tokens × pairs of what stands in which pair, each row divided by
    the root of the token's number of pairs, each column by the root of the pair's number of tokens; the first, which
    tells only how frequent a token is, is left out. Fewer pairs than `size` + 1 give fewer of them, and zeros for the
    rest. A token that never occurs gets a random vector.
    """
    both = [sorted({*own, *(src_vocabulary + token for token in other)}) for own, other in zip(src, tgt, strict=True)]
    rows = np.concatenate([np.array(tokens, dtype=np.int64) for tokens in both])
    ends = np.cumsum([0, *map(len, both)])
    total = src_vocabulary + tgt_vocabulary
    stands = scipy.sparse.csr_matrix((np.ones(len(rows)), rows, ends), shape=(len(both), total))  # (pairs, tokens)
    of_token = np.asarray(stands.sum(axis=0)).ravel()
    of_pair = np.asarray(stands.sum(axis=1)).ravel()
    weighted = scipy.sparse.diags(of_pair**-0.5) @ stands @ scipy.sparse.diags(np.maximum(of_token, 1) ** -0.5)
    found, _, _ = randomized_svd(weighted.T.tocsr(), size + 1, n_iter=3, random_state=seed)
    vectors = np.random.default_rng(seed).normal(size=(total, size))
    occurring = of_token > 0
    vectors[occurring] = 0
    vectors[occurring, : found.shape[1] - 1] = found[occurring, 1:]
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors[:src_vocabulary].astype(np.float32), vectors[src_vocabulary:].astype(np.float32)
