"""PyTorch's optimizers without a start of two seconds, and with the same bytes on the processors of all makers.

PyTorch's own take square roots that may differ in the last bit (`roots`). A fused one takes the processor's exact root.
"""

from collections.abc import Iterable

import torch

from stages.common.roots import square_root


def rate_share(done: float, schedule: str, warmup: float) -> float:
    """Return the learning rate's share when the share `done` of the training is done.

    It rises in `warmup`; then "linear" has it fall to 0, and "constant" keeps it.
    """
    if done < warmup:
        return done / warmup
    return (1 - done) / (1 - warmup) if schedule == "linear" else 1.0


class _Light:
    """An optimizer's methods without the import of PyTorch's compiler, which nothing here uses.

    PyTorch wraps them so that the compiler leaves them alone, and the wrappers import it at the first call.
    """

    add_param_group = torch.optim.Optimizer.add_param_group.__wrapped__
    zero_grad = torch.optim.Optimizer.zero_grad.__wrapped__

    @torch.no_grad()
    def step(self, closure=None):
        return super().step.__wrapped__(self, closure)

    def _accelerator_graph_capture_health_check(self) -> None:
        """Leave out PyTorch's look for a CUDA graph, of which there is none here.

        It would start CUDA in every process that trains on the CPU, and a process forked from such a one can't do that.
        """


class Adam(_Light, torch.optim.Adam):
    """torch.optim.Adam to the last bit, fused."""

    def __init__(self, params: Iterable, lr: float = 1e-3, **options):
        super().__init__(params, lr, fused=True, **options)


class SGD(_Light, torch.optim.SGD):
    """torch.optim.SGD to the last bit."""


class Adagrad(_Light, torch.optim.Adagrad):
    """torch.optim.Adagrad to the last bit, fused."""

    def __init__(self, params: Iterable, lr: float = 1e-2, **options):
        super().__init__(params, lr, fused=True, **options)


class Adadelta(_Light, torch.optim.Adadelta):
    """torch.optim.Adadelta, of which there is no fused one, with √(a / b) where that has √a / √b."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            weights, grads, squares, deltas = [], [], [], []
            self._init_group(group, weights, grads, squares, deltas, [])
            if not weights:
                continue
            rho, eps = group["rho"], group["eps"]
            if group["weight_decay"]:
                grads = torch._foreach_add(grads, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(squares, rho)
            torch._foreach_addcmul_(squares, grads, grads, value=1 - rho)
            ratios = torch._foreach_div(torch._foreach_add(deltas, eps), torch._foreach_add(squares, eps))
            steps = torch._foreach_mul([square_root(ratio) for ratio in ratios], grads)
            torch._foreach_mul_(deltas, rho)
            torch._foreach_addcmul_(deltas, steps, steps, value=1 - rho)
            torch._foreach_add_(weights, steps, alpha=-group["lr"])
