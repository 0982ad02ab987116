"""Products of matrices with the same bytes on the processors of all makers, at full speed.

With `instructions: avx2` MKL computes in the one way that it has for every processor, which takes more than twice as
long. oneDNN computes alike on all of them anyway, and is as fast as MKL at its best.
"""

import os

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from stages import AVX2

ROWS = 32  # oneDNN makes code for each number of rows, which takes longer than a small product: there are few with this
BY_ONEDNN = os.environ.get("MKL_CBWR") == AVX2["MKL_CBWR"] and torch.backends.mkldnn.is_available()


def _by_onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return x·weightᵀ + bias for x (rows, D), weight (F, D), either of them transposed or not."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _whole_blocks(x: torch.Tensor) -> torch.Tensor:
    """Return x (…, D) as (rows, D), with rows of zeros after its own up to a multiple of ROWS."""
    x = x.flatten(0, -2)
    lacking = -len(x) % ROWS
    return F.pad(x, (0, 0, 0, lacking)) if lacking else x


class _Linear(torch.autograd.Function):
    """F.linear by oneDNN, which takes a transposed weight as it is, and copies a transposed x."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        rows = _whole_blocks(x)
        ctx.save_for_backward(rows, weight)
        ctx.shape = x.shape
        result = _by_onednn(rows, weight, bias)[: x.shape[:-1].numel()].view(*x.shape[:-1], -1)
        return result.data  # not the view that it is, which none could change in place

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        own = grad.flatten(0, -2)
        grad = _whole_blocks(grad)
        return (
            _by_onednn(grad, weight.t())[: len(own)].view(ctx.shape) if ctx.needs_input_grad[0] else None,
            _by_onednn(grad.t(), rows.t()) if ctx.needs_input_grad[1] else None,
            own.sum(0) if ctx.needs_input_grad[2] else None,
        )


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return x·weightᵀ + bias, as F.linear: x (…, D), at least two-dimensional, weight (F, D), bias (F,): (…, F)."""
    if (
        not BY_ONEDNN
        or x.device.type != "cpu"
        or x.dtype != torch.float32
        or x.numel() == 0
        or torch.is_autocast_enabled("cpu")
    ):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


class Linear(nn.Linear):
    """nn.Linear by `linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)
