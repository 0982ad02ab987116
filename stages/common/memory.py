"""What a program keeps for its next steps: memory for tensors, code for products of matrices."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 32 * 2**20  # bytes; glibc takes no larger M_MMAP_THRESHOLD


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed, up to 2 GiB; elsewhere do nothing.

    By default every tensor of some megabytes is mapped anew and unmapped when it is freed, so that each of its pages
    faults once: where that is slow, as in many sandboxes, training spends a third of its time on it.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def keep_few_kernels() -> None:
    """Have oneDNN keep its code for 64 products of matrices, not 1,024; to be called before the first product.

    It makes code for each shape that it meets, most of a megabyte of it, and batches of sentences have ever new shapes.
    What a step needs again is far less. All the rest takes gigabytes, since it also lies between the tensors, whose
    memory can't be used as one piece again; and a large network trains a tenth slower beside it.
    """
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # oneDNN's own, and PyTorch's above it
        os.environ.setdefault(cache, "64")
