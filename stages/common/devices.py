"""Seeds, threads and devices: what makes a run give the same bytes again."""

import atexit
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import torch
from threadpoolctl import threadpool_limits


def set_up_torch(seed: int, num_threads: int, device: torch.device | None = None) -> None:
    """Seed PyTorch, fix the number of threads and refuse non-deterministic kernels: what a stage does first.

    On MPS, which has no deterministic gradient of pooling, embeddings and indexing, such kernels are warned of alone:
    so it trains, and says so.

    Another number of threads sums in another order and gives other bytes, so it is a parameter. It counts for NumPy's,
    SciPy's and scikit-learn's libraries, too, as far as they are loaded; by themselves those take as many threads as
    the machine has cores. From then on Python looks for garbage, but not in what was loaded before.
    """
    # PyTorch takes the variable's word for it, and a processor without AVX2 would stop in the middle, without one.
    if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2" and not torch.cpu.get_capabilities().get("avx2", True):
        raise SystemExit("instructions: this processor has no AVX2; set native: it does without, and gives other bytes")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this set
    torch.manual_seed(seed)
    torch.set_num_threads(num_threads)
    threadpool_limits(num_threads)
    # As use_deterministic_algorithms(True), which would first import PyTorch's compiler, for two seconds a stage.
    torch.set_deterministic_debug_mode("warn" if device is not None and device.type == "mps" else "error")
    # Filling what is about to be overwritten helps to find errors, and takes up to a fifth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # What was loaded until here is no garbage: a program that doesn't look through it ends most of a second earlier.
    gc.freeze()
    gc.enable()


@atexit.register
def _let_triton_go() -> None:
    # Triton, which PyTorch's CUDA build loads for some modules, prints dozens of lines about what is left of it.
    if "triton" in sys.modules:
        gc.unfreeze()


def in_processes(job: Callable, items: Iterable, processes: int) -> Iterator:
    """Yield job(item) for each item, in their order: of one process in this one, else in so many, on a thread each.

    Small networks train faster so than in threads, which wait for one another: a step is mostly Python. What a job
    gives doesn't depend on the number of processes, as long as it draws from generators of its own.
    """
    if sys.platform == "win32":
        processes = min(processes, 61)  # more than Python can wait for there
    if processes == 1:
        yield from map(job, items)
        return
    # A fork has PyTorch loaded already; but it is safe on Linux alone.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(processes, context, initializer=_set_up_worker) as pool:
        yield from pool.map(job, items)


def _set_up_worker() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C reaches the workers, too. As an exception it would be one job's result, and the next would begin.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    set_up_torch(0, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it was killed: it would else wait for further jobs for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def find_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" takes CUDA, else MPS, else the CPU.

    Raises:
        SystemExit: with one line, if the named device isn't on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available.get(name):
        there = ", ".join(device for device in available if available[device])
        raise SystemExit(f"device: {name} was asked for, but this machine has only: {there}")
    return torch.device(name)


def takes_bfloat16(precision: str, device: torch.device) -> bool:
    """Return whether products are to be in bfloat16: "float32" no, "bfloat16" yes, "auto" where they are fast in it."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # The processor may have more than `instructions` lets PyTorch use.
    in_use = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return device.type == "cpu" and in_use and torch.cpu.get_capabilities().get("avx512_bf16", False)
