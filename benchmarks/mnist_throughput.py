"""Images/s of training the book's network: a plain program after figs. 73-76, and chapter 7's own training, in turn.

    python -m benchmarks.mnist_throughput      # needs data/raw/ch07 and data/prepared/ch07: dvc repro ch07_preprocess
    python -m benchmarks.mnist_throughput --device cuda --bfloat16     # both on a GPU

Network, batch of 128, Adadelta 0.01 and loss are the book's in both. The two take turns in one process, so that a
machine whose speed drifts treats them alike; what counts is the ratio. The share of the machine's matrix rate says what
is left: an image costs 72 million multiplications and additions, counted from the layers, for a step forward and back.
"""

import argparse
import os
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

from benchmarks.shared import add_device_option, clock, matrix_rate
from stages.ch07_mnist.dataset import load_split
from stages.ch07_mnist.model import build_network
from stages.ch07_mnist.preprocess import RAW, read_idx
from stages.ch07_mnist.train import Trainer, train
from stages.common.devices import find_device, set_up_torch

BATCH = 128
FLOP_PER_IMAGE = 72e6


class PlainDataset(Dataset):
    """What torchvision's MNIST does for each picture: array to PIL image, then the transforms.

    Args:
        part: "train", or "t10k", the test pictures.
    """

    def __init__(self, transform, part: str = "train"):
        self.images = torch.from_numpy(read_idx(RAW / f"{part}-images-idx3-ubyte").copy())
        self.labels = torch.from_numpy(read_idx(RAW / f"{part}-labels-idx1-ubyte").copy()).long()
        self.transform = transform
        self.to_picture = transforms.ToPILImage()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.to_picture(self.images[index])), int(self.labels[index])


class PlainNetwork(nn.Module):
    """Fig. 73 as the book computes it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, 1), nn.Conv2d(32, 64, 3, 1)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = torch.flatten(self.dropout1(F.max_pool2d(x, 2)), 1)
        return F.log_softmax(self.fc2(self.dropout2(F.relu(self.fc1(x)))), dim=1)


def normalised() -> transforms.Compose:
    """Return fig. 76's transform of a picture."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])


def train_epoch(model: nn.Module, loader: DataLoader, optimizer: optim.Optimizer, device: torch.device) -> None:
    """Fig. 74."""
    model.train()
    for data, target in loader:
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        F.nll_loss(model(data), target).backward()
        optimizer.step()


def plain_program(images: int, device: torch.device):
    """Return a function that trains on `images` pictures as the book does and returns images/s."""
    loader = DataLoader(Subset(PlainDataset(normalised()), range(images)), batch_size=BATCH)
    model = PlainNetwork().to(device)
    optimizer = optim.Adadelta(model.parameters(), lr=0.01)

    def run() -> float:
        started = time.perf_counter()
        train_epoch(model, loader, optimizer, device)
        return images / (clock(device) - started)

    return run


def own_program(images: int, precision: str, device: torch.device):
    """Return a function that does the same with chapter 7's own training."""
    data = tuple(tensor[:images] for tensor in load_split("train", device))
    nothing = tuple(tensor[:0] for tensor in data)
    trainer = Trainer(build_network("book", [], 0.25).to(device), "adadelta", 0.01, weight_decay=0.0, average_decay=0.0)
    options = {
        "batch_size": BATCH,
        "shuffle": False,
        "schedule": "constant",
        "warmup": 0.0,
        "label_smoothing": 0.0,
        "precision": precision,
    }

    def run() -> float:
        # As the stage: its deterministic kernels cost something on a GPU.
        set_up_torch(0, torch.get_num_threads(), device)
        started = time.perf_counter()  # training ends with the losses, for which the device is waited for
        train(trainer, data, nothing, None, epochs=trainer.epochs_done + 1, seed=0, **options)
        seconds = time.perf_counter() - started
        torch.set_deterministic_debug_mode("default")
        return len(data[0]) / seconds

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2560, help="pictures in a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    add_device_option(parser)
    parser.add_argument("--bfloat16", action="store_true", help="run ours in bfloat16 as well")
    arguments = parser.parse_args()
    if arguments.images < 1 or arguments.turns < 1:
        parser.error("--images and --turns must be 1 or more")
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    device = find_device(arguments.device)
    programs = {
        "plain": plain_program(arguments.images, device),
        "ours": own_program(arguments.images, "float32", device),
    }
    if arguments.bfloat16:
        programs["ours, bfloat16"] = own_program(arguments.images, "bfloat16", device)
    rates = {name: [] for name in programs}
    for turn in range(arguments.turns + 1):
        for name, run in programs.items():
            rate = run()
            if turn:  # the first turn warms up
                rates[name].append(rate)
    names = {"cpu": torch.backends.cpu.get_cpu_capability, "cuda": torch.cuda.get_device_name}
    processor = names.get(device.type, lambda: device.type)()
    print(f"torch {torch.__version__}, {arguments.threads} threads, {processor}")
    for name, values in rates.items():
        ratios = [rate / plain for rate, plain in zip(values, rates["plain"], strict=True)]
        print(
            f"{name}: {statistics.median(values):.0f} images/s (from {min(values):.0f} to {max(values):.0f}), "
            f"{statistics.median(ratios):.2f} times plain"
        )
    if device.type == "cpu":  # on a GPU convolutions have other precisions than a product in fp32
        machine = matrix_rate(torch.float32, device)
        share = statistics.median(rates["ours"]) * FLOP_PER_IMAGE / machine
        print(f"a matrix product's {machine / 1e9:.0f} GFLOP/s are enough for {machine / FLOP_PER_IMAGE:.0f} images/s")
        print(f"ours in float32 reaches {100 * share:.0f} % of that")


if __name__ == "__main__":
    main()
