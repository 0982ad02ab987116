"""Gaussian-process regression. A network of one hidden layer becomes such a process as the layer grows without bound.

Neal, "Bayesian Learning for Neural Networks", 1996, chapter 2; the kernel depends on the network, and this one is
chosen by validation. Its fit has no random start and finds by itself how much each feature counts, and so it errs
elsewhere than the networks: in cross-validation the average of the two does better than either
(benchmarks/housing_shares.py).

Equations: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006.

Letters of the shapes: R runs, N rows that may be learnt from, Q rows asked about, F features.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from stages.common.optimizers import Adam
from stages.common.roots import square_root

START_LENGTH = 3.0  # in deviations of a feature
START_NOISE = START_GROUPS = 0.1  # variances
CHOLESKY_JITTER = 1e-6


class GaussianProcess(nn.Module):
    """R independent Gaussian processes with mean zero, (R, Q, F) → (R, Q).

    The kernel is Matérn's with ν = 3/2, s·(1 + √3·d)·exp(−√3·d) with d² = Σ_f (x_f − x'_f)²/l_f² (Rasmussen and
    Williams, equation 4.17): its functions bend more sharply than those of the squared exponential. Each feature has a
    length scale of its own (section 5.1). With `grouped`, some of the features, rows that have the same values of these
    also share an effect of variance g, whatever the values: a random effect of their group, as in mixed models.
    """

    def __init__(self, runs: int, rows: int, features: int, grouped: Sequence[int] = ()):
        super().__init__()
        self.grouped = tuple(grouped)
        logs = [0.0, math.log(START_NOISE)] + [math.log(START_LENGTH)] * features
        if self.grouped:
            logs.append(math.log(START_GROUPS))
        # Logarithms of s, the noise's variance, all l_f, and of g if there are groups: (R, 2 + F) or (R, 3 + F).
        self.register_buffer("log_scales", torch.tensor(logs, dtype=torch.float64).repeat(runs, 1))
        self.register_buffer("rows", torch.zeros(runs, rows, features, dtype=torch.float64))
        self.register_buffer("weights", torch.zeros(runs, rows, dtype=torch.float64))  # zero: not learnt from

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the posterior mean at inputs (R, Q, F), equation 2.25: (R, Q), in double precision."""
        runs = zip(inputs.double(), self.rows, self.log_scales, strict=True)
        kernels = [kernel(*run, self.grouped) for run in runs]  # (Q, N) each
        return torch.stack([part @ weights for part, weights in zip(kernels, self.weights, strict=True)])

    def fit(self, inputs: torch.Tensor, targets: torch.Tensor, learnt: torch.Tensor, steps: int, rate: float) -> None:
        """Fit each run to its own rows by the marginal likelihood.

        Args:
            inputs: shape (R, N, F), standardised.
            targets: shape (R, N), with mean zero over the rows learnt from.
            learnt: shape (R, N), true where a run may learn from a row.
        """
        for run, chosen in enumerate(learnt):
            same = [earlier for earlier in range(run) if torch.equal(learnt[earlier], chosen)]
            if same:  # nothing random here: runs that differ in their seed alone have the same process
                for values in (self.log_scales, self.rows, self.weights):
                    values[run] = values[same[0]]
                continue
            rows, values = inputs[run, chosen], targets[run, chosen]
            # Single precision is enough to find the scales, in half the time; the weights get all digits.
            start = self.log_scales[run].to(rows.dtype)
            self.log_scales[run] = likeliest_scales(rows, values, start, steps, rate, self.grouped)
            rows, values = rows.double(), values.double()
            self.rows[run, chosen] = rows
            factor = torch.linalg.cholesky(covariance(rows, self.log_scales[run], self.grouped))
            self.weights[run, chosen] = torch.cholesky_solve(values.unsqueeze(1), factor).squeeze(1)


def kernel(
    left: torch.Tensor, right: torch.Tensor, log_scales: torch.Tensor, grouped: Sequence[int] = ()
) -> torch.Tensor:
    """Return the kernel between each of left (Q, F) and each of right (N, F): (Q, N)."""
    distances = scaled_distances(left, right, log_scales)
    smooth = log_scales[0].exp() * (1 + distances) * (-distances).exp()
    return smooth + log_scales[-1].exp() * same_group(left, right, grouped) if grouped else smooth


