"""A trained network with its tokenizers, and a memory if one is wanted: texts in, texts out."""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from stages.ch09_translation.corpus import cleaned
from stages.ch09_translation.dataset import padded
from stages.ch09_translation.model import Transformer
from stages.ch09_translation.neighbours import Memory
from stages.ch09_translation.search import beam_search, greedy
from stages.ch09_translation.tokens import FIRST, LAST, PAD, UNKNOWN, decode, encode
from stages.common.files import file_hash, read_json
from stages.common.progress import progress

SENTENCES = 128  # searched for at once
SENTENCE_ENDS = re.compile(r"(?<=[.!?…]) ")


def load_tokenizers(path: Path) -> tuple[Tokenizer, Tokenizer]:
    """Return the tokenizers of English and Russian, to which "[PAD]" in a text is text."""
    saved = read_json(path)
    tokenizers = Tokenizer.from_str(json.dumps(saved["en"])), Tokenizer.from_str(json.dumps(saved["ru"]))
    for tokenizer in tokenizers:
        tokenizer.encode_special_tokens = True
    return tokenizers


class Translator:
    """A network and the tokenizers that it was trained with.

    Args:
        longest: tokens of a sentence, its end counted.

    Attributes:
        memory: the pairs that it was trained on, to be asked for every word; None: the network alone.
        bfloat16: whether a search multiplies in bfloat16, where a network of the book's size is twice as fast.
    """

    def __init__(self, model: Transformer, tokenizers: tuple[Tokenizer, Tokenizer], longest: int):
        self.model, self.tokenizers, self.longest = model.eval(), tokenizers, longest
        self.memory: Memory | None = None
        self.bfloat16 = False

    def tokens(self, text: str) -> list[int]:
        return encode(self.tokenizers[0], [text])[0]

    def fits(self, parts: Sequence[str], start: int, stop: int) -> bool:
        """Whether the parts from start up to stop, joined by blanks, fit the network together."""
        return len(self.tokens(" ".join(parts[start:stop]))) < self.longest

    def pieces(self, text: str) -> list[str]:
        """Return the text in as few pieces as fit the network: cut between sentences, else words, else letters."""
        text = cleaned(text)
        if len(text) <= 1 or self.fits([text], 0, 1):
            return [text] if text else []
        for parts in (SENTENCE_ENDS.split(text), text.split(" ")):
            if len(parts) > 1:
                joined, start = [], 0
                while start < len(parts):
                    # Doubled and halved, since a text of 10,000 words would else be tokenized 10,000 times.
                    end = longest_fitting(start, len(parts), partial(self.fits, parts))
                    joined.append(" ".join(parts[start:end]))
                    start = end
                return [piece for part in joined for piece in self.pieces(part)]
        half = len(text) // 2
        return [*self.pieces(text[:half]), *self.pieces(text[half:])]

    def unknown_words(self, text: str) -> int:
        """Return how many tokens of a text are none of the vocabulary."""
        return self.tokens(cleaned(text)).count(UNKNOWN)

    def translate(self, texts: Sequence[str], beams: int = 1, penalty: float = 1.0, label: str = "") -> list[str]:
        """Return a translation for each text, one line; that of an empty text is empty.

        A text that is too long for the network is translated in pieces. With a label the progress is shown.
        """
        pieces = [self.pieces(text) for text in texts]
        found = self.search([piece for own in pieces for piece in own], beams, penalty, label)
        translations = iter(decode(self.tokenizers[1], found))
        return [" ".join(next(translations) for _ in own) for own in pieces]

    @torch.no_grad()
    def search(self, pieces: Sequence[str], beams: int, penalty: float, label: str = "") -> list[list[int]]:
        """Return the translation's tokens for each piece; those of similar length are searched for together."""
        if not pieces:
            return []
        device = next(self.model.parameters()).device
        # Around all of it: weights are rounded once.
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            return self._search(encode(self.tokenizers[0], list(pieces)), pieces, beams, penalty, device, label)

    def _search(
        self,
        sources: list[list[int]],
        pieces: Sequence[str],
        beams: int,
        penalty: float,
        device: torch.device,
        label: str,
    ) -> list[list[int]]:
        if self.memory:
            numbers = self.memory.find(pieces)
            read = self.memory.read(self.model, numbers)
        found: list[list[int]] = [[] for _ in sources]
        order = np.argsort([len(tokens) for tokens in sources], kind="stable")
        starts = range(0, len(order), SENTENCES)
        for start in progress(starts, label) if label else starts:
            rows = order[start : start + SENTENCES]
            src = padded([[*sources[row], LAST] for row in rows]).to(device)
            limits = (FIRST, LAST, self.longest)
            neighbours = read.neighbours(numbers[rows]) if self.memory else None
            if beams > 1:
                translations = beam_search(self.model, src, *limits, beams, penalty, neighbours)
            else:
                translations = greedy(self.model, src, *limits, neighbours)
            for row, tokens in zip(rows, translations, strict=True):
                found[row] = tokens
        return found


