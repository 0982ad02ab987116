"""Square roots with the same bytes on the processors of all makers."""

import torch


def square_root(x: torch.Tensor) -> torch.Tensor:
    """Return √x of numbers that are not negative, of any shape.

    torch.sqrt asks MKL on a CPU, which begins with a first guess that the processor makes. Intel's and AMD's guess
    differently, and the result may differ in the last bit. torch.rsqrt divides by the processor's exact root.
    """
    return x * x.clamp_min(torch.finfo(x.dtype).tiny).rsqrt()
