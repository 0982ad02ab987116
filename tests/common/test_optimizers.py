"""The optimizers without PyTorch's compiler are PyTorch's own."""

import subprocess
import sys

import torch

from stages.common.optimizers import SGD, Adam


def minimised(kind, **options) -> torch.Tensor:
    torch.manual_seed(0)
    values = torch.randn(50, requires_grad=True)
    optimizer = kind([values], lr=0.1, weight_decay=0.01, **options)
    for _ in range(20):
        optimizer.zero_grad()
        values.square().sum().backward()
        optimizer.step()
    return values.detach()


def test_steps_are_the_same_to_the_last_bit():
    for fused in (True, False):
        assert torch.equal(minimised(Adam, fused=fused), minimised(torch.optim.Adam, fused=fused))
        decoupled = minimised(Adam, fused=fused, decoupled_weight_decay=True)
        assert torch.equal(decoupled, minimised(torch.optim.AdamW, fused=fused))
    options = {"momentum": 0.9, "nesterov": True}
    assert torch.equal(minimised(SGD, **options), minimised(torch.optim.SGD, **options))


def test_the_compiler_is_not_imported():
    program = "\n".join(
        [
            "import sys, torch",
            "from stages.common.optimizers import SGD, Adam",
            "value = torch.ones(1, requires_grad=True)",
            "for optimizer in (Adam([value], fused=True), SGD([value], 0.1)):",
            "    value.square().sum().backward()",
            "    optimizer.step()",
            "    optimizer.zero_grad()",
            "sys.exit('torch._dynamo' in sys.modules)",
        ]
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
