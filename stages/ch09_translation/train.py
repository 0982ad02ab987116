"""Train the Transformer of chapter 9, as its `train_model` does.

In: data/prepared/ch09/: corpus, counts.json, and tokenizers.json for its hash. Out:
data/models/ch09/transformer.safetensors, with the shape of the network and that hash; metrics/history/ch09.csv with the
loss of every epoch; and a run in MLflow. Every epoch leaves a checkpoint from which a killed training goes on.

`ch09.launcher` starts it: in one process, or in several that share each batch and end with the same weights. Going on
changes no byte with one process or two; more add up the gradients of the first step in another order.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch09_train", model="program")  # loads MLflow while this process gets ready

import copy
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from stages.ch09_translation.cooccurrence import cooccurrence_vectors
from stages.ch09_translation.dataset import Batch, batch_numbers, make_batch
from stages.ch09_translation.loss import smoothed_cross_entropy
from stages.ch09_translation.model import Transformer, padding_mask
from stages.ch09_translation.tokens import PAD, Tokens
from stages.common.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer, with_prefix, without_prefix
from stages.common.devices import find_device, set_up_torch, takes_bfloat16
from stages.common.files import check_history, file_hash, placed, read_json, write_history
from stages.common.memory import keep_few_kernels, keep_freed_memory
from stages.common.optimizers import Adam, rate_share
from stages.common.params import declared_parameters
from stages.common.products import BY_ONEDNN
from stages.common.progress import progress

CORPUS = "data/prepared/ch09/corpus"
TOKENIZERS = "data/prepared/ch09/tokenizers.json"
COUNTS = "data/prepared/ch09/counts.json"
MODEL = Path("data/models/ch09/transformer.safetensors")
HISTORY = "metrics/history/ch09.csv"
BETA1, EPSILON = 0.9, 1e-9  # of Adam, as section 5.3 of the paper has them, and the book
VALIDATION_TOKENS = 4000  # in a batch
LABELS_AT_ONCE = 1024  # whose logits of the whole vocabulary are in memory together


class Objective(nn.Module):
    """The network together with its loss: what several processes run side by side."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, label_smoothing: float) -> torch.Tensor:
        """Return the sum of the cross-entropy over the batch's labels (section 5.4); padding is left out of it.

        Only the places that have a label are projected to the vocabulary: padding costs nothing there.
        """
        src_mask = padding_mask(batch.src, PAD)
        states = self.model.decode(batch.tgt, self.model.encode(batch.src, src_mask), src_mask)  # (B, T, D)
        labelled = batch.labels != PAD
        smoothing = label_smoothing if self.training else 0.0
        total = torch.zeros((), device=states.device)
        parts = (states[labelled].split(LABELS_AT_ONCE), batch.labels[labelled].split(LABELS_AT_ONCE))
        for own, labels in zip(*parts, strict=True):
            total = total + smoothed_cross_entropy(self.model.project(own), labels, smoothing)
        return total


def mixed_precision(precision: str, device: torch.device) -> str:
    """Return accelerate's name for a precision."""
    return "bf16" if takes_bfloat16(precision, device) else "no"


def precision_of(accelerator: Accelerator) -> str:
    """Return the precision in use as params.yaml calls it: what "auto" came to."""
    return "bfloat16" if accelerator.mixed_precision == "bf16" else "float32"


def share_of(numbers: np.ndarray, rank: int, processes: int) -> np.ndarray:
    """Return the pairs of a batch that process `rank` takes: every so many-th, so that each has all lengths."""
    return numbers[rank::processes]


