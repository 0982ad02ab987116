"""Time the matrix product of figs. 6 to 8: two Python loops, a loop over rows, `torch.mm`, and CUDA where there is one.

In: parameters only. Out: metrics/timings/ch01.json and metrics/plots/ch01/timings.png, both different from run to run
(declared so in dvc.yaml) and therefore read by no other stage; and a run in MLflow. They keep the times of the machine
that ran the stage last: `dvc repro -s -f ch01_benchmark` takes those of yours.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from stages.ch01_tensors.products import PRODUCTS, draw_matrices, operations
from stages.common import tracking  # not started: what is timed here should have the machine to itself
from stages.common.devices import set_up_torch
from stages.common.figures import BLUE, GREEN, GREY, RED, new_figure, save_figure
from stages.common.files import write_json
from stages.common.params import declared_parameters
from stages.common.progress import progress

TIMINGS = Path("metrics/timings/ch01.json")
PLOT = Path("metrics/plots/ch01/timings.png")
# As printed in figs. 6 and 8. That of fig. 7 is in the text alone, and may be a slip for 0.037: docs/errata.md.
BOOK_SECONDS = {"loops": (1000, 51.803100266), "mm": (1000, 0.37), "cuda": (1000, 0.00032053800)}
LABELS = {
    "loops": ("two loops", RED),
    "rows": ("loop over rows", GREEN),
    "mm": ("torch.mm", BLUE),
    "cuda": ("CUDA", GREY),
}


def median_seconds(action: Callable[[], object], repeats: int, warm_ups: int, synchronize: Callable[[], None]) -> float:
    """Return the median wall time of `action()` in seconds.

    A GPU is handed its work and computes on while Python goes on; without `synchronize()`, which waits for it, the
    clock is read before the product is done, as in fig. 8. The first calls load libraries and kernels: `warm_ups` of
    them aren't counted.
    """
    for _ in range(warm_ups):
        action()
    seconds = []
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        action()
        synchronize()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def measure(
    sizes: list[int], loops_up_to: int, matrices: str, seed: int, repeats: int, warm_ups: int, synchronize: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """Time every method at every size; the loops at sizes up to `loops_up_to` only.

    Returns:
        method to size to {"seconds", "gflops"}: the median time of a product, and billions of floating-point
        operations a second.
    """
    waits = {"cuda": torch.cuda.synchronize if synchronize else lambda: None}
    results: dict[str, dict[str, dict[str, float]]] = {}
    # A line for each size; within one, a bar would take time from what is timed.
    for size in progress(sizes, "ch01 sizes timed"):
        x, y = draw_matrices(size, matrices, seed)
        cases = {name: (product, x, y) for name, product in PRODUCTS.items() if name != "loops" or size <= loops_up_to}
        if torch.cuda.is_available():
            cases["cuda"] = (torch.mm, x.to("cuda"), y.to("cuda"))
        for name, (product, first, second) in cases.items():
            wait = waits.get(name, lambda: None)
            # Bound as defaults, so that each action keeps its own operands.
            action = lambda product=product, first=first, second=second: product(first, second)  # noqa: E731
            seconds = median_seconds(action, repeats, warm_ups, wait)
            rate = operations(size) / seconds / 1e9
            results.setdefault(name, {})[str(size)] = {
                "seconds": float(f"{seconds:.4g}"),
                "gflops": float(f"{rate:.4g}"),
            }
    return results


def plot_timings(results: dict, path: Path) -> None:
    """Time and GFLOP/s by size for each method of `results`, with the times that the book prints."""
    figure, (left, right) = new_figure(columns=2)
    for name, by_size in results.items():
        label, color = LABELS[name]
        sizes = [int(size) for size in by_size]
        left.plot(sizes, [row["seconds"] for row in by_size.values()], "o-", color=color, label=label)
        right.plot(sizes, [row["gflops"] for row in by_size.values()], "o-", color=color, label=label)
    for name, (size, seconds) in BOOK_SECONDS.items():
        label, color = LABELS[name]
        style = {"marker": "s", "s": 40, "facecolors": "none", "edgecolors": color}
        # Fig. 8 doesn't wait for the GPU: its time may be that of the call alone.
        whose = {"mm": "the book's text", "cuda": "the book, not waited for"}.get(name, "the book")
        left.scatter([size], [seconds], label=f"{label}, {whose}", **style)
        right.scatter([size], [operations(size) / seconds / 1e9], **style)
    left.set(title="Time of a product, here the median", ylabel="seconds")
    right.set(title="Operations a second", ylabel="GFLOP/s")
    sizes = sorted({int(size) for by_size in results.values() for size in by_size})
    for axes in (left, right):
        axes.set(xlabel="size of the matrices", xscale="log", yscale="log")
        axes.set_xticks(sizes, sizes)
        axes.tick_params(axis="x", which="minor", bottom=False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save_figure(figure, path)


def main() -> None:
    parameters = declared_parameters("ch01_benchmark")
    recipe = parameters.ch01.active
    set_up_torch(parameters.seed, parameters.ch01.num_threads)
    options = recipe.select("sizes", "loops_up_to", "matrices", "repeats", "warm_ups", "synchronize")
    results = measure(seed=parameters.seed, **options)
    write_json(TIMINGS, {"num_threads": parameters.ch01.num_threads, "products": results})
    plot_timings(results, PLOT)

    flat = {
        f"{name}_{size}_{unit}": value
        for name, by_size in results.items()
        for size, row in by_size.items()
        for unit, value in row.items()
    }
    fixed = {**parameters.select("seed", "instructions"), **parameters.ch01.select("recipe", "num_threads")}
    tracking.record_results("ch01_benchmark", TIMINGS, metrics=flat, parameters={**fixed, **options}, figures=[PLOT])


if __name__ == "__main__":
    main()
