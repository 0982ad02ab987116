"""Chapter 4's Gaussian process against formulas worked out another way."""

import math

import numpy as np
import pytest
import torch
from sklearn.gaussian_process.kernels import Matern

from stages.ch04_housing.gaussian_process import (
    GaussianProcess,
    covariance,
    kernel,
    likeliest_scales,
    likelihood_gradient,
    log_likelihood,
    same_group,
)


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (40, 3) whose targets (40,) follow from the first feature alone."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(40, generator=generator, dtype=torch.float64)
    targets = (2 * rows[:, 0]).sin() + 0.05 * noise
    return rows, targets - targets.mean()


@pytest.fixture
def grouped_problem(problem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows (40, 4), the last feature the group, one of eight; targets (40,), and the effect of each group (8,)."""
    rows, targets = problem
    groups = torch.arange(40) % 8
    # One number after the other has effects that no smooth function of the number has.
    effects = torch.tensor([1.0, -1.0, 0.6, -0.8, 0.9, -0.7, 1.1, -1.1], dtype=torch.float64)
    return torch.cat([rows, groups[:, None].double()], dim=1), targets + effects[groups], effects


def scales(features: int = 3, grouped: tuple[int, ...] = ()) -> torch.Tensor:
    return GaussianProcess(1, 1, features, grouped).log_scales[0]


def test_kernel_by_hand():
    # s = 2, a noise that the kernel has no part in, l_f = (1, 4).
    log_scales = torch.tensor([2.0, 9.0, 1.0, 4.0], dtype=torch.float64).log()
    left = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    right = torch.tensor([[0.0, 0.0], [1.0, 4.0]], dtype=torch.float64)
    far = 2 * (1 + math.sqrt(3 * 2)) * math.exp(-math.sqrt(3 * 2))
    torch.testing.assert_close(kernel(left, right, log_scales), torch.tensor([[2.0, far]], dtype=torch.float64))


def test_kernel_of_groups_by_hand():
    # s = 2, l_f = (1, 4), g = 0.5: rows alike in the second feature share g, however far they are in the first.
    log_scales = torch.tensor([2.0, 9.0, 1.0, 4.0, 0.5], dtype=torch.float64).log()
    left = torch.tensor([[0.0, 7.0]], dtype=torch.float64)
    right = torch.tensor([[0.0, 7.0], [100.0, 7.0], [0.0, 7.001]], dtype=torch.float64)
    expected = torch.tensor([[2.5, 0.5, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(kernel(left, right, log_scales, (1,)), expected, rtol=0, atol=1e-6)
    # A group is alike in all of its features.
    expected = torch.tensor([[2.5, 0.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(kernel(left, right, log_scales, (0, 1)), expected, rtol=0, atol=1e-6)


def test_kernel_is_scikit_learns(problem):
    rows, _ = problem
    log_scales = torch.tensor([3.0, 9.0, 0.5, 2.0, 7.0], dtype=torch.float64).log()
    expected = 3 * Matern(length_scale=[0.5, 2.0, 7.0], nu=1.5)(rows.numpy())
    np.testing.assert_allclose(kernel(rows, rows, log_scales).numpy(), expected, atol=1e-12)


def test_likelihood_is_that_of_a_normal_distribution(problem):
    rows, targets = problem
    matrix = covariance(rows, scales())
    expected = torch.distributions.MultivariateNormal(torch.zeros(40).double(), matrix).log_prob(targets)
    torch.testing.assert_close(log_likelihood(rows, targets, scales()), expected)


def test_gradient_is_the_limit_of_differences(problem):
    rows, targets = problem
    # Everything apart from everything else, so that no part can stand for another.
    start = scales() + torch.linspace(-0.5, 0.7, 5, dtype=torch.float64)
    found = likelihood_gradient(rows, targets, start)
    steps = 1e-5 * torch.eye(5, dtype=torch.float64)
    around = [[log_likelihood(rows, targets, start + sign * step) for sign in (1, -1)] for step in steps]
    differences = torch.stack([(above - below) / 2e-5 for above, below in around])
    torch.testing.assert_close(found, differences, rtol=1e-6, atol=1e-6)
    assert (found.abs() > 1e-3).all()


def test_gradient_with_groups_is_the_limit_of_differences(grouped_problem):
    rows, targets, _ = grouped_problem
    start = scales(4, (3,)) + torch.linspace(-0.5, 0.7, 7, dtype=torch.float64)
    found = likelihood_gradient(rows, targets, start, same_group(rows, rows, (3,)))
    steps = 1e-5 * torch.eye(7, dtype=torch.float64)
    around = [[log_likelihood(rows, targets, start + sign * step, (3,)) for sign in (1, -1)] for step in steps]
    differences = torch.stack([(above - below) / 2e-5 for above, below in around])
    torch.testing.assert_close(found, differences, rtol=1e-6, atol=1e-6)
    assert (found.abs() > 1e-3).all()


def test_rows_learn_from_those_of_their_group(grouped_problem):
    rows, targets, effects = grouped_problem
    processes = {}
    for grouped in [(), (3,)]:
        processes[grouped] = GaussianProcess(1, 40, 4, grouped)
        learnt = torch.ones(1, 40, dtype=torch.bool)
        processes[grouped].fit(rows[None], targets[None], learnt, steps=150, rate=0.1)
    asked = torch.zeros(8, 4, dtype=torch.float64)
    asked[:, 3] = torch.arange(8)
    found = processes[(3,)](asked[None])[0]
    torch.testing.assert_close(found - found.mean(), effects - effects.mean(), rtol=0, atol=0.2)
    asked[:, 3] += 0.01  # in no group now, with all else as good as the same
    without = processes[(3,)](asked[None])[0]
    assert (found - without).abs().min() > 0.3
    # Where a group is nothing but a number, the same number says as much as one beside it.
    smooth = processes[()](asked[None])[0]
    asked[:, 3] -= 0.01
    torch.testing.assert_close(processes[()](asked[None])[0], smooth, rtol=0, atol=0.1)


def test_first_step_goes_uphill(problem):
    rows, targets = problem
    moved = likeliest_scales(rows, targets, scales(), steps=1, rate=0.1) - scales()
    expected = 0.1 * likelihood_gradient(rows, targets, scales()).sign()
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)  # Adam's first step


def test_fit_finds_which_feature_counts(problem):
    rows, targets = problem
    fitted = likeliest_scales(rows, targets, scales(), steps=150, rate=0.1)
    assert log_likelihood(rows, targets, fitted) > log_likelihood(rows, targets, scales())
    first, *others = fitted[2:].tolist()
    assert all(other > first + 1 for other in others)


@pytest.mark.parametrize("grouped", [(), (3,)])
def test_each_run_knows_its_own_rows_alone(grouped_problem, grouped):
    rows, targets, _ = grouped_problem
    learnt = torch.zeros(3, 40, dtype=torch.bool)
    learnt[0, :30], learnt[1, 10:], learnt[2, :30] = True, True, True
    process = GaussianProcess(3, 40, 4, grouped)
    process.fit(rows.expand(3, -1, -1), targets.expand(3, -1), learnt, steps=5, rate=0.1)
    assert not process.rows[0, 30:].any() and not process.weights[1, :10].any()
    expected = process(rows.expand(3, -1, -1))
    for run in range(3):
        alone = GaussianProcess(1, 40, 4, grouped)
        alone.fit(rows[None], targets[None], learnt[run, None], steps=5, rate=0.1)
        torch.testing.assert_close(alone(rows[None])[0], expected[run], rtol=0, atol=0)
        # The textbook's formula: k(x, X)(K + σ²I)⁻¹y.
        chosen = rows[learnt[run]]
        matrix = covariance(chosen, alone.log_scales[0], grouped).numpy()
        weights = np.linalg.solve(matrix, targets[learnt[run]].numpy())
        posterior = kernel(rows, chosen, alone.log_scales[0], grouped).numpy() @ weights
        np.testing.assert_allclose(expected[run].numpy(), posterior, atol=1e-8)
