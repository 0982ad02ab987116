"""Every operation that chapter 1 names, as an expression beside NumPy's, and what the chapter says of them."""

import json
from typing import NamedTuple

import numpy as np
import torch

from stages.common.facts import raises

TOLERANCE = 1e-6  # relative and absolute, of float32 against float64


class Operation(NamedTuple):
    topic: str
    expression: str
    numpy: str = ""  # of the same value; "" where NumPy has the same expression


OPERATIONS = [
    Operation("creation", "torch.tensor(data)", "np.array(data)"),
    Operation("creation", "torch.from_numpy(array)", "array"),
    Operation("creation", "torch.zeros(3, 3, 4)", "np.zeros((3, 3, 4))"),
    Operation("creation", "torch.ones(2, 5, 7)", "np.ones((2, 5, 7))"),
    Operation("creation", "torch.diag(torch.ones(3))", "np.diag(np.ones(3))"),
    Operation("creation", "torch.arange(0, 10, 2)", "np.arange(0, 10, 2)"),
    Operation("creation", "torch.linspace(0, 1, 5)", "np.linspace(0, 1, 5)"),
    Operation("dtype", "torch.HalfTensor([1, 2]).dtype", "np.dtype('float16')"),
    Operation("dtype", "torch.FloatTensor([1, 2]).dtype", "np.dtype('float32')"),
    Operation("dtype", "torch.DoubleTensor([1, 2]).dtype", "np.dtype('float64')"),
    Operation("dtype", "torch.CharTensor([1, 2]).dtype", "np.dtype('int8')"),
    Operation("dtype", "torch.ShortTensor([1, 2]).dtype", "np.dtype('int16')"),
    Operation("dtype", "torch.IntTensor([1, 2]).dtype", "np.dtype('int32')"),
    Operation("dtype", "torch.LongTensor([1, 2]).dtype", "np.dtype('int64')"),
    Operation("dtype", "torch.ByteTensor([1, 2]).dtype", "np.dtype('uint8')"),
    Operation("dtype", "torch.BoolTensor([True, False]).dtype", "np.dtype('bool')"),
    Operation("attributes", "x.shape"),
    Operation("attributes", "x.dtype", "np.dtype('float32')"),
    Operation("attributes", "x.device.type", "'cpu'"),
    Operation("attributes", "torch.rand(4, 5).shape", "(4, 5)"),
    Operation("attributes", "torch.randn(4, 5).shape", "(4, 5)"),
    Operation("arithmetic", "x1 + x2"),
    Operation("arithmetic", "x1 - x2"),
    Operation("arithmetic", "x1 * x2"),
    Operation("arithmetic", "x1 / x2"),
    Operation("arithmetic", "3 * x1"),
    Operation("arithmetic", "torch.mm(x1, x2.T)", "x1 @ x2.T"),
    Operation("arithmetic", "torch.sin(x1)", "np.sin(x1)"),
    Operation("arithmetic", "torch.cos(x1)", "np.cos(x1)"),
    Operation("indexing", "x[:, 2]"),
    Operation("indexing", "x[3, :]"),
    Operation("indexing", "x[2, 4]"),
    Operation("selection", "a[a > 0.5]"),
    Operation("selection", "torch.where(a > 0.5, a, 0)", "np.where(a > 0.5, a, 0)"),
    Operation("selection", "(a == a[1, 2]).any()"),
    Operation("joining", "torch.cat([x1, x2], dim=0)", "np.concatenate([x1, x2], axis=0)"),
    Operation("joining", "torch.cat([x1, x2], dim=1)", "np.concatenate([x1, x2], axis=1)"),
    Operation("joining", "torch.stack([x1, x2])", "np.stack([x1, x2])"),
    Operation("transposition", "x1.T"),
    Operation("transposition", "x1.t()", "x1.T"),
    Operation("shape", "tens.view(9, 1)", "tens.reshape(9, 1)"),
    Operation("shape", "tens.view(1, 9)", "tens.reshape(1, 9)"),
    Operation("shape", "tens.view(9)", "tens.reshape(9)"),
    Operation("shape", "tens.view(3, -1, 1)", "tens.reshape(3, -1, 1)"),
    Operation("reduction", "torch.mean(a)", "np.mean(a)"),
    Operation("reduction", "torch.min(a)", "np.min(a)"),
    Operation("reduction", "torch.max(a)", "np.max(a)"),
    Operation("reduction", "torch.argmin(a)", "np.argmin(a)"),
    Operation("reduction", "torch.argmax(a)", "np.argmax(a)"),
    Operation("reduction", "torch.sum(a, dim=0)", "np.sum(a, axis=0)"),
    Operation("casting", "tens.to(torch.float32)", "tens"),
    Operation("casting", "tens.to(torch.float32).mean()", "tens.mean()"),
    Operation("casting", "(10 * a).to(torch.int64)", "np.trunc(10 * a)"),
    Operation("casting", "torch.from_numpy(array).numpy()", "array"),
    Operation("device", "x1.to(device).cpu()", "x1"),
    Operation("device", "(x1.to(device) + torch.ones_like(x1, device=device)).cpu()", "x1 + np.ones_like(x1)"),
]

