"""The optimizers without PyTorch's compiler are PyTorch's own."""

import subprocess
import sys

import pytest
import torch

from stages.common.optimizers import SGD, Adadelta, Adagrad, Adam, rate_share
from tests.conftest import ROOT


def minimised(kind, **options) -> torch.Tensor:
    torch.manual_seed(0)
    values = torch.randn(50, requires_grad=True)
    optimizer = kind([values], lr=0.1, weight_decay=0.01, **options)
    for _ in range(20):
        optimizer.zero_grad()
        values.square().sum().backward()
        optimizer.step()
    return values.detach()


def test_the_rates_schedule_by_hand():
    times = (0.0, 0.1, 0.2, 0.6, 1.0)
    assert [rate_share(done, "linear", 0.2) for done in times] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])
    assert [rate_share(done, "constant", 0.2) for done in times] == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0])
    assert [rate_share(done, "linear", 0.0) for done in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    assert [rate_share(done, "constant", 0.0) for done in (0.0, 0.25, 1.0)] == [1.0, 1.0, 1.0]


def test_steps_are_the_same_to_the_last_bit():
    decoupled = minimised(Adam, decoupled_weight_decay=True)
    assert torch.equal(decoupled, minimised(torch.optim.AdamW, fused=True))
    assert torch.equal(minimised(Adam), minimised(torch.optim.Adam, fused=True))
    assert torch.equal(minimised(Adagrad), minimised(torch.optim.Adagrad, fused=True))
    options = {"momentum": 0.9, "nesterov": True}
    assert torch.equal(minimised(SGD, **options), minimised(torch.optim.SGD, **options))


def test_steps_on_the_cpu_leave_a_gpu_alone(monkeypatch):
    def started(**options):
        raise AssertionError("PyTorch would start CUDA, which a process forked from this one then can't")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", started)
    for kind in (Adam, Adagrad, SGD, Adadelta):
        assert minimised(kind).isfinite().all()


def test_adadelta_makes_pytorchs_steps():
    for options in ({}, {"rho": 0.8, "eps": 1e-4}):
        torch.testing.assert_close(minimised(Adadelta, **options), minimised(torch.optim.Adadelta, **options))


def test_adadelta_skips_what_has_no_gradient_and_goes_on_from_its_state():
    torch.manual_seed(0)
    values, idle = torch.randn(5, requires_grad=True), torch.ones(2, requires_grad=True)
    first = Adadelta([{"params": [idle]}, {"params": [values], "weight_decay": 0.1}], 0.1)
    second = Adadelta([{"params": [idle]}, {"params": [values], "weight_decay": 0.1}], 0.1)
    for optimizer in (first, second):
        if optimizer is second:
            second.load_state_dict(first.state_dict())
        values.grad = values.detach().clone()
        optimizer.step()
    torch.manual_seed(0)
    expected = torch.randn(5, requires_grad=True)
    whole = torch.optim.Adadelta([expected], 0.1, weight_decay=0.1)
    for _ in range(2):
        expected.grad = expected.detach().clone()
        whole.step()
    torch.testing.assert_close(values, expected)
    assert idle.tolist() == [1, 1]


def test_the_compiler_is_not_imported():
    program = "\n".join(
        [
            "import sys, torch",
            "from stages.common.optimizers import SGD, Adadelta, Adagrad, Adam",
            "value = torch.ones(1, requires_grad=True)",
            "for optimizer in (Adam([value]), SGD([value], 0.1), Adagrad([value]), Adadelta([value])):",
            "    value.square().sum().backward()",
            "    optimizer.step()",
            "    optimizer.zero_grad()",
            "sys.exit('torch._dynamo' in sys.modules)",
        ]
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
