"""Translate English to Russian with the network of chapter 9: `python -m stages.ch09_translation.translate "text"`.

In: data/models/ch09/transformer.safetensors and data/prepared/ch09/ (of `dvc repro ch09_train`); texts as arguments,
from a file, or from standard input, a line each. Out: a line for each on standard output; remarks on standard error.
It is no stage, and translates as ch09_evaluate does, with the same parameters, on the CPU.
"""

import argparse
import re
import sys
from pathlib import Path

import torch

from stages.ch09_translation.neighbours import Memory
from stages.ch09_translation.params_schema import LARGEST_PENALTY, WIDEST_SEARCH
from stages.ch09_translation.translator import Translator, attention_maps, load_translator
from stages.common.devices import set_up_torch, takes_bfloat16
from stages.common.params import declared_parameters

CORPUS = Path("data/prepared/ch09/corpus")
TOKENIZERS = Path("data/prepared/ch09/tokenizers.json")
MODEL = Path("data/models/ch09/transformer.safetensors")


def lines_of(source: str) -> list[str]:
    """Return the lines of a file in UTF-8, or of standard input for "-".

    Raises:
        ValueError: with one line, for bytes that are no UTF-8.
    """
    content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    try:
        lines = re.split("\r\n|\r|\n", content.decode("utf-8-sig"))  # str.splitlines would also cut within a text
    except UnicodeDecodeError as error:
        name = "standard input" if source == "-" else source
        raise ValueError(f"{name}: not UTF-8 text: byte {error.start} is {content[error.start]:#04x}") from None
    return lines[:-1] if not lines[-1] else lines


def checked(texts: list[str]) -> list[str]:
    """Return the arguments; raise ValueError, with one line, if the terminal gave bytes that are no UTF-8."""
    for number, text in enumerate(texts, start=1):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"text {number}: not UTF-8 text at character {error.start + 1}") from None
    return texts


def remarks(translator: Translator, text: str, number: int) -> list[str]:
    """Return what a reader of the translation should know, a line each."""
    lines = []
    unknown = translator.unknown_words(text)
    if unknown:
        lines.append(f"text {number}: {unknown} words are not in the vocabulary")
    pieces = len(translator.pieces(text))
    if pieces > 1:
        lines.append(f"text {number}: translated in {pieces} pieces, of fewer than {translator.longest} tokens each")
    return lines


def arguments(values: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.ch09_translation.translate", description="English to Russian"
    )
    parser.add_argument("text", nargs="*", help="texts to translate; without any, they are read from standard input")
    parser.add_argument("--file", metavar="PATH", help="a text file in UTF-8, a text each line; - is standard input")
    parser.add_argument("--beam", type=int, metavar="N", help="width of the search, 1: greedy (default: the recipe's)")
    parser.add_argument(
        "--penalty",
        type=float,
        help="exponent of the length by which scores are divided (default: the recipe's)",
    )
    parser.add_argument("--no-memory", action="store_true", help="the network alone: starts faster, translates worse")
    parser.add_argument("--attention", metavar="PNG", help="draw the last layer's attention to the first text")
    parsed = parser.parse_args(values)
    if parsed.beam is not None and not 1 <= parsed.beam <= WIDEST_SEARCH:
        parser.error(f"--beam {parsed.beam}: must be from 1 to {WIDEST_SEARCH}")
    if parsed.penalty is not None and not 0 <= parsed.penalty <= LARGEST_PENALTY:
        parser.error(f"--penalty {parsed.penalty}: must be from 0 to {LARGEST_PENALTY}")
    if parsed.attention and Path(parsed.attention).suffix != ".png":
        parser.error(f"--attention {parsed.attention}: must end in .png")
    if parsed.text and parsed.file:
        parser.error("give texts or --file, not both")
    return parsed


def main() -> int:
    if not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")  # as what is read; Windows would else write to files in another
    options = arguments(sys.argv[1:])
    parameters = declared_parameters("ch09_evaluate", wants_inputs=False)  # it says what it lacks
    set_up_torch(parameters.seed, parameters.ch09.num_threads)
    recipe = parameters.ch09.active
    of_memory = recipe.select("memory_pairs", "memory_nearest", "memory_temperature", "memory_reach")
    with_memory = of_memory["memory_pairs"] and not options.no_memory
    beam = recipe.beams if options.beam is None else options.beam
    penalty = recipe.length_penalty if options.penalty is None else options.penalty
    if not all(path.exists() for path in (MODEL, TOKENIZERS, *([CORPUS] if with_memory else []))):
        print("nothing is trained yet: first run dvc repro ch09_train", file=sys.stderr)
        return 1
    try:
        texts = checked(options.text) or lines_of(options.file or "-")
        translator = load_translator(MODEL, TOKENIZERS, torch.device("cpu"))
        translator.bfloat16 = takes_bfloat16(recipe.precision, torch.device("cpu"))
        if with_memory:
            import datasets

            translator.memory = Memory.of(datasets.load_from_disk(str(CORPUS))["train"], of_memory)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for number, text in enumerate(texts, start=1):
        for line in remarks(translator, text, number):
            print(line, file=sys.stderr)
    for translation in translator.translate(texts, beam, penalty):
        print(translation)
    if options.attention and texts:
        from stages.ch09_translation.plot import plot_attention

        try:
            plot_attention(*attention_maps(translator, texts[0], beam, penalty), Path(options.attention))
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
