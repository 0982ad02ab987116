"""The networks of chapter 4 (fig. 40), many side by side: B independent networks as one batch of matrix products.

Beside a run's networks there may be a Gaussian process (stages/ch04_housing/gaussian_process.py).

Letters of the shapes: R runs (a seed and a set of training rows each), M members of a run's ensemble, B = R·M networks,
N rows, F = 13 features, K frequencies, D embedding size. Inside, the rows come last: a few values of many rows each are
multiplied several times as fast as many rows of a few values.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from stages.ch04_housing.gaussian_process import GaussianProcess

ACTIVATIONS = {"relu": nn.functional.relu, "silu": nn.functional.silu}


def model_shape(parameters: Mapping, names: Sequence[str], rows: int) -> dict:
    """Return what HousingModel takes, from those of a recipe's parameters; `names` are those of the features."""
    numbers = {str(name): number for number, name in enumerate(names)}
    groups = [numbers[name] for name in parameters["process_groups"]]
    return {**parameters, "process_groups": groups, "rows": rows}


class BatchedLinear(nn.Module):
    """B independent linear layers, (B, in, N) → (B, out, N), initialised as nn.Linear is."""

    def __init__(self, copies: int, inputs: int, outputs: int, generators: Sequence[torch.Generator]):
        super().__init__()

        def draw(*shape: int) -> torch.Tensor:  # a generator a run: a run's result doesn't depend on its neighbours
            bound = inputs**-0.5
            return torch.cat([(torch.rand(copies, *shape, generator=g) * 2 - 1) * bound for g in generators])

        self.weight = nn.Parameter(draw(inputs, outputs))
        self.bias = nn.Parameter(draw(1, outputs))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias.mT, self.weight.mT, inputs)


class PeriodicEmbedding(nn.Module):
    """Periodic embedding of each feature, "PLR" of Gorishniy et al., 2022 (arXiv 2203.05556), section 3.3.

    ReLU(Linear([sin 2πcx, cos 2πcx])), with K frequencies c and a linear layer of its own for each feature. The paper
    learns the frequencies; here they stay as drawn, and so the waves are worked out once for a whole training. The
    paper's network then sees the embeddings alone, this one the feature itself beside them.
    """

    def __init__(self, copies: int, features: int, frequencies: int, scale: float, size: int, generators):
        super().__init__()
        draws = [torch.randn(copies * features, 1, frequencies, generator=g) * scale for g in generators]
        self.register_buffer("frequency", torch.cat(draws))  # (B·F, 1, K)
        self.linear = BatchedLinear(copies * features, 2 * frequencies, size, generators)

    def waves(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map inputs (B, F, N) to sines and cosines of each feature, (B·F, 2K, N)."""
        phase = 2 * math.pi * self.frequency.mT * inputs.flatten(0, 1).unsqueeze(1)  # (B·F, K, N)
        return torch.cat([phase.sin(), phase.cos()], dim=1)

    def forward(self, waves: torch.Tensor, features: int) -> torch.Tensor:
        """Map the waves (B·F, 2K, N) of F features to their embeddings, (B, F·D, N)."""
        return self.linear(waves).relu().unflatten(0, (-1, features)).flatten(1, 2)


class HousingModel(nn.Module):
    """R ensembles of M networks; the scaling of features and prices belongs to the model, a run its own.

    With `hidden_sizes` (16, 8), one member, ReLU, no embedding and no process, a run is the network of fig. 40.

    Args:
        seeds: one for each run.
        features: F.
        target: "log" where the network's output is the standardised logarithm of the price, or "raw".
        members: M.
        frequencies, frequency_scale, embedding_size: of the periodic embedding; 0 for none.
        hidden_sizes: of the layers behind it.
        activation: "relu" or "silu".
        process_share: weight of the Gaussian process in a run's price; 0 for none.
        process_groups: numbers of the features that are the same for all rows of a group; none for no groups.
        rows: how many rows there are that a run may learn from; the process keeps them.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        features: int,
        target: str,
        members: int,
        frequencies: int,
        frequency_scale: float,
        embedding_size: int,
        hidden_sizes: Sequence[int],
        activation: str,
        process_share: float,
        process_groups: Sequence[int],
        rows: int,
    ):
        super().__init__()
        self.options = {
            "features": features,
            "target": target,
            "members": members,
            "frequencies": frequencies,
            "frequency_scale": frequency_scale,
            "embedding_size": embedding_size,
            "hidden_sizes": hidden_sizes,
            "activation": activation,
            "process_share": process_share,
            "process_groups": process_groups,
            "rows": rows,
        }
        self.runs, self.members, self.target = len(seeds), members, target
        self.activation, self.process_share = ACTIVATIONS[activation], process_share
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.embedding = None
        if frequencies:
            self.embedding = PeriodicEmbedding(
                members, features, frequencies, frequency_scale, embedding_size, generators
            )
        sizes = [features * (1 + embedding_size), *hidden_sizes, 1]
        self.layers = nn.ModuleList(
            BatchedLinear(members, inputs, outputs, generators)
            for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.process = GaussianProcess(self.runs, rows, features, process_groups) if process_share else None
        self.register_buffer("feature_mean", torch.zeros(self.runs, 1, features))
        self.register_buffer("feature_deviation", torch.ones(self.runs, 1, features))
        self.register_buffer("target_mean", torch.zeros(self.runs, 1))
        self.register_buffer("target_deviation", torch.ones(self.runs, 1))

    def encoded(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map features (R, N, F) to what no training changes: scaled inputs (B, F, N), and their waves (B·F, 2K, N)."""
        scaled = ((features - self.feature_mean) / self.feature_deviation).mT.contiguous()
        inputs = scaled.repeat_interleave(self.members, dim=0)
        return inputs, None if self.embedding is None else self.embedding.waves(inputs)

    def scaled_outputs(self, inputs: torch.Tensor, waves: torch.Tensor | None) -> torch.Tensor:
        """Map what `encoded` gives to each network's estimate of the scaled target, (B, N)."""
        hidden = inputs
        if self.embedding is not None:
            hidden = torch.cat([inputs, self.embedding(waves, inputs.shape[1])], dim=1)
        for layer in self.layers[:-1]:
            hidden = self.activation(layer(hidden))
        return self.layers[-1](hidden).squeeze(1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (R, N, F) to prices (R, N) in 1,000 dollars: the mean over the members, and the process.

        Of a target on a log scale that is the price in the middle (the median) of those expected, a little below their
        mean.

        A model of one run also maps (N, F) to (N,).
        """
        if features.dim() == 2:
            return self(features.unsqueeze(0)).squeeze(0)
        inputs, waves = self.encoded(features)
        outputs = self.scaled_outputs(inputs, waves).unflatten(0, (self.runs, self.members))  # (R, M, N)
        prices = self.prices(outputs).mean(dim=1)
        if self.process is None:
            return prices
        median = self.prices(self.process(inputs[:: self.members].mT).to(prices.dtype).unsqueeze(1)).squeeze(1)
        return (1 - self.process_share) * prices + self.process_share * median

    def prices(self, outputs: torch.Tensor) -> torch.Tensor:
        """Map scaled targets (R, M, N) to prices (R, M, N)."""
        targets = outputs * self.target_deviation.unsqueeze(-1) + self.target_mean.unsqueeze(-1)
        return targets.exp() if self.target == "log" else targets

    def first_run(self) -> "HousingModel":
        """Return the first run as a model of its own."""
        model = HousingModel([0], **self.options)
        model.load_state_dict({name: value[: len(value) // self.runs] for name, value in self.state_dict().items()})
        return model