def longest_fitting(start: int, end: int, fits: Callable[[int, int], bool]) -> int:
    """Return the greatest stop for which fits(start, stop), at least start + 1; a longer run never fits better."""
    stop, step = start + 1, 1
    while stop < end and fits(start, min(end, stop + step)):
        stop, step = min(end, stop + step), 2 * step
    while step := step // 2:
        if stop + step <= end and fits(start, stop + step):
            stop += step
    return stop


def load_translator(model_file: Path, tokenizers_file: Path, device: torch.device) -> Translator:
    """Read what training left; there is no memory in it.

    Raises:
        ValueError: with one line, for a file that is no such checkpoint, or tokenizers that are not its own.
    """
    try:
        with safe_open(model_file, framework="pt") as file:
            saved = json.loads((file.metadata() or {}).get("translator", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{model_file}: not a readable checkpoint: {error}") from None
    if saved is None:
        raise ValueError(f"{model_file}: a checkpoint of something else than the network of chapter 9")
    if saved["tokenizers"] != file_hash(tokenizers_file, "sha256"):
        raise ValueError(f"{tokenizers_file} is not what {model_file} was trained with: run dvc repro ch09_train")
    model = Transformer(**saved["shape"], pad=PAD)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise ValueError(f"{model_file}: its weights are of another shape than it says: {saved['shape']}") from None
    return Translator(model.to(device), load_tokenizers(tokenizers_file), saved["shape"]["longest"])


@torch.no_grad()
def attention_maps(
    translator: Translator, text: str, beams: int = 1, penalty: float = 1.0
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return how the last layer of the decoder attends to a text as it writes the translation.

    Returns (heads, T, S), the S tokens of the source and the T that are written, the ends last. Of a text that is too
    long only the first piece is taken.
    """
    model = translator.model
    device = next(model.parameters()).device
    piece = (translator.pieces(text) or [""])[0]
    source = translator.tokens(piece)
    (written,) = translator.search([piece], beams, penalty)
    written = written[: translator.longest - 1]  # a search that finds no end writes as many as the network can read
    attention = model.decoder[-1].cross_attention
    attention.keep_maps = True
    model(padded([[*source, LAST]]).to(device), padded([[FIRST, *written]]).to(device))
    attention.keep_maps = False
    shown = [
        [token_text(tokenizer, token) for token in (*tokens, LAST)]
        for tokenizer, tokens in zip(translator.tokenizers, (source, written), strict=True)
    ]
    return attention.maps[0].cpu().numpy(), *shown


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return a token as it reads in a text, a blank before it shown as ▁; the end as ■."""
    if token == LAST:
        return "■"
    text = tokenizer.decode([token], skip_special_tokens=False)
    return f"▁{text[1:]}" if text.startswith(" ") else text
