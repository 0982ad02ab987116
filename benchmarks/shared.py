"""What the benchmarks share: the device's option, a clock that waits for it, the rate of a large matrix product.

And a chapter's parameters, where its data are prepared for them.
"""

import argparse
import time

import torch

from stages.common.params import PARAMS_FILE, read_yaml


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Let the parser take --device, a name for `find_device`."""
    names = ("cpu", "cuda", "mps", "auto")
    parser.add_argument("--device", choices=names, default="cpu", help="auto: the fastest there is")


def tuned_chapter(chapter: str) -> dict:
    """Return a chapter's section of params.yaml, for a benchmark of its tuned recipe on the data prepared for that.

    Raises:
        SystemExit: with one line, if the chapter has another recipe, for which the data are prepared otherwise.
    """
    section = read_yaml(PARAMS_FILE)[chapter]
    if section["recipe"] != "tuned":
        raise SystemExit(f"{PARAMS_FILE}: {chapter}.recipe is {section['recipe']}, and this wants the data of tuned")
    return section


def clock(device: torch.device) -> float:
    """Return the time in seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def matrix_rate(dtype: torch.dtype, device: torch.device, repeats: int = 10) -> float:
    """Return the operations a second of a product of two square matrices, large enough for the device."""
    size = 8192 if device.type == "cuda" else 2048
    left, right, product = (torch.randn(size, size).to(device, dtype) for _ in range(3))
    torch.mm(left, right, out=product)  # into the same memory each time: new pages cost as much as the product
    started = clock(device)
    for _ in range(repeats):
        torch.mm(left, right, out=product)
    return repeats * 2 * size**3 / (clock(device) - started)
