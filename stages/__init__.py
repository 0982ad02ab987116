"""The book's pipeline. Whatever imports it settles which of the processor's instructions NumPy and PyTorch use.

A processor with AVX-512 rounds and adds up in other ways than one without, and MKL does on Intel's processors what it
does not do on others, so that the same program gives other bytes. With `instructions: avx2` in params.yaml all compute
in one way; with `native` each as fast as it can. The libraries look for these variables when they are loaded, or first
used, and this package is imported before them.
"""

import os
import platform
import re
from pathlib import Path

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # its convolutions
    "MKL_CBWR": "COMPATIBLE",  # its products of matrices and more: MKL's one way for the processors of all makers
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # whatever of MKL should not heed this
    "OPENBLAS_CORETYPE": "Haswell",  # those of NumPy and SciPy
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # NumPy's own kernels
}


def configured_instructions() -> str:
    """Return what params.yaml of the current folder says; "avx2" where it says nothing.

    Whether it is right is checked with all other parameters, when a stage asks for its own.
    """
    try:
        text = Path("params.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "avx2"
    found = re.search(r"^instructions:\s*[\"']?(\w+)", text, re.MULTILINE)
    return found[1] if found else "avx2"


def use_instructions(instructions: str) -> None:
    """Have libraries that are loaded from now on use "avx2", no newer instructions than these, or "native", all."""
    for variable, value in AVX2.items():
        if instructions == "avx2" and platform.machine().lower() in ("x86_64", "amd64"):
            os.environ[variable] = value
        elif os.environ.get(variable) == value:  # of a program that started this one; the user's own stay
            del os.environ[variable]


use_instructions(configured_instructions())
