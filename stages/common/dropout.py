"""Dropout at the price of one random byte an element."""

import torch
from torch import nn
from torch.autograd.function import once_differentiable


class _DroppedRelu(torch.autograd.Function):
    """relu(x) · kept, in place. Where the result is positive its derivative is the factor in `kept`, elsewhere 0.

    So the result is all that backward needs, which the next layer keeps anyway.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, kept: torch.Tensor, factor: float) -> torch.Tensor:
        result = x.relu_().mul_(kept)
        ctx.mark_dirty(x)
        ctx.save_for_backward(result)
        ctx.factor = factor
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, result, 0).mul_(ctx.factor), None, None


class ByteDropout(nn.Module):
    """Dropout that draws one random byte an element, where nn.Dropout draws a random number: several times faster.

    `p`, the share to drop, is rounded to a multiple of 1/256, which 1/4 and 1/2 are.
    """

    def __init__(self, p: float):
        super().__init__()
        self.dropped_bytes = round(256 * p)
        self.p = self.dropped_bytes / 256

    @property
    def drops(self) -> bool:
        return self.training and self.dropped_bytes > 0

    def kept(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what to multiply the inputs by: 0 where they drop out, else 1 / (1 - p)."""
        if inputs.device.type == "mps":  # which draws no words of all 64 bits
            random_bytes = torch.randint(256, (inputs.numel(),), dtype=torch.uint8, device=inputs.device)
        else:
            words = torch.empty(-(-inputs.numel() // 8), dtype=torch.int64, device=inputs.device)
            random_bytes = words.random_(-(2**63), None).view(torch.uint8)[: inputs.numel()]
        kept = random_bytes.ge_(self.dropped_bytes).to(inputs.dtype)  # in place, 0 or 1: a bool converts slowly
        # Which byte goes with which element doesn't matter, so the mask takes the inputs' order in memory.
        return kept.as_strided(inputs.shape, inputs.stride()).mul_(1 / (1 - self.p))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.kept(inputs) if self.drops else inputs

    def of_relu(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return dropout(relu(inputs)), in place, and with less kept for the gradient than one after the other."""
        if not self.drops:
            return inputs.relu_()
        kept = self.kept(inputs)
        return _DroppedRelu.apply(inputs, kept, torch.tensor(1 / (1 - self.p), dtype=kept.dtype).item())
