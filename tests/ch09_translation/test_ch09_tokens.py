"""Tokenizers: what goes in comes out again, what is unknown shows, and what is too long is left out of the training."""

import pytest

from stages.ch09_translation.tokenize import tokenized
from stages.ch09_translation.tokens import FIRST, LAST, PAD, SPECIAL, UNKNOWN, decode, encode, fit_tokenizer

SENTENCES = [
    "Turn on the light.",
    "Свет: включён (50 %), не «мигает»!",
    "e-mail, user_name; 12:30 {entity_id}...",
    "Ёлка — это дерево",
    "a",
]


@pytest.fixture(params=["wordlevel", "bpe"])
def fitted(request):
    return request.param, fit_tokenizer(SENTENCES * 2, request.param, 600, 2)


def test_decoding_gives_the_text_again(fitted):
    assert decode(fitted[1], encode(fitted[1], SENTENCES)) == SENTENCES


def test_special_tokens_have_the_same_numbers_everywhere(fitted):
    assert [fitted[1].token_to_id(name) for name in SPECIAL] == [UNKNOWN, PAD, FIRST, LAST] == [0, 1, 2, 3]
    assert min(min(tokens) for tokens in encode(fitted[1], SENTENCES)) >= 4


def test_special_tokens_are_left_out_of_the_text(fitted):
    (tokens,) = encode(fitted[1], SENTENCES[:1])
    assert decode(fitted[1], [[FIRST, *tokens, LAST, PAD, PAD]]) == SENTENCES[:1]


def test_unknown_words_show(fitted):
    kind, tokenizer = fitted
    text = "Turn off the 🙂 light."
    (back,) = decode(tokenizer, encode(tokenizer, [text]))
    assert back == ("Turn ⁇ the ⁇ light." if kind == "wordlevel" else text)


@pytest.mark.parametrize("text", ["", "🙂🙃", "\u200d", "日本語", "x" * 10_000, "word " * 10_000])
def test_any_text_is_taken(fitted, text):
    (tokens,) = encode(fitted[1], [text])
    assert all(0 <= token < fitted[1].get_vocab_size() for token in tokens)
    if fitted[0] == "bpe":
        assert decode(fitted[1], [tokens])[0].split() == text.split()


def test_words_seen_once_are_not_in_the_vocabulary():
    tokenizer = fit_tokenizer(["light light fan"], "wordlevel", 100, 2)
    assert encode(tokenizer, ["light fan"]) == [[4, UNKNOWN]]


def test_the_vocabulary_is_no_larger_than_asked():
    for kind in ("wordlevel", "bpe"):
        assert fit_tokenizer(SENTENCES * 3, kind, 270, 2).get_vocab_size() <= 270


def test_the_same_texts_give_the_same_file(fitted):
    kind, tokenizer = fitted
    assert fit_tokenizer(SENTENCES * 2, kind, 600, 2).to_str() == tokenizer.to_str()


def test_pairs_that_are_too_long_are_kept_for_the_test_alone():
    pairs = [("a", "а"), ("a a a", "а"), ("a", "а а а")]
    tokenizers = tuple(fit_tokenizer([pair[side] for pair in pairs], "wordlevel", 300, 1) for side in (0, 1))
    parts, counts = tokenized(dict.fromkeys(("train", "val", "test"), pairs), tokenizers, 3)
    assert {part: columns["en"] for part, columns in parts.items()} == {
        "train": ["a"],
        "val": ["a"],
        "test": ["a", "a a a", "a"],
    }
    assert [counts[f"{part}_pairs_too_long"] for part in parts] == [2, 2, 2]
    assert [counts[f"{part}_pairs"] for part in parts] == [1, 1, 3]
