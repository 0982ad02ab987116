"""What chapter 2 shows and says of autograd, each as a statement that is computed and found true or false."""

import warnings

import torch

from stages.ch02_autograd.graph import walk
from stages.common.facts import Facts, collected, raises


def tracking() -> Facts:
    """Figs. 10 and 11: who records a history. Yields (figure, statement, whether it holds), as do all below."""
    x, y = torch.randn(4, requires_grad=True), torch.randn(4)
    yield "10", "torch.randn(4, requires_grad=True).requires_grad is True", x.requires_grad
    yield "10", "torch.randn(4).requires_grad is False", not y.requires_grad
    yield "11", "(x + 2).grad_fn is an AddBackward0", type((x + 2).grad_fn).__name__ == "AddBackward0"
    yield "11", "(y + 2).grad_fn is None", (y + 2).grad_fn is None
    later = torch.arange(6.0)
    before = later.requires_grad
    later.requires_grad_(True)
    yield "11", "requires_grad_(True) turns the recording on later", (before, later.requires_grad) == (False, True)
    refused = raises(lambda: torch.arange(6, requires_grad=True))
    yield "10", "a tensor of integers can't require a gradient: RuntimeError", refused == "RuntimeError"


def gradients() -> Facts:
    """Figs. 12 and 13: y = 2·dot(x, x), whose derivative is 4x."""
    x = torch.arange(6.0, requires_grad=True)
    yield "13", "x.grad is None before backward()", x.grad is None
    y = 2 * torch.dot(x, x)
    yield "13", "y = 2·dot(x, x) is 110 for x = 0 … 5", y.item() == 110
    yield "13", "y.grad_fn is a MulBackward0", type(y.grad_fn).__name__ == "MulBackward0"
    yield "13", "x.grad_fn is None: x was not computed", x.grad_fn is None
    yield "13", "x is a leaf, y is not", x.is_leaf and not y.is_leaf
    inner = x * x
    inner.sum().backward()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = inner.grad
    yield (
        "13",
        "only a leaf keeps its gradient: that of what was computed is None, and asking warns",
        (kept is None and len(caught) == 1),
    )
    inner = x * x
    inner.retain_grad()
    inner.sum().backward()
    yield "13", "unless retain_grad() was called before backward()", inner.grad.tolist() == [1.0] * 6
    x.grad = None
    y.backward()
    yield "13", "x.grad equals 4x exactly", torch.equal(x.grad, 4 * x.detach())
    yield "13", "backward() a second time raises RuntimeError: the graph is freed", raises(y.backward) == "RuntimeError"


def vector_jacobian_products() -> Facts:
    """Fig. 14: y = 8x + 15 of five numbers."""
    x = torch.arange(5.0, requires_grad=True)
    y = x * 8 + 15
    yield (
        "14",
        "y.backward() without a vector raises RuntimeError: y has five numbers",
        raises(y.backward) == ("RuntimeError"),
    )
    y.backward(torch.ones(5))
    yield "14", "backward(ones) gives x.grad = 8 in every place", x.grad.tolist() == [8.0] * 5
    jacobian, vector = torch.randn(3, 5), torch.randn(3)
    x.grad = None
    (jacobian @ x).backward(vector)
    yield "14", "backward(v) is vᵀJ, for any v and J", torch.allclose(x.grad, vector @ jacobian)
    refused = raises(lambda: (jacobian @ x).backward(torch.ones(5)))
    yield (
        "14",
        "v has the shape of y, not of x: where five numbers become three, it has three",
        refused == "RuntimeError",
    )
    x, vector = torch.zeros(2, requires_grad=True), torch.tensor([1.0, 10.0])
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    (matrix @ x).backward(vector)
    yield (
        "14",
        "it isn't the Jacobian times the vector: of J = (1 2; 3 4) and v = (1, 10) it is (31, 42), and J v is (21, 43)",
        x.grad.tolist() == [31.0, 42.0] and (matrix @ vector).tolist() == [21.0, 43.0],
    )


def stopping() -> Facts:
    """Figs. 15 and 16: three ways to stop recording."""
    a = torch.randn(2, 2, requires_grad=True)
    a.requires_grad_(False)
    yield "16", "requires_grad_(False) stops it for the tensor itself", not (a**2).requires_grad
    a = torch.randn(3, 2, requires_grad=True)
    b = a.detach()
    yield (
        "16",
        "detach() gives a tensor that isn't recorded, and leaves the first",
        (not b.requires_grad and a.requires_grad),
    )
    yield "16", "detach() copies nothing: both share their memory", b.data_ptr() == a.data_ptr()
    with torch.no_grad():
        square = a**2
    yield "16", "under no_grad() a result isn't recorded", not square.requires_grad
    yield "16", "behind no_grad() recording goes on", a.requires_grad and (a**2).requires_grad


def halvings(x: torch.Tensor) -> torch.Tensor:
    """Halve x until it is at most 1: how often depends on x."""
    while x > 1:
        x = x / 2
    return x


def dynamic_graphs() -> Facts:
    """The graph is recorded anew at every pass, and may depend on the data."""
    x, y = (torch.tensor(value, requires_grad=True) for value in (3.0, 12.0))
    divisions = [len(walk(halvings(value), {})["nodes"]) - 1 for value in (x, y)]  # a node is the leaf's
    yield "text", "a loop that depends on the data: 3 is halved by 2 nodes of a graph, 12 by 4", divisions == [2, 4]
    for value in (x, y):
        halvings(value).backward()
    yield "text", "and has the right gradient, 1/4 and 1/16", [x.grad.item(), y.grad.item()] == [1 / 4, 1 / 16]


def accumulation() -> Facts:
    """Fig. 17: gradients add up until they are set to zero."""
    weights = torch.ones(4, requires_grad=True)
    for _ in range(2):
        (weights * 3).sum().backward()
    yield "17", "two backward passes without zeroing give 3 + 3", weights.grad.tolist() == [6.0] * 4
    weights.grad.zero_()
    yield "17", "grad.zero_() sets it to zero", weights.grad.tolist() == [0.0] * 4
    missing = raises(lambda: weights.grad.zero())
    yield "17", "grad.zero(), as the text has it, doesn't exist: AttributeError", missing == "AttributeError"
    with torch.no_grad():
        weights.fill_(1.0)
    seen = []
    for _ in range(3):
        output = (weights * 3).sum()
        output.backward()
        seen.append(weights.grad.tolist())
        with torch.no_grad():
            weights -= 0.1 * weights.grad
        weights.grad.zero_()
    yield "17", "with zeroing each of three passes gives 3", seen == [[3.0] * 4] * 3
    yield "17", "and three steps of 0.1 lead from 1 to 0.1", torch.allclose(weights, torch.full((4,), 0.1), atol=1e-6)
    yield "17", "the last output is 4.8", abs(output.item() - 4.8) < 1e-6


def all_facts() -> list[dict[str, str | bool]]:
    """Return every statement as {"figure", "statement", "holds"}; seed PyTorch before for the same random tensors."""
    return collected((tracking, gradients, vector_jacobian_products, stopping, dynamic_graphs, accumulation))
