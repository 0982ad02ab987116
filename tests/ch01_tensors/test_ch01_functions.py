"""Chapter 1's functions: products by hand, checks that can fail, a clock that waits."""

import numpy as np
import pytest
import torch

from stages.ch01_tensors import expressions
from stages.ch01_tensors.benchmark import measure, median_seconds
from stages.ch01_tensors.evaluate import rounding_errors, transposed_difference
from stages.ch01_tensors.expressions import (
    OPERATIONS,
    Operation,
    check_statements,
    equal,
    named_arrays,
    refused_integers,
    run_operations,
    view_shapes,
    written,
)
from stages.ch01_tensors.products import PRODUCTS, draw_matrices, operations
from stages.common.facts import raises

CPU = torch.device("cpu")


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_products_by_hand(product):
    x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    assert product(x, y).tolist() == [[19, 22], [43, 50]]
    assert product(x[:1], y).tolist() == [[19, 22]]  # fewer rows than columns


def test_operations_by_hand():
    assert operations(2) == 16  # four elements of two multiplications and two additions each
    assert operations(1000) == 2_000_000_000


def test_matrices():
    x, y = draw_matrices(3, "normal", seed=1)
    again = draw_matrices(3, "normal", seed=1)
    assert torch.equal(x, again[0]) and torch.equal(y, again[1]) and not torch.equal(x, y)
    assert not torch.equal(x, draw_matrices(3, "normal", seed=2)[0])
    assert all(torch.equal(matrix, torch.ones(3, 3)) for matrix in draw_matrices(3, "ones", seed=1))


def test_the_clock_waits_before_and_behind_each_action(monkeypatch):
    calls, clock = [], iter([0.0, 5.0, 10.0, 11.0, 20.0, 23.0])

    def now():
        calls.append("clock")
        return next(clock)

    monkeypatch.setattr("stages.ch01_tensors.benchmark.time.perf_counter", now)
    seconds = median_seconds(lambda: calls.append("action"), 3, 2, lambda: calls.append("wait"))
    assert seconds == 3.0  # of 5, 1 and 3
    assert calls == ["action"] * 2 + ["wait", "clock", "action", "wait", "clock"] * 3


def test_every_method_is_measured_and_the_loops_up_to_their_limit():
    results = measure([4, 8], 4, "normal", 0, 1, 0, True)
    assert {name: list(rows) for name, rows in results.items() if name != "cuda"} == {
        "loops": ["4"],
        "rows": ["4", "8"],
        "mm": ["4", "8"],
    }
    for rows in results.values():
        for size, row in rows.items():
            assert row["gflops"] == pytest.approx(2 * int(size) ** 3 / row["seconds"] / 1e9, rel=1e-3)


def test_all_operations_agree_with_numpy():
    rows = run_operations(3, CPU)
    assert [row["expression"] for row in rows if not row["agrees"]] == []
    assert len(rows) == len(OPERATIONS)


@pytest.mark.parametrize(
    "wrong",
    [
        Operation("wrong value", "x1 + x2", "x1 - x2"),
        Operation("wrong shape", "x1", "x1.T"),
        Operation("wrong dtype", "x1.dtype", "np.dtype('float64')"),
        Operation("wrong answer", "(a > 2).any()", "True"),
        Operation("number for an answer", "a.sum() > 0", "1"),
        Operation("another rounding", "x1 * (1 + 1e-5)", "x1"),
    ],
    ids=lambda operation: operation.topic,
)
def test_a_wrong_operation_is_found(monkeypatch, wrong):
    monkeypatch.setattr(expressions, "OPERATIONS", [wrong])
    (row,) = run_operations(3, CPU)
    assert row["agrees"] is False


def test_everything_that_the_chapter_names_is_there():
    text = " ".join(operation.expression for operation in OPERATIONS)
    names = """torch.tensor torch.from_numpy HalfTensor ShortTensor CharTensor FloatTensor IntTensor ByteTensor
        DoubleTensor LongTensor BoolTensor .shape .dtype .device torch.rand( torch.randn( torch.zeros( torch.ones(
        torch.diag( + - * / x[:, x[3, x[2, a[a torch.cat torch.stack .T .t() .view( torch.mean torch.min torch.max
        torch.argmin torch.argmax .to(torch.float32) .to(device) ones_like torch.mm"""
    assert [name for name in names.split() if name not in text] == []


def test_results_are_written_on_one_line():
    assert written(torch.tensor([[1, 2], [3, 4]])) == "[[1, 2], [3, 4]]"
    assert written(torch.tensor([[1.0, 2.5]])) == "[[1.0, 2.5]]"
    assert written(torch.tensor(7)) == "7"
    assert written(torch.tensor(1 / 3)) == "0.333333"
    assert written(torch.tensor(True)) == "true"
    assert written(torch.float16) == "float16"
    assert written(torch.zeros(2, 3).shape) == "[2, 3]"


def test_equal_looks_at_shape_kind_and_value():
    one = np.array([1.0])
    assert equal(one, one + 1e-7)
    assert not equal(one, one + 1e-5)
    assert not equal(one, np.array(1.0))
    assert not equal(one, np.array([True]))


def test_every_statement_holds():
    torch.manual_seed(1)
    assert [row["statement"] for row in check_statements(3, CPU) if not row["holds"]] == []


def test_a_false_statement_is_found(monkeypatch):
    monkeypatch.setattr(expressions, "STATEMENTS", [("random", "torch.rand(10).max() > 1")])
    assert check_statements(3, CPU) == [{"topic": "random", "statement": "torch.rand(10).max() > 1", "holds": False}]


def test_functions_that_refuse_integers():
    assert refused_integers() == ["mean", "std", "var", "norm"]
    assert (raises(lambda: 1 / 0), raises(lambda: 1)) == ("ZeroDivisionError", "")


def test_shapes_of_a_view_by_hand():
    assert view_shapes(4, 2) == [(4,), (1, 4), (2, 2), (4, 1)]
    assert len(view_shapes(9, 3)) == 10


def test_arrays_have_something_to_select():
    arrays = named_arrays(0)
    assert 0 < (arrays["a"] > 0.5).sum() < arrays["a"].size
    assert {name: array.shape for name, array in arrays.items()} == {
        "a": (3, 4),
        "x": (4, 5),
        "x1": (2, 3),
        "x2": (2, 3),
        "tens": (3, 3),
    }


def test_rounding_errors_are_those_of_the_products():
    errors = rounding_errors([4, 16], "normal", 2, seed=1)
    x, y = (matrix.numpy() for matrix in draw_matrices(16, "normal", seed=1))
    exact = x[:2].astype(float) @ y.astype(float)
    for name, product in PRODUCTS.items():
        difference = product(torch.from_numpy(x[:2]), torch.from_numpy(y)).numpy() - exact
        expected = np.sqrt((difference**2).mean() / (exact**2).mean())
        assert errors[name][1] == pytest.approx(expected, rel=1e-6)
        assert 0 < errors[name][1] < 1e-6


def test_ones_show_no_error_at_all():
    assert {name: values.tolist() for name, values in rounding_errors([8], "ones", 8, 0).items()} == {
        name: [0.0] for name in PRODUCTS
    }
    assert transposed_difference(8, "ones", 0) == 0 < 1 < transposed_difference(8, "normal", 0)