STATEMENTS = [  # topic, expression that must be true
    ("creation", "torch.tensor(data).dtype == torch.int64 and torch.tensor([1.0]).dtype == torch.float32"),
    ("creation", "torch.from_numpy(array).data_ptr() == array.ctypes.data  # shares NumPy's memory"),
    ("creation", "torch.tensor(array).data_ptr() != array.ctypes.data  # copies"),
    ("random", "0 <= torch.rand(1_000_000).min() and torch.rand(1_000_000).max() < 1  # [0, 1), not [0, 1]"),
    ("random", "abs(torch.rand(1_000_000).mean() - 0.5) < 0.002"),
    ("random", "abs(torch.randn(1_000_000).mean()) < 0.005 and abs(torch.randn(1_000_000).var() - 1) < 0.01"),
    ("broadcasting", "(torch.ones(2, 3) + torch.ones(3)).shape == (2, 3)"),
    ("broadcasting", "(torch.ones(2, 1) * torch.ones(1, 3)).shape == (2, 3)"),
    ("broadcasting", "raises(lambda: torch.ones(2, 3) + torch.ones(2)) == 'RuntimeError'"),
    ("joining", "torch.stack([x1, x2]).shape == (2, *x1.shape)  # a new dimension; cat has none"),
    ("joining", "raises(lambda: torch.stack([x1, x1.T])) == 'RuntimeError'"),
    ("transposition", "raises(lambda: torch.zeros(2, 3, 4).t()) == 'RuntimeError'  # of matrices only"),
    ("transposition", "torch.zeros(2, 3, 4).mT.shape == (2, 4, 3)  # of each matrix; T would turn all three round"),
    ("transposition", "x1.T.data_ptr() == x1.data_ptr() and not x1.T.is_contiguous()"),
    ("shape", "tens.view(9, 1).data_ptr() == tens.data_ptr()  # another look at the same memory"),
    ("shape", "raises(lambda: tens.view(2, 5)) == 'RuntimeError'"),
    (
        "shape",
        "raises(lambda: tens.T.view(9)) == 'RuntimeError' and tens.T.reshape(9).tolist()[:4] == [0, 3, 6, 1]",
    ),
    ("reduction", "a.flatten()[torch.argmax(a)] == torch.max(a)  # a place in the flattened tensor"),
    ("reduction", "torch.equal(torch.min(a, dim=0).values, a.gather(0, torch.argmin(a, dim=0, keepdim=True))[0])"),
    ("casting", "raises(lambda: torch.mean(tens)) != ''  # of integers"),
    ("casting", "torch.tensor([200]).to(torch.int8).item() == -56  # wraps round"),
    ("casting", "torch.tensor([-1.7, 1.7]).to(torch.int32).tolist() == [-1, 1]  # towards zero"),
    ("device", "x1.to(device).device.type == device.type"),
]

# Of one tensor: those that the chapter names, and their neighbours. The chapter says that most take floats only.
INTEGER_FUNCTIONS = (
    *("mean", "min", "max", "argmin", "argmax"),
    *("sum", "prod", "median", "std", "var", "norm", "sort", "abs", "sqrt", "exp", "log", "sin", "cos", "tanh"),
)


