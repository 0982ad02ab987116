"""Greedy search by the chapter's program and by the pipeline: `python -m benchmarks.translation_decoding`.

    python -m benchmarks.translation_decoding --device cuda    # the same on a GPU

The chapter's encodes a sentence, padded to 350 tokens, and computes the whole decoder anew for every word, one sentence
after another, its attention written out. The pipeline's has many sentences in a batch, here all of one length so that
none is padded, and keeps keys and values. Both run the same weights, of the book's size, and in float32 write the same
words: a network that never ends a sentence writes as many as it may. Where the device multiplies bfloat16 fast, as
`precision: auto` has it, that is timed, too; there an untrained network, to which all words are about as likely, soon
writes others.

Printed: sentences a second of each, taken in turn, and their ratio; the operations of a sentence in each, and the ratio
that the rate of a large matrix product in float32 would give ours beside the chapter's as it is.
"""

import argparse
import statistics

import torch

from benchmarks.shared import add_device_option, clock, matrix_rate
from benchmarks.translation_training import set_written_out, weights_met
from stages.ch09_translation.dataset import padded
from stages.ch09_translation.model import Transformer, padding_mask
from stages.ch09_translation.search import greedy
from stages.ch09_translation.tokens import FIRST, LAST, PAD
from stages.ch09_translation.translator import SENTENCES
from stages.common.devices import find_device, set_up_torch, takes_bfloat16
from stages.common.memory import keep_freed_memory

VOCABULARY, LONGEST, WRITTEN = 8000, 350, 10  # tokens; Home Assistant's Russian texts have ten on average
READ = 9  # tokens of a source, its end counted
BATCHES = 4  # of the pipeline's, in a turn
TURNS = 5


@torch.no_grad()
def one_by_one(model: Transformer, src: torch.Tensor, longest: int) -> list[int]:
    """Return the tokens for one source (1, S) one by one, as the book's repository does."""
    padding = torch.full((1, LONGEST - src.shape[1]), PAD, device=src.device)
    src = torch.cat([src, padding], dim=1)
    src_mask = padding_mask(src, PAD)
    memory = model.encode(src, src_mask)
    tokens = torch.tensor([[FIRST]], device=src.device)
    for _ in range(longest):
        best = model.project(model.decode(tokens, memory, src_mask)[:, -1]).argmax(dim=-1)
        if int(best) == LAST:
            break
        tokens = torch.cat([tokens, best[None]], dim=1)
    return tokens[0, 1:].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device_option(parser)
    device = find_device(parser.parse_args().device)
    keep_freed_memory()
    set_up_torch(0, 2, device)
    model = Transformer(VOCABULARY, VOCABULARY, longest=LONGEST).eval().to(device)
    with torch.no_grad():
        model.bias[LAST] = -100.0
    generator = torch.Generator().manual_seed(0)
    sentences = torch.randint(4, VOCABULARY, (BATCHES * SENTENCES, READ - 1), generator=generator).tolist()
    batch = padded([[*tokens, LAST] for tokens in sentences]).to(device)
    plain: list[float] = []
    rates: list[float] = []
    precisions = [torch.float32, *([torch.bfloat16] if takes_bfloat16("auto", device) else [])]
    ours: dict[torch.dtype, list[float]] = {precision: [] for precision in precisions}
    for turn in range(TURNS + 1):
        set_written_out(model, True)
        started = clock(device)
        found = one_by_one(model, batch[turn : turn + 1], WRITTEN)
        plain.append(1 / (clock(device) - started))
        set_written_out(model, False)
        for precision in precisions:
            started = clock(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):  # as Translator
                parts = batch.split(SENTENCES)
                together = [tokens for part in parts for tokens in greedy(model, part, FIRST, LAST, WRITTEN)]
            ours[precision].append(len(batch) / (clock(device) - started))
            if precision == torch.float32 and together[turn] != found:
                raise SystemExit("the two searches wrote different words")
        rates.append(matrix_rate(torch.float32, device))
    encoder, of_source, of_target, projection = weights_met(model)
    growing = WRITTEN * (WRITTEN + 1) // 2  # positions of the target that are computed again and again
    of_plain = 2 * (LONGEST * (encoder + WRITTEN * of_source) + growing * of_target + WRITTEN * projection)
    of_ours = 2 * (READ * (encoder + of_source) + WRITTEN * (of_target + projection))
    rate = statistics.median(rates)
    plain = plain[1:]  # the first turn warms up
    chapters = statistics.median(plain)
    print(f"the chapter's   {chapters:8.2f} sentences/s, {of_plain / 1e9:6.2f} GFLOP each")
    for precision, (_, *measured) in ours.items():
        ratios = [own / other for own, other in zip(measured, plain, strict=True)]
        spread = f"{statistics.median(ratios):.1f} times (from {min(ratios):.1f} to {max(ratios):.1f})"
        print(f"the pipeline's  {statistics.median(measured):8.2f} sentences/s, {of_ours / 1e9:6.2f} GFLOP each")
        print(f"    in {precision}: {spread} the chapter's")
    print(f"with all of a matrix product's {rate / 1e9:.0f} GFLOP/s: {rate / of_ours / chapters:.0f} times")


if __name__ == "__main__":
    main()
