"""Training at the book's size by the chapter's program and by ours: `python -m benchmarks.translation_training`.

The chapter's takes 8 sentences, padded to 350 tokens each, attention written out, in float32. The pipeline's takes
batches of sentences of similar length by number of tokens, fused attention, bfloat16 where the processor has it, and
projects to the vocabulary only where a label stands. Both train the same network (N = 6, d_model = 512, h = 8,
d_ff = 2048) on Home Assistant's texts in random order.

Printed: real tokens a second of each (padding is not counted), taken in turn; their ratio; the share of the rate that a
large matrix product has on this machine; peak memory.
"""

import resource
import statistics
import time
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F

from stages.ch09_translation.dataset import Batch, batch_numbers, make_batch
from stages.ch09_translation.model import MultiHeadAttention, Transformer
from stages.ch09_translation.tokens import PAD
from stages.ch09_translation.train import CORPUS, COUNTS, Trainer, mixed_precision
from stages.common.devices import set_up_torch
from stages.common.files import read_json
from stages.common.memory import keep_freed_memory
from stages.common.optimizers import Adam

LONGEST, PAIRS = 350, 8  # of the book's batches
BATCH_TOKENS, STEPS, TURNS = 3000, 6, 2


def padded_to(tensor: torch.Tensor, length: int) -> torch.Tensor:
    return F.pad(tensor, (0, length - tensor.shape[1]), value=PAD)


def plain_step(model: Transformer, optimizer: Adam, batch: Batch) -> None:
    """One step of the chapter's train_model (fig. 106)."""
    src, tgt, labels = (padded_to(part, LONGEST) for part in batch)
    logits = model(src, tgt)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PAD, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def matrix_rate(dtype: torch.dtype, size: int = 2048, repeats: int = 10) -> float:
    """Return the operations a second of a product of two square matrices."""
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    left @ right
    started = time.perf_counter()
    for _ in range(repeats):
        left @ right
    return repeats * 2 * size**3 / (time.perf_counter() - started)


def operations(model: Transformer, src_tokens: int, tgt_tokens: int) -> float:
    """Return the operations of a step, forward and back: six for each weight and token that it meets."""
    count = lambda module: sum(weight.numel() for weight in module.parameters() if weight.ndim > 1)  # noqa: E731
    encoder, decoder = count(model.encoder), count(model.decoder)
    of_source = sum(
        layer.cross_attention.w_key.weight.numel() + layer.cross_attention.w_value.weight.numel()
        for layer in model.decoder
    )
    projection = model.weight.numel()
    return 6 * (src_tokens * (encoder + of_source) + tgt_tokens * (decoder - of_source + projection))


def main() -> None:
    import datasets
    from accelerate import Accelerator

    keep_freed_memory()
    set_up_torch(0, 2)
    torch.utils.deterministic.fill_uninitialized_memory = False
    train = datasets.load_from_disk(CORPUS)["train"]
    src, tgt = train["src"][:], train["tgt"][:]
    counts = read_json(COUNTS)
    shape = {"src_vocabulary": counts["src_vocabulary"], "tgt_vocabulary": counts["tgt_vocabulary"]}
    precision = mixed_precision("auto", torch.device("cpu"))
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    model = Transformer(**shape, longest=LONGEST)
    trainer = Trainer(model, accelerator, 1e-4, "constant", 0.0, 0.1, 0.0, 0)
    plain = Transformer(**shape, longest=LONGEST).train()
    plain_optimizer = Adam(plain.parameters(), 1e-4, eps=1e-9)
    for module in plain.modules():
        if isinstance(module, MultiHeadAttention):
            module.keep_maps = True
    generator = np.random.default_rng(0)
    batches = batch_numbers(src, tgt, BATCH_TOKENS, generator)
    result = SimpleNamespace(plain=[], ours=[], share=[])
    rate = matrix_rate({"no": torch.float32, "bf16": torch.bfloat16}[precision])
    for turn in range(TURNS):
        numbers = generator.choice(len(src), PAIRS, replace=False)
        batch = make_batch([src[number] for number in numbers], [tgt[number] for number in numbers])
        started = time.perf_counter()
        plain_step(plain, plain_optimizer, batch)
        real = int((batch.src != PAD).sum() + (batch.labels != PAD).sum())
        result.plain.append(real / (time.perf_counter() - started))

        chosen = batches[turn * STEPS : (turn + 1) * STEPS]
        started = time.perf_counter()
        trainer.history = {}
        src_tokens = tgt_tokens = 0
        trainer.objective.train()
        for numbers in chosen:
            own = trainer.batch(src, tgt, numbers)
            count = int((own.labels != PAD).sum())
            with accelerator.autocast():
                loss = trainer.objective(own, 0.1)
            trainer.prepared.zero_grad()
            accelerator.backward(loss / count)
            trainer.prepared.step()
            src_tokens, tgt_tokens = src_tokens + int((own.src != PAD).sum()), tgt_tokens + count
        seconds = time.perf_counter() - started
        result.ours.append((src_tokens + tgt_tokens) / seconds)
        result.share.append(operations(model, src_tokens, tgt_tokens) / seconds / rate)
    ratios = [own / other for own, other in zip(result.ours, result.plain, strict=True)]
    print(f"the chapter's   {statistics.median(result.plain):8.1f} real tokens/s")
    print(f"the pipeline's  {statistics.median(result.ours):8.1f} real tokens/s, precision {precision}")
    print(f"ratio           {statistics.median(ratios):8.1f} (from {min(ratios):.1f} to {max(ratios):.1f})")
    print(f"share of a matrix product's {rate / 1e9:.0f} GFLOP/s: {100 * statistics.median(result.share):.0f} %")
    print(f"peak memory of both together {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
