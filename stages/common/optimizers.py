"""PyTorch's optimizers without a start of two seconds."""

import torch


class Adam(torch.optim.Adam):
    """torch.optim.Adam to the last bit, without the import of PyTorch's compiler, which nothing here uses.

    PyTorch wraps these methods so that the compiler leaves them alone, and the wrappers import it at the first call.
    """

    add_param_group = torch.optim.Adam.add_param_group.__wrapped__
    zero_grad = torch.optim.Adam.zero_grad.__wrapped__

    @torch.no_grad()
    def step(self, closure=None):
        return torch.optim.Adam.step.__wrapped__(self, closure)
