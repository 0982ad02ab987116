"""Settings of what a program keeps: they reach the libraries, and change no value."""

import ctypes
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from stages.common.memory import keep_few_kernels, keep_freed_memory

CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def test_keeping_memory_changes_no_value():
    keep_freed_memory()
    values = torch.arange(4_000_000.0)
    assert (values + 1 - values).eq(1).all()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_malloc_is_told_to_keep_two_gibibytes(monkeypatch):
    settings = {}
    library = SimpleNamespace(mallopt=settings.__setitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory()
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD by their numbers in malloc.h.
    assert settings == {-1: 2**31 - 1, -3: 32 * 2**20}
    del library.mallopt  # as with another C library
    keep_freed_memory()


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_few_kernels_are_kept_unless_the_environment_says_how_many(monkeypatch, capacity):
    for name in CAPACITIES:
        monkeypatch.setenv(name, "8")  # so that what is set here ends with the test
    monkeypatch.setenv(capacity, "7")
    keep_few_kernels()
    assert os.environ[capacity] == "7"
    monkeypatch.delenv(capacity)
    keep_few_kernels()
    assert os.environ[capacity] == "64"
