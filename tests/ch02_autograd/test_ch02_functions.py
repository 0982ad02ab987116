"""Chapter 2's functions on numbers small enough to check by hand."""

import numpy as np
import pytest
import torch

from stages.ch02_autograd.book_tables import FIG_20, FIG_23
from stages.ch02_autograd.evaluate import (
    difference_quotients,
    exact_gradients,
    first_zero,
    graph_with_gradients,
    largest_difference,
    passes_gradcheck,
    printed,
    rows_equal,
)
from stages.ch02_autograd.facts import all_facts
from stages.ch02_autograd.generate import line
from stages.ch02_autograd.graph import example, walk
from stages.ch02_autograd.train import descend_autograd, descend_func, descend_numpy, numpy_gradient
from stages.common.facts import raises

INPUTS, TARGETS = line(4, 3.0)


def test_the_books_points():
    assert INPUTS.tolist() == [1, 2, 3, 4]
    assert TARGETS.tolist() == [3, 6, 9, 12]
    assert INPUTS.dtype == TARGETS.dtype == np.float32


def test_gradient_by_hand():
    # At w = 0: 2x·(0 − 3x) = −6x², for x = 1 … 4: −6, −24, −54, −96.
    assert numpy_gradient(np.float32(0), INPUTS, TARGETS, "mean") == -45
    assert numpy_gradient(np.float32(0), INPUTS, TARGETS, "sum") == -180


def test_first_steps_by_hand():
    run = descend_numpy(INPUTS, TARGETS, 0.0, 0.02, 2, "mean")
    # w = 0.02·45 = 0.9; then 3 − w shrinks by 1 − 0.02·15 = 0.7 each time. The loss is 7.5·(3 − w)².
    np.testing.assert_allclose(run["weight"], [0.9, 3 - 2.1 * 0.7], rtol=1e-6)
    np.testing.assert_allclose(run["loss"], [67.5, 7.5 * 2.1**2], rtol=1e-6)
    np.testing.assert_allclose(run["gradient"], [-45, -15 * 2.1], rtol=1e-6)


def test_the_sum_gives_fig_20():
    run = descend_numpy(INPUTS, TARGETS, 0.0, 0.02, 15, "sum")
    rows = printed(run["weight"], run["loss"])
    assert {iteration: rows[iteration - 1] for iteration in FIG_20} == FIG_20
    assert first_zero(rows) == 9


@pytest.mark.parametrize("descend", [descend_autograd, descend_func])
def test_autograd_gives_fig_23(descend):
    run = descend(INPUTS, TARGETS, 0.0, 0.02, 50)
    rows = printed(run["weight"], run["loss"])
    assert {iteration: rows[iteration - 1] for iteration in FIG_23} == FIG_23


def test_all_three_ways_agree_from_any_start():
    inputs, targets = line(7, -1.3)
    runs = [descend_numpy(inputs, targets, 0.7, 0.01, 30, "mean")]
    runs += [descend(inputs, targets, 0.7, 0.01, 30) for descend in (descend_autograd, descend_func)]
    for run in runs[1:]:
        for name in ("weight", "loss", "gradient"):
            np.testing.assert_allclose(run[name], runs[0][name], rtol=1e-5, atol=1e-6)
    assert abs(runs[0]["weight"][-1] + 1.3) < 1e-3


def test_exact_gradients_and_quotients_by_hand():
    weights = np.array([0.0, 1.0], dtype=np.float32)
    np.testing.assert_allclose(exact_gradients(weights, INPUTS, TARGETS), [-45, -30])
    # The loss is quadratic, so that the central quotient is exact but for rounding, which a small step magnifies.
    np.testing.assert_allclose(difference_quotients(weights, INPUTS, TARGETS, 0.5), [-45, -30], rtol=1e-5)
    assert largest_difference(difference_quotients(weights, INPUTS, TARGETS, 1e-5), np.array([-45, -30])) > 0.01


def test_gradcheck_passes_and_can_fail(monkeypatch):
    assert passes_gradcheck(INPUTS, TARGETS, 0.0)
    monkeypatch.setattr(torch.Tensor, "__pow__", lambda tensor, _: tensor * tensor.detach())  # half the derivative
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        passes_gradcheck(INPUTS, TARGETS, 0.0)


def test_rows_equal_counts_digit_for_digit():
    rows = [("0.900", "67.50000000"), ("1.000", "0.00000000")]
    assert rows_equal({1: rows[0], 2: ("1.000", "0.00000001"), 5: rows[1]}, rows) == 1
    assert (first_zero(rows), first_zero(rows[:1])) == (2, 0)


def test_largest_difference_looks_at_shared_iterations():
    assert largest_difference(np.array([1.0, 2.0, 9.0]), np.array([1.5, 2.0])) == 0.5


def test_every_fact_holds():
    torch.manual_seed(1)
    facts = all_facts()
    assert [fact for fact in facts if not fact["holds"]] == []
    assert {fact["figure"] for fact in facts} == {"10", "11", "13", "14", "16", "17", "text"}


def test_raises_names_the_exception():
    assert raises(lambda: 1 / 0) == "ZeroDivisionError"
    assert raises(lambda: 1) == ""


def test_walk_reads_a_graph_that_is_known():
    x, y = torch.tensor(2.0, requires_grad=True), torch.tensor(5.0)
    product = x * y
    graph = walk(product.exp() + x, {"x": x, "p": product})
    found = {(node["operation"], node["name"], node["depth"]) for node in graph["nodes"]}
    assert found == {
        ("AddBackward0", "", 0),
        ("ExpBackward0", "", 1),
        ("MulBackward0", "p", 2),
        ("AccumulateGrad", "x", 3),  # by its longest path, though the sum uses it directly, too
    }
    operation = [node["operation"] for node in graph["nodes"]]
    assert sorted((operation[start], operation[end]) for start, end in graph["edges"]) == [
        ("AddBackward0", "AccumulateGrad"),
        ("AddBackward0", "ExpBackward0"),
        ("ExpBackward0", "MulBackward0"),
        ("MulBackward0", "AccumulateGrad"),  # the constant y is no node
    ]


def test_gradients_of_fig_9_by_the_chain_rule():
    value = {name: tensor.item() for name, tensor in example().items()}
    assert value["d"] == value["w3"] * value["b"] + value["w4"] * value["c"]
    outer = 2 * value["d"]
    expected = {
        "L": 1.0,
        "d": outer,
        "b": outer * value["w3"],
        "c": outer * value["w4"],
        "w1": outer * value["w3"] * value["a"],
        "w2": outer * value["w4"] * value["a"],
        "w3": outer * value["b"],
        "w4": outer * value["c"],
        "a": outer * (value["w3"] * value["w1"] + value["w4"] * value["w2"]),
    }
    graph = graph_with_gradients()
    assert {node["name"]: node["gradient"] for node in graph["nodes"] if node["name"]} == pytest.approx(expected)
    assert (len(graph["nodes"]), len(graph["edges"])) == (11, 11)  # nine tensors with names, and the two products
