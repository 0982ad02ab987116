"""Gaussian-process regression: what a network of one hidden layer becomes as the layer grows without bound.

Neal, "Bayesian Learning for Neural Networks", 1996, chapter 2. Its fit has no random start and finds by itself how much
each feature counts, and so it errs elsewhere than the networks: averaged, the two do better than either.
Equations: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006.

Letters of the shapes: R runs, N rows that may be learnt from, Q rows asked about, F features.
"""

import math

import torch
from torch import nn

from stages.common.optimizers import Adam

START_LENGTH, START_SHARED_LENGTH, START_NOISE = 3.0, 10.0, 0.1  # in deviations of a feature; a variance
CHOLESKY_JITTER = 1e-6


class GaussianProcess(nn.Module):
    """R independent Gaussian processes with mean zero, (R, Q, F) → (R, Q).

    The kernel is s₁·exp(−½ Σ_f (x_f − x'_f)²/l_f²) + s₂·exp(−½ |x − x'|²/l²): the first part gives each feature a
    length scale of its own (Rasmussen and Williams, equation 5.2), the second is smooth in all of them.
    """

    def __init__(self, runs: int, rows: int, features: int):
        super().__init__()
        logs = [0.0, 0.0, math.log(START_NOISE), math.log(START_SHARED_LENGTH)] + [math.log(START_LENGTH)] * features
        # Logarithms of s₁, s₂, the noise's variance, l and all l_f.
        self.register_buffer("log_scales", torch.tensor(logs, dtype=torch.float64).repeat(runs, 1))  # (R, 4 + F)
        self.register_buffer("rows", torch.zeros(runs, rows, features, dtype=torch.float64))
        self.register_buffer("weights", torch.zeros(runs, rows, dtype=torch.float64))  # zero: not learnt from

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the posterior mean at inputs (R, Q, F), equation 2.25: (R, Q), in double precision."""
        kernels = [kernel(*run) for run in zip(inputs.double(), self.rows, self.log_scales, strict=True)]  # (Q, N) each
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
            self.log_scales[run] = likeliest_scales(rows, values, self.log_scales[run].to(rows.dtype), steps, rate)
            rows, values = rows.double(), values.double()
            self.rows[run, chosen] = rows
            factor = torch.linalg.cholesky(covariance(rows, self.log_scales[run]))
            self.weights[run, chosen] = torch.cholesky_solve(values.unsqueeze(1), factor).squeeze(1)


def kernel(left: torch.Tensor, right: torch.Tensor, log_scales: torch.Tensor) -> torch.Tensor:
    """Return the kernel between each of left (Q, F) and each of right (N, F): (Q, N)."""
    own, shared = kernel_parts(left, right, log_scales)
    return own + shared


def kernel_parts(
    left: torch.Tensor, right: torch.Tensor, log_scales: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the kernel's two parts, (Q, N) each: with a length for each feature, and with one for all."""
    first, second, _, length = log_scales[:4].exp()
    lengths = log_scales[4:].exp()
    own = squared_distances(left / lengths, right / lengths)
    shared = squared_distances(left / length, right / length)
    return first * (-own / 2).exp(), second * (-shared / 2).exp()


def squared_distances(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return |x − x'|² of each row of left (Q, F) and right (N, F), (Q, N), as one matrix product."""
    return left.square().sum(1, keepdim=True) + right.square().sum(1) - 2 * left @ right.T


def covariance(rows: torch.Tensor, log_scales: torch.Tensor) -> torch.Tensor:
    """Return the covariance (N, N) of noisy observations at rows (N, F), equation 2.20."""
    noise = log_scales[2].exp() + CHOLESKY_JITTER
    return kernel(rows, rows, log_scales) + noise * torch.eye(len(rows), dtype=rows.dtype)


def log_likelihood(rows: torch.Tensor, targets: torch.Tensor, log_scales: torch.Tensor) -> torch.Tensor:
    """Return the log marginal likelihood of targets (N,) at rows (N, F), equation 2.30."""
    factor = torch.linalg.cholesky(covariance(rows, log_scales))
    fit = targets @ torch.cholesky_solve(targets.unsqueeze(1), factor).squeeze(1)
    return -fit / 2 - factor.diagonal().log().sum() - len(targets) / 2 * math.log(2 * math.pi)


def likeliest_scales(
    rows: torch.Tensor, targets: torch.Tensor, start: torch.Tensor, steps: int, rate: float
) -> torch.Tensor:
    """Return the logarithms of the scales after `steps` of Adam towards the highest marginal likelihood."""
    log_scales = start.clone()
    stepper = Adam([log_scales], lr=rate)
    for _ in range(steps):
        log_scales.grad = -likelihood_gradient(rows, targets, log_scales)
        stepper.step()
    return log_scales


def likelihood_gradient(rows: torch.Tensor, targets: torch.Tensor, log_scales: torch.Tensor) -> torch.Tensor:
    """Return the gradient of `log_likelihood` by log_scales, (4 + F,), quicker than autograd.

    By the covariance K it is G = ½(K⁻¹yyᵀK⁻¹ − K⁻¹), equation 5.9. By the logarithm of a part's variance, K's
    derivative is that part, P; by that of a length, P times the squared distance along it, and with W = G∘P

        Σ_ij W_ij (x_i − x_j)² = 2 (Σ_i x_i² Σ_j W_ij − Σ_i x_i (W x)_i).
    """
    own, shared = kernel_parts(rows, rows, log_scales)
    noise = log_scales[2].exp()
    matrix = own + shared
    matrix.diagonal().add_(noise + CHOLESKY_JITTER)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    solved = inverse @ targets
    by_matrix = (torch.outer(solved, solved) - inverse) / 2

    def by_lengths(weights: torch.Tensor) -> torch.Tensor:  # (F,), of each feature's squared distances
        return 2 * (weights.sum(1) @ rows.square() - (rows * (weights @ rows)).sum(0))

    own, shared = own.mul_(by_matrix), shared.mul_(by_matrix)
    variances = torch.stack([own.sum(), shared.sum(), noise * by_matrix.trace()])
    shared_length = by_lengths(shared).sum() * (-2 * log_scales[3]).exp()
    return torch.cat([variances, shared_length[None], by_lengths(own) * (-2 * log_scales[4:]).exp()])
