"""PyTorch's optimizers without a start of two seconds."""

import torch


class _Light:
    """An optimizer's methods without the import of PyTorch's compiler, which nothing here uses.

    PyTorch wraps them so that the compiler leaves them alone, and the wrappers import it at the first call.
    """

    add_param_group = torch.optim.Optimizer.add_param_group.__wrapped__
    zero_grad = torch.optim.Optimizer.zero_grad.__wrapped__


class Adam(_Light, torch.optim.Adam):
    """torch.optim.Adam to the last bit."""

    @torch.no_grad()
    def step(self, closure=None):
        return torch.optim.Adam.step.__wrapped__(self, closure)


class SGD(_Light, torch.optim.SGD):
    """torch.optim.SGD to the last bit."""

    @torch.no_grad()
    def step(self, closure=None):
        return torch.optim.SGD.step.__wrapped__(self, closure)
