"""Accuracy of the book's MNIST program, figs. 73-76, from several seeds: what one printed run can say.

    python -m benchmarks.mnist_book_accuracy --seeds 5      # needs data/raw/ch07: dvc repro ch07_download

The program is the plain one, with PyTorch's own layers, dropout, optimiser and loader, and picture after picture in the
order of the file; chapter 7's recipe `book` computes the same with its own. A seed takes minutes on two cores.
"""

import argparse
import statistics
from collections.abc import Iterator

import torch
from torch import nn, optim
from torch.utils.data import DataLoader

from benchmarks.mnist_throughput import BATCH, PlainDataset, PlainNetwork, normalised, train_epoch
from benchmarks.shared import add_device_option
from stages.common.devices import find_device

EPOCHS = 9


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader, device: torch.device) -> float:
    """Fig. 75: the share of the pictures whose digit is recognised."""
    model.eval()
    correct = sum((model(data.to(device)).argmax(1) == target.to(device)).sum().item() for data, target in loader)
    return correct / len(loader.dataset)


def book_program(seed: int, device: torch.device) -> Iterator[float]:
    """Fig. 76: train from `seed`, and yield the test accuracy after each epoch."""
    train_loader, test_loader = (DataLoader(PlainDataset(normalised(), part), BATCH) for part in ("train", "t10k"))
    torch.manual_seed(seed)
    model = PlainNetwork().to(device)
    optimizer = optim.Adadelta(model.parameters(), lr=0.01)
    for _ in range(EPOCHS):
        train_epoch(model, train_loader, optimizer, device)
        yield accuracy(model, test_loader, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    add_device_option(parser)
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error("--seeds must be 1 or more")
    device = find_device(arguments.device)
    last = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        print(f"seed {seed}:", end="", flush=True)
        for share in book_program(seed, device):
            print(f" {100 * share:.2f}", end="", flush=True)
        print(" %")
        last.append(100 * share)
    spread = f" ± {statistics.stdev(last):.2f}" if len(last) > 1 else ""
    print(f"after {EPOCHS} epochs: {statistics.mean(last):.2f}{spread} % over {len(last)} seeds")


if __name__ == "__main__":
    main()
