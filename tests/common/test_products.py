"""Products by oneDNN are those of PyTorch, forwards and backwards."""

import os
import platform

import pytest
import torch
from torch.nn import functional as F

from stages.common import products
from stages.common.products import ROWS, Linear, linear


@pytest.fixture
def by_onednn(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("no oneDNN")
    monkeypatch.setattr(products, "BY_ONEDNN", True)


def test_rows_are_filled_up_to_whole_blocks():
    for rows in (1, ROWS - 1, ROWS, ROWS + 1):
        blocks = products._whole_blocks(torch.ones(1, rows, 3))
        assert blocks.shape == (-(-rows // ROWS) * ROWS, 3)
        assert (blocks[:rows] == 1).all() and (blocks[rows:] == 0).all()


def leaves(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 13), (7, 13), (ROWS, 13), (3, 50, 13), (2, 3, 4, 13), (2, 0, 13)])
def test_linear_and_its_gradients(by_onednn, shape, bias):
    torch.manual_seed(0)
    x, weight, bias = leaves(*shape), leaves(9, 13), leaves(9) if bias else None
    of = [value for value in (x, weight, bias) if value is not None]
    found, expected = linear(x, weight, bias), F.linear(x, weight, bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(expected)
    gradients = torch.autograd.grad(found, of, grad), torch.autograd.grad(expected, of, grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(40, 30)[:, 3:16],
        torch.randn(13, 40).T,
        torch.randn(1, 13).expand(40, 13),
        torch.randn(40, 26)[:, ::2],
    ],
    ids=["a part", "transposed", "expanded", "every other"],
)
def test_numbers_that_do_not_lie_side_by_side(by_onednn, x):
    weight = leaves(9, 13)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)
    (found,) = torch.autograd.grad(linear(x, weight).sum(), weight)  # the sum's gradient is one number, expanded
    torch.testing.assert_close(found, x.sum(0).expand(9, 13), rtol=1e-5, atol=1e-4)


def test_the_result_can_be_changed_in_place(by_onednn):
    torch.manual_seed(0)
    layer, x = Linear(13, 9), torch.randn(2, 5, 13)
    layer(x).relu_().sum().backward()
    found = layer.weight.grad.clone()
    layer.weight.grad = None
    F.linear(x, layer.weight, layer.bias).relu().sum().backward()
    torch.testing.assert_close(found, layer.weight.grad, rtol=1e-5, atol=1e-5)


def test_only_what_is_asked_for_has_a_gradient(by_onednn):
    x, weight = torch.randn(4, 13), leaves(9, 13)
    linear(x, weight).sum().backward()
    assert x.grad is None and weight.grad is not None
    assert not linear(x, weight.detach()).requires_grad


def test_other_precisions_are_left_to_pytorch(by_onednn):
    x, weight = torch.randn(4, 13), torch.randn(9, 13)
    assert linear(x.double(), weight.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


def test_it_is_used_wherever_mkl_is_slow():
    slow = os.environ.get("MKL_CBWR") == "COMPATIBLE"
    assert slow == products.BY_ONEDNN or not torch.backends.mkldnn.is_available()
    assert slow or platform.machine().lower() not in ("x86_64", "amd64") or os.environ.get("MKL_CBWR")