def named_arrays(seed: int) -> dict[str, np.ndarray]:
    """Return the arrays that the expressions name: a (3, 4) in [0, 1), x (4, 5), x1 and x2 (2, 3), tens (3, 3)."""
    generator = np.random.default_rng(seed)
    arrays = {
        "a": generator.random((3, 4), dtype=np.float32),
        "x": generator.standard_normal((4, 5), dtype=np.float32),
        "x1": generator.standard_normal((2, 3), dtype=np.float32),
        "x2": generator.standard_normal((2, 3), dtype=np.float32),
        "tens": np.arange(9).reshape(3, 3),
    }
    return arrays


def as_array(value: object) -> np.ndarray:
    """Return a tensor, array, shape, dtype or text as an array that can be compared, numbers in float64."""
    if isinstance(value, torch.dtype | np.dtype | str):
        return np.array(str(value).removeprefix("torch."))
    array = np.asarray(value.numpy() if isinstance(value, torch.Tensor) else value)
    return array if array.dtype == bool else array.astype(float)


def equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Say whether two results of `as_array` are of one shape and agree, numbers within TOLERANCE."""
    if first.shape != second.shape or first.dtype.kind != second.dtype.kind:
        return False
    if first.dtype.kind != "f":
        return bool((first == second).all())
    return bool(np.allclose(first, second, rtol=TOLERANCE, atol=TOLERANCE))


def written(value: object) -> str:
    """Write a result on one line, whole numbers as such, others with six digits."""
    array = as_array(value)
    if array.dtype.kind == "f":
        whole = np.asarray(value).dtype.kind in "iu"
        array = np.vectorize(int if whole else lambda number: float(f"{number:.6g}"), otypes=[object])(array)
    return array.item() if array.dtype.kind == "U" else json.dumps(array.tolist())


def run_operations(seed: int, device: torch.device) -> list[dict[str, str | bool]]:
    """Evaluate every operation on tensors (float32 where not of integers), and NumPy's expression in float64.

    Returns:
        {"topic", "expression", "result", "numpy" (its expression), "agrees"} each.
    """
    arrays, data = named_arrays(seed), [[1, 2], [3, 4]]
    shared = {"data": data, "array": np.array(data)}
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    exact = {name: array.astype(float) for name, array in arrays.items()}
    rows = []
    for topic, expression, numpy_expression in OPERATIONS:
        numpy_expression = numpy_expression or expression
        result = eval(expression, {"torch": torch, "device": device, **shared, **tensors})
        expected = eval(numpy_expression, {"np": np, **shared, **exact})
        rows.append(
            {
                "topic": topic,
                "expression": expression,
                "result": written(result),
                "numpy": numpy_expression,
                "agrees": equal(as_array(result), as_array(expected)),
            }
        )
    return rows


def check_statements(seed: int, device: torch.device) -> list[dict[str, str | bool]]:
    """Evaluate every statement; return {"topic", "statement", "holds"} each. Seed PyTorch before."""
    tensors = {name: torch.from_numpy(array.copy()) for name, array in named_arrays(seed).items()}
    data = [[1, 2], [3, 4]]
    names = {"torch": torch, "raises": raises, "device": device, "data": data, "array": np.array(data), **tensors}
    return [
        {"topic": topic, "statement": statement, "holds": bool(eval(statement, dict(names)))}
        for topic, statement in STATEMENTS
    ]


def refused_integers() -> list[str]:
    """Return which of INTEGER_FUNCTIONS raise an error for a tensor of integers."""
    numbers = torch.arange(1, 10).reshape(3, 3)
    return [name for name in INTEGER_FUNCTIONS if raises(lambda name=name: getattr(torch, name)(numbers))]


def view_shapes(elements: int, dimensions: int) -> list[tuple[int, ...]]:
    """Return every shape of up to `dimensions` dimensions that `view` gives a contiguous tensor of `elements`."""
    candidates = [()]
    found = []
    for _ in range(dimensions):
        candidates = [(*shape, size) for shape in candidates for size in range(1, elements + 1)]
        found += [shape for shape in candidates if not raises(lambda shape=shape: torch.arange(elements).view(*shape))]
    return found
