"""Tokenizers: text to numbers and back to the same text.

The special tokens come first, so that they have the same numbers in every vocabulary.
"""

from collections.abc import Iterable

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

Tokens = list[list[int]]  # of several texts

UNKNOWN, PAD, FIRST, LAST = range(4)
SPECIAL = ["[UNK]", "[PAD]", "[SOS]", "[EOS]"]
UNKNOWN_SHOWN = "⁇"


def fit_tokenizer(sentences: Iterable[str], kind: str, vocabulary: int, min_frequency: int) -> Tokenizer:
    """Learn a vocabulary from training texts.

    Args:
        kind: "wordlevel", whole words, as in the book, and single signs, where the book keeps "--" in one; a token says
            whether a blank stands before it, so that decoding gives the text again; or "bpe", pieces of words over
            bytes (Sennrich et al., 2016), for which no text has unknown words.
        vocabulary: the most tokens that it may have.
        min_frequency: how often a word, or for "bpe" a pair of pieces, must occur; 2 in the book.
    """
    if kind == "wordlevel":
        tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
        words = pre_tokenizers.Split(Regex(r"▁?\w+|▁?[^\w▁]|▁"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(split=False), words])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocabulary, min_frequency=min_frequency, special_tokens=SPECIAL, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=min_frequency,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, sentences: list[str]) -> Tokens:
    """Return the tokens of each text, without first and last."""
    return [encoding.ids for encoding in tokenizer.encode_batch(sentences, add_special_tokens=False)]


def too_long(src: Tokens, tgt: Tokens, longest: int) -> np.ndarray:
    """Return (pairs,), True where either side, with its end, has more than `longest` tokens."""
    return np.array([max(len(own), len(other)) + 1 > longest for own, other in zip(src, tgt, strict=True)], dtype=bool)


def decode(tokenizer: Tokenizer, sentences: Tokens) -> list[str]:
    """Return the texts of lists of tokens; an unknown word shows as ⁇."""
    pieces = []
    for tokens in sentences:
        runs: list[list[int]] = [[]]
        for token in tokens:
            if token == UNKNOWN:
                runs.append([])
            elif token >= len(SPECIAL):
                runs[-1].append(token)
        pieces.append(runs)
    texts = iter(tokenizer.decode_batch([run for runs in pieces for run in runs], skip_special_tokens=False))
    return [f" {UNKNOWN_SHOWN} ".join(next(texts).strip() for _ in runs).strip() for runs in pieces]
