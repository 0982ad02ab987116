"""Dropout by bytes: what is kept, how it is scaled, and that gradients pass where values did."""

import pytest
import torch

from stages.common.dropout import ByteDropout


def test_byte_dropout_drops_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    inputs = torch.ones(63, 5, 13, 7).contiguous(memory_format=torch.channels_last)  # 28,665: no multiple of 8
    outputs = ByteDropout(0.25)(inputs)
    assert outputs.shape == inputs.shape
    assert torch.equal(outputs.unique(), torch.tensor([0.0, 256 / 192]))
    # Four standard errors of a share of 0.25 among 28,665.
    assert abs((outputs == 0).double().mean().item() - 0.25) < 4 * (0.25 * 0.75 / inputs.numel()) ** 0.5
    assert not torch.equal(outputs[0], outputs[1])


def test_byte_dropout_passes_gradients_where_it_passes_values():
    torch.manual_seed(0)
    inputs = torch.full((9, 11), 3.0, requires_grad=True)
    outputs = ByteDropout(0.5)(inputs)
    outputs.sum().backward()
    assert torch.equal(inputs.grad, (outputs > 0) * 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_byte_dropout_after_a_relu_is_one_after_the_other(dtype):
    start = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    found, expected = start.clone().requires_grad_(), start.clone().requires_grad_()
    dropout = ByteDropout(0.1)
    torch.manual_seed(1)
    outputs = dropout.of_relu(found * 2)  # in place, which isn't allowed on a leaf
    torch.manual_seed(1)
    one_by_one = dropout((expected * 2).relu())
    assert torch.equal(outputs, one_by_one)
    weights = torch.randn(40, 50).to(dtype)
    (outputs * weights).sum().backward()
    (one_by_one * weights).sum().backward()
    assert torch.equal(found.grad, expected.grad)
    assert torch.equal(dropout.eval().of_relu(start.clone()), start.relu())


def test_byte_dropout_does_nothing_in_evaluation_or_at_zero():
    inputs = torch.randn(3, 5)
    assert ByteDropout(0.5).eval()(inputs) is inputs
    assert ByteDropout(0.0)(inputs) is inputs


def test_byte_dropout_tells_the_probability_that_it_has():
    assert [ByteDropout(wanted).p for wanted in (0.0, 0.1, 0.25)] == [0.0, 26 / 256, 0.25]
