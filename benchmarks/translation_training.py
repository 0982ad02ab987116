"""Training at the book's size by the chapter's program and by ours: `python -m benchmarks.translation_training`.

    python -m benchmarks.translation_training --device cuda --batch-tokens 64000    # the same on a GPU

The chapter's takes 8 sentences, padded to 350 tokens each, attention written out and PyTorch's dropout, in float32. The
pipeline's takes batches of sentences of similar length by number of tokens, bfloat16 where the processor has it, its
own dropout and loss, and projects to the vocabulary only where a label stands. Both train the same network (N = 6,
d_model = 512, h = 8, d_ff = 2048) on Home Assistant's texts in random order, each in a process of its own, in turn.

It needs data/prepared/ch09: dvc repro ch09_tokenize.

Printed: real tokens a second of each (padding is not counted); their ratio; the share of the rate that a large matrix
product has on this machine, and the ratio that all of that rate would give; peak memory of each.
"""

import argparse
import itertools
import multiprocessing
import resource
import statistics
import sys
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.shared import add_device_option, clock, matrix_rate
from stages.ch09_translation import model as network
from stages.ch09_translation.dataset import Batch, batch_numbers, make_batch
from stages.ch09_translation.model import MOST_REAL, MultiHeadAttention, Transformer
from stages.ch09_translation.tokens import PAD
from stages.ch09_translation.train import CORPUS, COUNTS, Trainer, mixed_precision
from stages.common.devices import find_device, set_up_torch, takes_bfloat16
from stages.common.dropout import ByteDropout
from stages.common.files import read_json
from stages.common.memory import keep_few_kernels, keep_freed_memory
from stages.common.optimizers import Adam

LONGEST, PAIRS = 350, 8  # of the book's batches
STEPS = 8  # of the pipeline's program in a turn
THREADS = 2


def padded_to(tensor: torch.Tensor, length: int) -> torch.Tensor:
    return F.pad(tensor, (0, length - tensor.shape[1]), value=PAD)


def plain_step(model: Transformer, optimizer: Adam, batch: Batch) -> None:
    """One step of the chapter's train_model."""
    src, tgt, labels = (padded_to(part, LONGEST).to(model.bias.device) for part in batch)
    logits = model(src, tgt)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PAD, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def weights_met(model: Transformer) -> tuple[int, int, int, int]:
    """Return how many weights a token meets: of the source in the encoder, and in the decoder; of the target; to V."""
    of_stack = [sum(w.numel() for w in stack.parameters() if w.ndim > 1) for stack in (model.encoder, model.decoder)]
    of_source = len(model.decoder) * model.decoder[0].cross_attention.w_key_value.weight.numel()
    return of_stack[0], of_source, of_stack[1] - of_source, model.weight.numel()


def operations(model: Transformer, src_tokens: int, tgt_tokens: int) -> float:
    """Return the operations of a step, forward and back: six for each weight and token that it meets."""
    encoder, of_source, of_target, projection = weights_met(model)
    return 6 * (src_tokens * (encoder + of_source) + tgt_tokens * (of_target + projection))


class PlainDropout(torch.nn.Dropout):
    """The chapter's, with the name that ours has for what it does after a ReLU."""

    def of_relu(self, inputs: torch.Tensor) -> torch.Tensor:
        return self(torch.relu(inputs))


def set_plain_dropout(model: torch.nn.Module) -> None:
    """Have the network drop values out as the chapter's program does, by PyTorch's own module."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, ByteDropout):
                setattr(module, name, PlainDropout(child.p))


def set_written_out(model: Transformer, written_out: bool) -> None:
    """Have the attention computed as the chapter's program does, and the padding too; or as the pipeline's does."""
    network.MOST_REAL = 0.0 if written_out else MOST_REAL
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.keep_maps = written_out


def corpus(device: torch.device) -> tuple[list, list, Transformer]:
    """Return the training texts' tokens on both sides, and a new network for them on the device."""
    import datasets

    keep_freed_memory()
    train, counts = datasets.load_from_disk(CORPUS)["train"], read_json(COUNTS)
    set_up_torch(0, THREADS, device)
    model = Transformer(counts["src_vocabulary"], counts["tgt_vocabulary"], longest=LONGEST)
    return train["src"][:], train["tgt"][:], model.to(device)