def same_group(left: torch.Tensor, right: torch.Tensor, grouped: Sequence[int]) -> torch.Tensor:
    """Return (Q, N): true where a row of left (Q, F) and one of right (N, F) have the same values of `grouped`."""
    # Not len(), for which an exported model would take batches of one size alone.
    same = torch.ones(left.shape[0], right.shape[0], dtype=torch.bool)
    for feature in grouped:
        same &= left[:, feature, None] == right[:, feature]
    return same


def scaled_distances(left: torch.Tensor, right: torch.Tensor, log_scales: torch.Tensor) -> torch.Tensor:
    """Return √3·d between each of left (Q, F) and each of right (N, F), (Q, N), by one matrix product."""
    lengths = log_scales[2 : 2 + left.shape[1]].exp()
    left, right = (rows * math.sqrt(3) / lengths for rows in (left, right))
    squares = left.square().sum(1, keepdim=True) + right.square().sum(1) - 2 * left @ right.T
    return square_root(squares.clamp_min(0))  # rounding leaves some squares of equal rows below zero


def covariance(rows: torch.Tensor, log_scales: torch.Tensor, grouped: Sequence[int] = ()) -> torch.Tensor:
    """Return the covariance (N, N) of noisy observations at rows (N, F), equation 2.20."""
    noise = log_scales[1].exp() + CHOLESKY_JITTER
    return kernel(rows, rows, log_scales, grouped) + noise * torch.eye(len(rows), dtype=rows.dtype)


def log_likelihood(
    rows: torch.Tensor, targets: torch.Tensor, log_scales: torch.Tensor, grouped: Sequence[int] = ()
) -> torch.Tensor:
    """Return the log marginal likelihood of targets (N,) at rows (N, F), equation 2.30."""
    factor = torch.linalg.cholesky(covariance(rows, log_scales, grouped))
    fit = targets @ torch.cholesky_solve(targets.unsqueeze(1), factor).squeeze(1)
    return -fit / 2 - factor.diagonal().log().sum() - len(targets) / 2 * math.log(2 * math.pi)


def likeliest_scales(
    rows: torch.Tensor,
    targets: torch.Tensor,
    start: torch.Tensor,
    steps: int,
    rate: float,
    grouped: Sequence[int] = (),
) -> torch.Tensor:
    """Return the logarithms of the scales after `steps` of Adam towards the highest marginal likelihood."""
    log_scales = start.clone()
    same = same_group(rows, rows, grouped) if grouped else None
    stepper = Adam([log_scales], lr=rate)
    for _ in range(steps):
        log_scales.grad = -likelihood_gradient(rows, targets, log_scales, same)
        stepper.step()
    return log_scales


def likelihood_gradient(
    rows: torch.Tensor, targets: torch.Tensor, log_scales: torch.Tensor, same: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the gradient of `log_likelihood` by log_scales, of the same shape, quicker than autograd.

    With groups `same`, (N, N), says which rows are of one.

    By the covariance K it is G = ½(K⁻¹yyᵀK⁻¹ − K⁻¹), equation 5.9. By log s and log g, K's derivatives are Matérn's
    kernel and the groups' part; by log l_f it is 3s·exp(−√3·d)·(x_f − x'_f)²/l_f², and with W = G∘3s·exp(−√3·d)

        Σ_ij W_ij (x_i − x_j)² = 2 (Σ_i x_i² Σ_j W_ij − Σ_i x_i (W x)_i).
    """
    variance, noise = log_scales[:2].exp()
    lengths = log_scales[2 : 2 + rows.shape[1]].exp()
    distances = scaled_distances(rows, rows, log_scales)
    decay = variance * (-distances).exp()
    signal = (1 + distances) * decay
    group_effect = torch.zeros_like(signal) if same is None else log_scales[-1].exp() * same
    matrix = signal + group_effect
    matrix.diagonal().add_(noise + CHOLESKY_JITTER)
    # In double precision: in single, MKL's factor differs between the processors of two makers.
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix.double())).to(rows.dtype)
    solved = inverse @ targets
    by_matrix = (torch.outer(solved, solved) - inverse) / 2
    variances = torch.stack([(by_matrix * signal).sum(), noise * by_matrix.trace()])
    weights = 3 * by_matrix * decay
    by_squares = 2 * (weights.sum(1) @ rows.square() - (rows * (weights @ rows)).sum(0))  # (F,)
    by_groups = (by_matrix * group_effect).sum().unsqueeze(0)
    return torch.cat([variances, by_squares / lengths.square(), by_groups])[: len(log_scales)]
