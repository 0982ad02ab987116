"""Test accuracy of chapter 7's default training after its first minute.

    python -m benchmarks.mnist_first_minute --seeds 0 1 2     # needs data/prepared/ch07: dvc repro ch07_preprocess

The training is that of params.yaml, schedule included, cut off after the last epoch that ends within the minute.
Nothing is chosen by the test pictures: the weights are the running average at that moment.
"""

import argparse
import contextlib
import time

import torch

from benchmarks.shared import tuned_chapter
from stages.ch07_mnist.augment import random_affine
from stages.ch07_mnist.dataset import load_split
from stages.ch07_mnist.evaluate import probabilities_of
from stages.ch07_mnist.model import build_network
from stages.ch07_mnist.train import Trainer, train
from stages.common.devices import set_up_torch


class TimeIsUp(Exception):
    """The next epoch would end after the limit."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    chapter = tuned_chapter("ch07")
    recipe = chapter["tuned"]

    def chosen(*names):
        return {name: recipe[name] for name in names}

    device = torch.device("cpu")
    data, validation, test = (load_split(name, device) for name in ("train", "validation", "test"))
    for seed in arguments.seeds:
        set_up_torch(seed, chapter["num_threads"])
        model = build_network(**chosen("network", "widths", "dropout"))
        trainer = Trainer(model, **chosen("optimizer", "learning_rate", "weight_decay", "average_decay"))
        started = time.perf_counter()

        def stop(trainer: Trainer, started: float = started) -> None:
            if (time.perf_counter() - started) * (1 + 1 / trainer.epochs_done) > arguments.seconds:
                raise TimeIsUp

        options = chosen("epochs", "batch_size", "shuffle", "schedule", "warmup", "label_smoothing", "precision")
        transform = random_affine(**chosen("rotation", "translation", "scaling", "shear"))
        with contextlib.suppress(TimeIsUp):
            train(trainer, data, validation, transform, after_epoch=stop, seed=seed, **options)
        elapsed = time.perf_counter() - started
        predicted = probabilities_of(trainer.average, test[0], shifted_views=False).argmax(axis=1)
        accuracy = (predicted == test[1].numpy()).mean()
        print(f"seed {seed}: {trainer.epochs_done} epochs in {elapsed:.0f} s, test accuracy {100 * accuracy:.2f} %")


if __name__ == "__main__":
    main()