def chapters_program(turns: Connection, device: torch.device, batch_tokens: int) -> None:
    """Train a step whenever asked; answers (real tokens, seconds).

    Padded to one length, all steps cost the same; so each counts as many tokens as PAIRS pairs have on average.
    """
    src, tgt, model = corpus(device)
    optimizer = Adam(model.train().parameters(), 1e-4, eps=1e-9)
    set_written_out(model, True)
    set_plain_dropout(model)
    generator = np.random.default_rng(0)
    tokens = PAIRS * sum(len(tokens) + 1 for tokens in (*src, *tgt)) / len(src)  # with the ends
    while turns.recv():
        numbers = generator.choice(len(src), PAIRS, replace=False)
        batch = make_batch([src[number] for number in numbers], [tgt[number] for number in numbers])
        started = clock(device)
        plain_step(model, optimizer, batch)
        turns.send((tokens, clock(device) - started))
    turns.send(peak_memory(device))


def pipelines_program(turns: Connection, device: torch.device, batch_tokens: int) -> None:
    """Train STEPS steps whenever asked; answers (real tokens, seconds, operations that they take)."""
    from accelerate import Accelerator

    keep_few_kernels()
    src, tgt, model = corpus(device)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=mixed_precision("auto", device))
    trainer = Trainer(model, accelerator, 1e-4, 0.999, "constant", 0.0, 0.1, 0.0, 0)
    trainer.objective.train()
    epochs = (batch_numbers(src, tgt, batch_tokens, np.random.default_rng(seed)) for seed in itertools.count())
    batches = itertools.chain.from_iterable(epochs)
    while turns.recv():
        counts = np.zeros(2, dtype=int)
        started = clock(device)
        for _ in range(STEPS):
            numbers = next(batches)
            own = trainer.batch(src, tgt, numbers)
            count = [sum(len(side[number]) + 1 for number in numbers) for side in (src, tgt)]  # with the ends
            counts += count
            with accelerator.autocast():
                loss = trainer.objective(own, 0.1)
            accelerator.backward(loss / count[1])
            trainer.prepared.step()
            trainer.prepared.zero_grad()
        turns.send((int(counts.sum()), clock(device) - started, operations(model, *counts.tolist())))
    turns.send(peak_memory(device))


def peak_memory(device: torch.device) -> float:
    """Return the most memory that this process has had, on a GPU that of the GPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device_option(parser)
    parser.add_argument("--batch-tokens", type=int, default=6000, help="tokens of the pipeline's batches")
    parser.add_argument("--turns", type=int, default=3, help="of 8 batches of the pipeline's, after one that warms up")
    arguments = parser.parse_args()
    if arguments.turns < 1 or arguments.batch_tokens < 1:
        parser.error("--turns and --batch-tokens must be 1 or more")
    device = find_device(arguments.device)
    context = multiprocessing.get_context("spawn")
    programs: dict[str, Connection] = {}
    processes = []
    for name, program in (("the chapter's", chapters_program), ("the pipeline's", pipelines_program)):
        programs[name], other = context.Pipe()
        processes.append(context.Process(target=program, args=(other, device, arguments.batch_tokens), daemon=True))
        processes[-1].start()
        other.close()  # else a program that fails would be waited for
    torch.set_num_threads(THREADS)
    precision = torch.bfloat16 if takes_bfloat16("auto", device) else torch.float32
    rates: dict[str, list[float]] = {name: [] for name in programs}
    shares, matrix_rates = [], []
    for turn in range(arguments.turns + 1):
        for name, connection in programs.items():
            connection.send(True)
            tokens, seconds, *taken = connection.recv()
            if turn:  # the first warms up
                rates[name].append(tokens / seconds)
                for operation in taken:
                    matrix_rates.append(matrix_rate(precision, device))
                    shares.append(operation / seconds / matrix_rates[-1])
    chapters, pipelines = rates.values()
    ratios = [own / other for own, other in zip(pipelines, chapters, strict=True)]
    ratio, share = statistics.median(ratios), statistics.median(shares)
    for name, values in rates.items():
        programs[name].send(False)
        print(f"{name:15} {statistics.median(values):8.1f} real tokens/s, at most {programs[name].recv():.1f} GiB")
    for process in processes:
        process.join()
    print(f"ratio           {ratio:8.1f} (from {min(ratios):.1f} to {max(ratios):.1f}), precision {precision}")
    rate = statistics.median(matrix_rates)
    print(f"share of a matrix product's {rate / 1e9:.0f} GFLOP/s: {100 * share:.0f} %")
    print(f"with all of it the ratio would be {ratio / share:.0f}")


if __name__ == "__main__":
    main()
