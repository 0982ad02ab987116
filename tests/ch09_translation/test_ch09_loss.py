"""The loss with its own gradient is PyTorch's cross-entropy."""

import pytest
import torch
from torch.nn import functional as F

from stages.ch09_translation.loss import smoothed_cross_entropy


def pytorchs(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


def both(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> list[tuple[float, torch.Tensor]]:
    """Return loss and gradient of ours, and of PyTorch's in float64."""
    results = []
    for function, dtype in ((smoothed_cross_entropy, logits.dtype), (pytorchs, torch.float64)):
        own = logits.detach().to(dtype).requires_grad_()
        loss = function(own, labels, smoothing)
        (loss / 3).backward()
        results.append((loss.item(), own.grad))
    return results


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("spread", [0.1, 3.0, 300.0])
def test_loss_and_gradient_are_pytorchs(spread, smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 400, generator=generator) * spread
    labels = torch.randint(0, 400, (50,), generator=generator)
    (loss, gradient), (expected, expected_gradient) = both(logits, labels, smoothing)
    assert loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradient.double(), expected_gradient, atol=1e-6, rtol=1e-5)


def test_in_bfloat16_they_are_rounded():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 400, generator=generator).mul(3).bfloat16()
    labels = torch.randint(0, 400, (200,), generator=generator)
    (loss, gradient), (expected, expected_gradient) = both(logits, labels, 0.25)  # 0.75 is a bfloat16
    assert gradient.dtype == torch.bfloat16 and isinstance(loss, float)
    assert loss == pytest.approx(expected, rel=1e-4)
    # A bfloat16 has 8 bits: three roundings of up to 2^-9 each, more where p is near 1 − s. Together they cancel out.
    torch.testing.assert_close(gradient.double(), expected_gradient, atol=2e-6, rtol=2**-6)
    assert gradient.double().abs().sum().item() == pytest.approx(expected_gradient.abs().sum().item(), rel=5e-4)


def test_without_labels_it_is_zero_and_has_a_gradient():
    logits = torch.zeros(0, 400, requires_grad=True)
    loss = smoothed_cross_entropy(logits, torch.zeros(0, dtype=torch.int64), 0.1)
    loss.backward()
    assert loss.item() == 0 and logits.grad.shape == (0, 400)


def test_a_certain_wrong_answer_costs_what_it_should():
    logits = torch.tensor([[1000.0, 0.0, 0.0]], requires_grad=True)
    loss = smoothed_cross_entropy(logits, torch.tensor([1]), 0.0)
    loss.backward()
    assert loss.item() == 1000.0
    assert logits.grad.tolist() == [[1.0, -1.0, 0.0]]
