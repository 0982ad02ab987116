"""Square roots that are the same everywhere, and nowhere any other."""

import ast
import re
from pathlib import Path

import pytest
import torch

from stages.common.roots import square_root

STAGES = Path(__file__).parents[2] / "stages"
# What takes roots by MKL: its results may differ in the last bit between the processors of two makers.
TORCH_ROOTS = re.compile(r"torch\.(sqrt|cdist|pow|optim\.(Adam\w*|NAdam|RAdam|Adagrad|Adadelta|RMSprop))$")
EXEMPT = {
    "common/optimizers.py",  # where they are made anew
    "ch03_perceptrons/facts.py",  # statements that hold whatever the last bit
    "ch01_tensors/expressions.py",  # the same
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_square_root(dtype):
    torch.manual_seed(0)
    numbers = torch.cat([torch.rand(1000), 1e30 * torch.rand(1000), 1e-30 * torch.rand(1000)]).to(dtype)
    exact = numbers.double().numpy() ** 0.5
    assert square_root(numbers).dtype == dtype
    assert abs(square_root(numbers).numpy() / exact - 1).max() < 2 * torch.finfo(dtype).eps
    whole = torch.tensor([[0.0, 1.0, 4.0, 9.0]], dtype=dtype)
    torch.testing.assert_close(square_root(whole), torch.tensor([[0.0, 1, 2, 3]], dtype=dtype))
    assert square_root(whole)[0, 0] == 0


def roots_in(tree: ast.Module) -> list[str]:
    """Return where a program takes a tensor's root, or looks as if: `.sqrt()` without an argument."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="sqrt" | "sqrt_"), args=[]):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
            case ast.Attribute() if TORCH_ROOTS.match(ast.unparse(node)):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_roots_are_found():
    program = "x.sqrt()\ntorch.sqrt(x)\ntorch.cdist(x, y)\ntorch.optim.Adam(x)\nmath.sqrt(2)\nnp.sqrt(x)\nx.rsqrt()"
    assert [text.split(":")[0] for text in roots_in(ast.parse(program))] == [f"line {line}" for line in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "path", [path.relative_to(STAGES).as_posix() for path in sorted(STAGES.rglob("*.py"))], ids=str
)
def test_no_other_roots_are_taken(path):
    if path not in EXEMPT:
        assert roots_in(ast.parse((STAGES / path).read_text(encoding="utf-8"))) == []