class Trainer:
    """A network in training, with all that is needed to go on with it after a break."""

    def __init__(
        self,
        model: Transformer,
        accelerator: Accelerator,
        learning_rate: float,
        beta2: float,
        schedule: str,
        warmup: float,
        label_smoothing: float,
        clip_norm: float,
        averaged_epochs: int,
    ):
        self.model, self.accelerator = model, accelerator
        self.learning_rate, self.schedule, self.warmup = learning_rate, schedule, warmup
        self.label_smoothing, self.clip_norm, self.averaged_epochs = label_smoothing, clip_norm, averaged_epochs
        self.optimizer = Adam(model.parameters(), learning_rate, betas=(BETA1, beta2), eps=EPSILON)
        self.objective, self.prepared = accelerator.prepare(Objective(model), self.optimizer)
        self.history: dict[str, list[float]] = {}
        self.started = time.time()
        self.best_loss = math.inf
        self.best = copy.deepcopy(model.state_dict())
        averaged = self.best if averaged_epochs > 1 else {}
        self.sum = {name: torch.zeros_like(value) for name, value in averaged.items()}

    @property
    def epochs_done(self) -> int:
        return len(self.history.get("train_loss", []))

    def zero(self) -> torch.Tensor:
        """Return what losses are added up in: float64, which Apple's MPS alone doesn't have."""
        device = self.accelerator.device
        return torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)

    def batch(self, src: Tokens, tgt: Tokens, numbers: np.ndarray) -> Batch:
        """Return this process's part of a batch on the device; of one too small for all, one pair without labels."""
        own = share_of(numbers, self.accelerator.process_index, self.accelerator.num_processes)
        taken = own if len(own) else numbers[:1]
        batch = make_batch([src[number] for number in taken], [tgt[number] for number in taken])
        if not len(own):
            batch = batch._replace(labels=torch.full_like(batch.labels, PAD))
        return Batch(*(part.to(self.accelerator.device) for part in batch))

    def train_epoch(
        self, src: Tokens, tgt: Tokens, epochs: int, batch_tokens: int, batch_pairs: int, seed: int
    ) -> None:
        """Go once through all pairs; adds the mean loss of a label, as optimised, to the history."""
        # Seeded anew each epoch, so that a training that goes on after a break draws what it would have drawn.
        torch.manual_seed(seed * 1_000_003 + self.epochs_done * 1009 + self.accelerator.process_index)
        generator = np.random.default_rng([seed, self.epochs_done])
        batches = batch_numbers(src, tgt, batch_tokens, generator, batch_pairs)
        total = self.zero()
        labels = 0
        self.objective.train()
        shown = batches
        if self.accelerator.is_main_process:
            shown = progress(batches, f"ch09 epoch {self.epochs_done + 1}/{epochs}")
        for place, numbers in enumerate(shown):
            done = (self.epochs_done + (place + 1) / len(batches)) / epochs
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * rate_share(done, self.schedule, self.warmup)
            count = sum(len(tgt[number]) + 1 for number in numbers)  # of the whole batch, in all processes
            with self.accelerator.autocast():
                loss = self.objective(self.batch(src, tgt, numbers), self.label_smoothing)
            # The processes' gradients are averaged, and are to add up.
            self.accelerator.backward(loss * (self.accelerator.num_processes / count))
            if self.clip_norm:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            self.prepared.step()
            self.prepared.zero_grad()  # at once, so that no gradient takes memory beside the next batch's activations
            total += loss.detach()
            labels += count
        total = self.accelerator.reduce(total, "sum")
        self.history.setdefault("train_loss", []).append(total.item() / labels)

    @torch.no_grad()
    def loss_on(self, src: Tokens, tgt: Tokens) -> float:
        """Return the mean cross-entropy of a label, in nats, without label smoothing."""
        self.objective.eval()
        total = self.zero()
        for numbers in batch_numbers(src, tgt, VALIDATION_TOKENS):
            with self.accelerator.autocast():
                total += self.objective(self.batch(src, tgt, numbers), 0.0)
        return self.accelerator.reduce(total, "sum").item() / sum(len(tokens) + 1 for tokens in tgt)

    def validate(self, src: Tokens, tgt: Tokens, epochs: int) -> None:
        """Add the validation loss to the history, and keep the weights if it is the lowest so far.

        After the last epoch the mean of the last epochs' weights is tried, too.
        """
        weights = self.model.state_dict()
        if self.epochs_done > epochs - self.averaged_epochs:
            for name, total in self.sum.items():
                total += weights[name]
        loss = self.loss_on(src, tgt)
        self.history.setdefault("validation_loss", []).append(loss)
        check_history(self.history, "ch09_train")
        self.keep(loss)
        if self.epochs_done == epochs and self.averaged_epochs > 1:
            last = copy.deepcopy(weights)
            self.model.load_state_dict({name: value / self.averaged_epochs for name, value in self.sum.items()})
            self.keep(self.loss_on(src, tgt))
            self.model.load_state_dict(last)

    def keep(self, loss: float) -> None:
        if loss < self.best_loss:
            self.best_loss, self.best = loss, copy.deepcopy(self.model.state_dict())

    def save(self, checkpoint: Checkpoint) -> None:
        tensors = {
            **with_prefix("model", self.model.state_dict()),
            **with_prefix("best", self.best),
            **with_prefix("sum", self.sum),
            **with_prefix("optimizer", optimizer_tensors(self.optimizer)),
        }
        state = {"history": self.history, "best_loss": self.best_loss, "seconds": time.time() - self.started}
        checkpoint.save(tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            SystemExit: with one line, if not all processes go on from the same epoch.
        """
        saved = checkpoint.load()
        if saved is not None:
            self._restore(*saved)
        epochs = self.accelerator.gather(torch.tensor([self.epochs_done], device=self.accelerator.device)).tolist()
        if len(set(epochs)) > 1:
            raise SystemExit(
                f"ch09_train: the processes would go on after epochs {epochs}: {checkpoint.path} is not the same file "
                "for all of them"
            )

    def _restore(self, tensors: dict[str, torch.Tensor], state: dict) -> None:
        self.model.load_state_dict(without_prefix("model", tensors))
        self.best = without_prefix("best", tensors)
        self.sum = {name: value.to(self.accelerator.device) for name, value in without_prefix("sum", tensors).items()}
        restore_optimizer(self.optimizer, without_prefix("optimizer", tensors))
        self.history, self.best_loss = state["history"], state["best_loss"]
        self.started -= state["seconds"]  # training counts, not the break


def start(device: torch.device, precision: str, threads: int) -> Accelerator:
    """Return accelerate's view of the processes that `ch09.launcher` started, each with so many threads.

    Raises:
        SystemExit: with one line, if it doesn't see as many as were asked for, or the launcher is of no use.
    """
    # A cluster may set the port, too; the precision is the launcher's own.
    if {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys() and "WORLD_SIZE" not in os.environ:
        raise SystemExit(
            "ch09.launcher: without GPUs accelerate launch starts one process, or leaves it to MPI: take torchrun"
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # or accelerate might take a thread for each core
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=mixed_precision(precision, device))
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise SystemExit(f"{started} processes were started, and accelerate sees {accelerator.num_processes}")
    return accelerator


def main() -> None:
    parameters = declared_parameters("ch09_train")
    recipe = parameters.ch09.active
    keep_freed_memory()
    if not BY_ONEDNN or recipe.precision == "bfloat16":  # else the products have few shapes
        keep_few_kernels()
    # Several processes on one machine share its threads.
    threads = max(1, parameters.ch09.num_threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    device = find_device(parameters.device)
    set_up_torch(parameters.seed, threads, device)
    accelerator = start(device, recipe.precision, threads)

    import datasets

    corpus = datasets.load_from_disk(CORPUS)
    parts = {part: (corpus[part]["src"][:], corpus[part]["tgt"][:]) for part in ("train", "val")}
    counts = read_json(COUNTS)
    shape = {
        **recipe.select("d_model", "layers", "heads", "d_ff", "dropout", "tied", "longest"),
        "src_vocabulary": counts["src_vocabulary"],
        "tgt_vocabulary": counts["tgt_vocabulary"],
    }
    model = Transformer(**shape, pad=PAD)
    if recipe.cooccurrence:
        vectors = cooccurrence_vectors(
            *parts["train"], shape["src_vocabulary"], shape["tgt_vocabulary"], shape["d_model"], parameters.seed
        )
        model.set_embeddings(*map(torch.from_numpy, vectors))
    model = model.to(accelerator.device)
    optimization = recipe.select(
        "learning_rate", "beta2", "schedule", "warmup", "label_smoothing", "clip_norm", "averaged_epochs"
    )
    batching = recipe.select("epochs", "batch_tokens", "batch_pairs")
    trainer = Trainer(model, accelerator, **optimization)
    computed = f"{accelerator.num_processes}-{accelerator.device.type}-{accelerator.mixed_precision}"
    checkpoint = Checkpoint(f"ch09_train-{computed}", parameters.fingerprint())
    trainer.restore(checkpoint)
    while trainer.epochs_done < recipe.epochs:
        trainer.train_epoch(*parts["train"], seed=parameters.seed, **batching)
        trainer.validate(*parts["val"], recipe.epochs)
        if accelerator.is_main_process:
            # The others wait in the next epoch's first step. Not at a barrier: where there is a GPU, accelerate's wants
            # one for each process, also if they compute on the CPU.
            trainer.save(checkpoint)
    if accelerator.is_main_process:
        # One metadata key: with more of them the bytes vary from process to process.
        tokenizers = file_hash(TOKENIZERS, "sha256")
        made_of = {"shape": shape, "tokenizers": tokenizers}
        metadata = {"translator": json.dumps(made_of)}
        with placed(MODEL) as path:
            save_file({name: tensor.cpu().contiguous() for name, tensor in trainer.best.items()}, path, metadata)
        write_history(HISTORY, trainer.history)

        tracking.record_training(
            "ch09_train",
            None,
            MODEL,
            history=trainer.history,
            datasets={"ch09_train": next(Path(CORPUS, "train").glob("*.arrow"))},
            started=trainer.started,
            parameters={
                **shape,
                "processes": accelerator.num_processes,
                "device": accelerator.device.type,  # in place of "auto", as what it came to
                "precision": precision_of(accelerator),
            },
            model=Path("stages/ch09_translation/served.py"),
            example=(["Turn on the light"], {"beams": 4, "penalty": 1.0}),
            artifacts={"model": MODEL, "tokenizers": TOKENIZERS},
        )
        checkpoint.remove()
    accelerator.end_training()


if __name__ == "__main__":
    main()
