"""Chapter 3's functions on numbers small enough to check by hand."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from stages.ch03_perceptrons import activations
from stages.ch03_perceptrons.activations import Activation, curves, largest_errors
from stages.ch03_perceptrons.evaluate import (
    best_line,
    least_squares,
    loss_surface,
    rule_differences,
    share_sum_error,
    steps_to,
    weights_of,
    xor_accuracies,
    xor_region,
)
from stages.ch03_perceptrons.facts import all_facts
from stages.ch03_perceptrons.generate import draw_patterns
from stages.ch03_perceptrons.model import MultiLayer, fitted_network
from stages.ch03_perceptrons.train import (
    fit,
    gradient_descent,
    train_multilayer,
    train_xor,
    widrow_hoff,
    widrow_hoff_autograd,
    xor_logits,
)

POINTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
CLASSES = torch.tensor([[0.0], [1.0], [1.0], [0.0]])


def test_no_pattern_is_trained_on_and_tested():
    arrays = draw_patterns(3, 0.1)
    for trained, tested in (("train", "test"), ("fit", "fresh")):
        assert not {row.tobytes() for row in arrays[f"{trained}_inputs"]} & {
            row.tobytes() for row in arrays[f"{tested}_inputs"]
        }


def test_patterns_have_their_shapes_and_follow_the_seed():
    arrays = draw_patterns(3, 0.1)
    assert {name: array.shape for name, array in arrays.items()} == {
        "neuron_inputs": (40, 2),
        "neuron_targets": (40, 1),
        "layer_inputs": (64, 20),
        "layer_targets": (64, 5),
        "xor_inputs": (4, 2),
        "xor_targets": (4, 1),
        "train_inputs": (1000, 100),
        "train_targets": (1000, 1),
        "test_inputs": (1000, 100),
        "test_targets": (1000, 1),
        "fit_inputs": (64, 1000),
        "fit_targets": (64, 10),
        "fresh_inputs": (64, 1000),
        "fresh_targets": (64, 10),
    }
    assert all(array.dtype == np.float32 for array in arrays.values())
    again, other = draw_patterns(3, 0.1), draw_patterns(4, 0.1)
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    assert not np.array_equal(arrays["layer_inputs"], other["layer_inputs"])


def test_targets_are_linear_but_for_the_noise():
    exact, noisy = draw_patterns(3, 0.0), draw_patterns(3, 0.2)
    assert least_squares(exact["train_inputs"], exact["train_targets"]) < 1e-6
    assert least_squares(noisy["train_inputs"], noisy["train_targets"]) == pytest.approx(0.2, rel=0.1)


def test_widrow_hoff_by_hand():
    inputs = np.array([[1.0, 2.0], [3.0, -1.0]], dtype=np.float32)
    targets = np.array([[1.0], [2.0]], dtype=np.float32)
    steps = list(widrow_hoff(inputs, targets, rate=0.1, epochs=1))
    # Y = 0, D − Y = 1: w = 0.1·(1, 2), b = 0.1.
    # Then Y = 0.3 − 0.2 + 0.1 = 0.2, D − Y = 1.8: w += 0.18·(3, −1), b += 0.18.
    np.testing.assert_allclose(steps[0][0], [[0.1, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(steps[0][1], [0.1], rtol=1e-6)
    np.testing.assert_allclose(steps[1][0], [[0.64, 0.02]], rtol=1e-5)
    np.testing.assert_allclose(steps[1][1], [0.28], rtol=1e-6)
    assert len(steps) == 2


@pytest.mark.parametrize("outputs", [1, 5])
def test_the_rule_is_autograd_on_half_the_square_and_on_nothing_else(outputs):
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((30, 7)).astype(np.float32)
    targets = generator.standard_normal((30, outputs)).astype(np.float32)
    rule = list(widrow_hoff(inputs, targets, 0.03, 2))
    half = list(widrow_hoff_autograd(inputs, targets, 0.03, 2, "half"))
    assert len(rule) == len(half) == 60
    for (weight, bias), (other_weight, other_bias) in zip(rule, half, strict=True):
        np.testing.assert_allclose(weight, other_weight, atol=1e-6)
        np.testing.assert_allclose(bias, other_bias, atol=1e-6)
    doubled = list(widrow_hoff_autograd(inputs, targets, 0.03, 2, "sum"))
    np.testing.assert_allclose(doubled[0][0], 2 * rule[0][0], rtol=1e-5)
    assert np.abs(doubled[-1][0] - rule[-1][0]).max() > 0.01


def test_rule_differences_take_the_largest_of_weights_and_biases():
    zeros = np.zeros((2, 1, 2))
    ways = {"a_rule_weight": zeros, "a_autograd_weight": zeros + np.array([[[0, 0.1]], [[0.2, 0]]])}
    ways |= {"a_rule_bias": np.zeros((2, 1)), "a_autograd_bias": np.array([[0.3], [-0.1]])}
    np.testing.assert_allclose(rule_differences(ways, "a"), [0.3, 0.2])


def test_gradient_descent_by_hand():
    inputs, targets = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0], [2.0]])
    path = gradient_descent(inputs, targets, np.array([0.0, 0.0]), 0.5, 1)
    # ∂E/∂w = −mean((D − w·X) X) = −((1·1 + 0)/2, (0 + 2·2)/2) = (−0.5, −2)
    np.testing.assert_allclose(path, [[0, 0], [0.25, 1.0]])


def test_loss_surface_has_its_minimum_and_the_rate_at_which_descent_diverges():
    arrays = draw_patterns(0, 0.1)
    data, start = (arrays["neuron_inputs"], arrays["neuron_targets"]), np.array([-1.0, 2.0])
    path = gradient_descent(*data, start, 0.5, 500)
    surface = loss_surface(*data, path)
    np.testing.assert_allclose(path[-1], surface["minimum"], atol=1e-6)
    row, column = np.unravel_index(surface["surface"].argmin(), surface["surface"].shape)
    step = surface["w1"][1] - surface["w1"][0]
    assert abs(surface["w1"][column] - surface["minimum"][0]) <= step
    assert abs(surface["w2"][row] - surface["minimum"][1]) <= step
    critical = 2 / surface["curvature"].max()
    away = [
        np.linalg.norm(gradient_descent(*data, start, factor * critical, 3000)[-1] - surface["minimum"])
        for factor in (0.99, 1.01)
    ]
    assert away[0] < 1e-3 and away[1] > 1e3


def test_xor_logits_by_hand():
    weights = {
        "weight1": torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]),
        "bias1": torch.tensor([[[0.1, -0.2]]]),
        "weight2": torch.tensor([[[5.0], [-6.0]]]),
        "bias2": torch.tensor([[[0.7]]]),
    }
    expected = 5 * np.tanh(3.1) - 6 * np.tanh(3.8) + 0.7  # at (0, 1)
    assert xor_logits(weights, POINTS)[0, 1].item() == pytest.approx(expected, abs=1e-5)


def test_one_layer_learns_nothing_of_exclusive_or_and_two_do():
    torch.manual_seed(0)
    one = train_xor(POINTS, CLASSES, 0, 0.05, 400, 20)
    two = train_xor(POINTS, CLASSES, 4, 0.05, 400, 20)
    # Cross-entropy is convex in one layer's weights, with its minimum where every output is ½.
    assert (torch.sigmoid(xor_logits(one, POINTS)) - 0.5).abs().max() < 0.02
    solved = xor_accuracies(two, POINTS, CLASSES) == 1
    assert solved.float().mean() > 0.8
    region = xor_region(two, int(solved.float().argmax()))
    near = lambda first, second: region[round((second + 0.5) * 40), round((first + 0.5) * 40)] > 0.5  # noqa: E731
    assert [near(0, 0), near(0, 1), near(1, 0), near(1, 1)] == [False, True, True, False]


def test_a_line_is_right_on_three_of_four_points():
    share, (first, second, bias) = best_line(POINTS, CLASSES)
    sides = POINTS[:, 0] * first + POINTS[:, 1] * second + bias > 0
    assert (sides == (CLASSES[:, 0] > 0.5)).float().mean() == share == 0.75
    # What a line can: 14 of the 16 ways to give four corners two classes, all but exclusive or and its opposite.
    ways = [torch.tensor(way).unsqueeze(1) for way in itertools.product((0.0, 1.0), repeat=4)]
    impossible = [way for way in ways if best_line(POINTS, way)[0] < 1]
    assert len(impossible) == 2
    assert any(torch.equal(way, CLASSES) for way in impossible)


def test_runs_side_by_side_do_not_touch_each_other(monkeypatch):
    torch.manual_seed(0)
    start = {"weight1": torch.randn(3, 2, 1), "bias1": torch.randn(3, 1, 1)}

    def trained(runs: slice) -> torch.Tensor:
        part = {name: value[runs].clone() for name, value in start.items()}
        monkeypatch.setattr("stages.ch03_perceptrons.train.start_xor", lambda hidden, count: part)
        return train_xor(POINTS, CLASSES, 0, 0.1, 20, len(part["bias1"]))["weight1"]

    assert torch.allclose(trained(slice(1, 2))[0], trained(slice(None))[1], atol=1e-6)


def test_activation_curves_are_the_closed_forms():
    computed = curves(101)  # x = 0 among them
    assert max(largest_errors(computed)) < 1e-6
    assert computed["sigmoid"][50] == 0.5 and computed["sigmoid_derivative"][50] == 0.25
    assert set(computed) == {
        "x",
        *activations.ACTIVATIONS,
        *(f"{name}_derivative" for name in activations.ACTIVATIONS),
    }


@pytest.mark.parametrize("points", [2, 31, 200, 1001])
def test_values_do_not_depend_on_where_they_stand(points):
    computed = curves(points)
    for name, activation in activations.ACTIVATIONS.items():
        alone = [activation.function(torch.full((64,), float(x)))[0].item() for x in computed["x"]]
        assert computed[name].tolist() == alone, name


def test_a_wrong_activation_is_found(monkeypatch):
    wrong = Activation(torch.tanh, np.tanh, lambda x: 1 - np.tanh(x))
    monkeypatch.setattr(activations, "ACTIVATIONS", {"tanh": wrong})
    value_error, derivative_error = largest_errors(curves(101))
    assert value_error < 1e-6 < 0.1 < derivative_error


def test_every_fact_holds():
    torch.manual_seed(1)
    facts = all_facts()
    assert [fact for fact in facts if not fact["holds"]] == []
    assert {fact["figure"] for fact in facts} == {"25", "26", "27", "32", "33", "34", "35", "text"}


def test_relu_on_the_output_hides_what_is_below_zero():
    torch.manual_seed(0)
    inputs = torch.randn(50, 100)
    linear, relu = MultiLayer("linear"), MultiLayer("relu")
    relu.load_state_dict(linear.state_dict())
    assert torch.equal(relu(inputs), linear(inputs).clamp(min=0))
    assert (linear(inputs) < 0).any()


def test_multilayer_learns():
    torch.manual_seed(0)
    inputs = torch.randn(50, 100)
    targets = inputs[:, :1]
    weights = train_multilayer(inputs, targets, "linear", 0.01, 60)
    model = MultiLayer()
    model.load_state_dict(weights)
    assert nn.functional.mse_loss(model(inputs), targets) < 0.01 * targets.var()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
def test_fit_is_the_loop_of_fig_35(optimizer):
    torch.manual_seed(0)
    inputs, targets = torch.randn(8, 1000), torch.randn(8, 10)
    start = {name: value.clone() for name, value in fitted_network().state_dict().items()}
    losses, weights = fit(inputs, targets, optimizer, 1e-3, 3, start)
    model = fitted_network()
    model.load_state_dict(start)
    method = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}[optimizer]
    method = method(model.parameters(), lr=1e-3)
    for expected in losses:
        loss = ((model(inputs) - targets) ** 2).sum()
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        method.zero_grad()
        loss.backward()
        method.step()
    assert all(torch.allclose(value, weights[name], atol=1e-6) for name, value in model.state_dict().items())


def test_softmax_without_a_dimension_sums_over_the_first_of_three():
    torch.manual_seed(0)
    assert share_sum_error("last") < 1e-6
    assert share_sum_error("implicit") > 0.1


def test_steps_to_counts_steps_done_until_the_loss_stays():
    assert steps_to([100.0, 50.0, 0.9, 0.1], 0.01) == 2
    assert steps_to([100.0, 0.9, 50.0, 0.1, 0.2], 0.01) == 3
    assert steps_to([100.0, 50.0], 0.01) is None
    assert steps_to([100.0, 0.9, 50.0], 0.01) is None


def test_weights_of_takes_one_network_by_its_whole_name():
    weights = {"multilayer1.a.weight": 1, "multilayer10.a.weight": 2}
    assert weights_of(weights, "multilayer1") == {"a.weight": 1}
