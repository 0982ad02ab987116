"""Cross-entropy with label smoothing (section 5.4 of Vaswani et al., 2017), and its gradient at once."""

import torch
from torch.autograd.function import once_differentiable


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Of logits L, one label y of V and smoothing s: log Σ exp L − (1 − s) L_y − s mean(L), and at once its gradient.

    That is p − (1 − s) at y, p elsewhere, and s/V less everywhere. The softmax p gives both, so that a step goes
    through its largest table (labels, V) half as often as with PyTorch's functions, and keeps it once, in the logits'
    precision.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
        # The type is said, because autocast on CUDA would else have a softmax in float32.
        probabilities = logits.softmax(dim=1, dtype=logits.dtype)
        # Of the largest probability, which is at least 1/V: the logarithm of another may be -inf.
        log_sums = logits.amax(dim=1).float() - probabilities.amax(dim=1).float().log()
        own = logits.gather(1, labels[:, None]).squeeze(1).float()
        losses = log_sums - (1 - smoothing) * own - smoothing * logits.mean(dim=1, dtype=torch.float32)
        if ctx.needs_input_grad[0]:
            probabilities -= smoothing / logits.shape[1]
            of_label = torch.full_like(labels[:, None], smoothing - 1, dtype=logits.dtype)
            ctx.save_for_backward(probabilities.scatter_add_(1, labels[:, None], of_label))
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (of_logits,) = ctx.saved_tensors
        return of_logits * grad, None, None  # a single number doesn't change the precision, and isn't rounded to it


def smoothed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return the sum of the cross-entropy over labels (N,), given logits (N, V) in any precision, in float32.

    It equals torch.nn.functional.cross_entropy(…, reduction="sum", label_smoothing=smoothing). With logits in bfloat16
    the loss of a label is off by at most 0.004, up or down.
    """
    return _SmoothedCrossEntropy.apply(logits, labels, smoothing)
