"""Gaussian-process regression: what a network of one hidden layer becomes as the layer grows without bound.

Neal, "Bayesian Learning for Neural Networks", 1996, chapter 2. Its fit has no random start and finds by itself how much
each feature counts, and so it errs elsewhere than the networks: averaged, the two do better than either.
Equations: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006.

Letters of the shapes: R runs, N rows that may be learnt from, Q rows asked about, F features.
"""

import math

import torch
from torch import nn

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
    first, second, _, length = log_scales[:4].exp()
    lengths = log_scales[4:].exp()
    own = squared_distances(left / lengths, right / lengths)
    shared = squared_distances(left / length, right / length)
    return first * (-own / 2).exp() + second * (-shared / 2).exp()


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
    """Return the logarithms of the scales after `steps` of Adam towards the highest marginal likelihood.

    The gradient with respect to the covariance K is ½(K⁻¹yyᵀK⁻¹ − K⁻¹), equation 5.9; with it autograd has only the
    kernel to differentiate, and not the factorisation, which halves the time.
    """
    log_scales = start.clone().requires_grad_()
    stepper = torch.optim.Adam([log_scales], lr=rate)
    for _ in range(steps):
        matrix = covariance(rows, log_scales)
        with torch.no_grad():
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
            solved = inverse @ targets
            gradient = (inverse - torch.outer(solved, solved)) / 2  # of the negative logarithm
        stepper.zero_grad()
        matrix.backward(gradient)
        stepper.step()
    return log_scales.detach()
