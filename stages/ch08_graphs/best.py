"""The best network of chapter 8: spread, predict, and agree with oneself (GRAND: Feng et al., 2020, equations 2 to 5).

Papers' words spread along the citations, and a network of two layers predicts from what arrives. While it learns, whole
papers are left out at random before they spread, several times over, and the predictions for all papers, labelled or
not, must agree. They spread by personalised PageRank (APPNP: Gasteiger et al., 2019, equations 4 to 6), where GRAND
takes the mean of the first powers of Â, the normalised matrix of A + I. Both are linear in the words, and so is the
first layer: it comes first here, so that a few dozen numbers a paper spread in place of 1,433 words.
"""

import torch
from torch.nn import functional as F

from stages.ch08_graphs.layers import Graph, Weights, keep_mask, layer_weights, transform


def propagate(graph: Graph, values: torch.Tensor, restart: float, hops: int) -> torch.Tensor:
    """Z ← (1 − α) Â Z + α H, `hops` times from Z = H: values H (nodes, …), α `restart`."""
    return _Spread.apply(graph.normalized.matrix, values.flatten(1), restart, hops).view(values.shape)


class _Spread(torch.autograd.Function):
    """What `propagate` does, linear in H and symmetric, as Â is: the gradient spreads in the same way."""

    @staticmethod
    def forward(ctx, matrix: torch.Tensor, values: torch.Tensor, restart: float, hops: int) -> torch.Tensor:
        ctx.matrix, ctx.options = matrix, (restart, hops)
        spread, other = values.clone(), torch.empty_like(values)  # taken in turn: no new tensor for each hop
        for _ in range(hops):
            torch.addmm(values, matrix, spread, beta=restart, alpha=1 - restart, out=other)
            spread, other = other, spread
        return spread

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return None, _Spread.apply(ctx.matrix, gradient.contiguous(), *ctx.options), None, None


def predict(graph: Graph, weights: Weights, restart: float, hops: int) -> torch.Tensor:
    """Return logits (nodes, runs, classes) of trained networks."""
    first, second = layer_weights(weights, 1), layer_weights(weights, 2)
    hidden = propagate(graph, transform(graph, None, first["weight"]), restart, hops) + first["bias"]
    return transform(graph, torch.relu(hidden), second["weight"]) + second["bias"]


def sample_logits(
    graph: Graph,
    weights: Weights,
    samples: int,
    restart: float,
    hops: int,
    node_dropout: float,
    input_dropout: float,
    dropout: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return logits (nodes, samples, runs, classes), each sample with papers, words and hidden values left out."""
    first, second = layer_weights(weights, 1), layer_weights(weights, 2)
    runs, words, hidden_size = first["weight"].shape
    nodes = graph.features.matrix.shape[0]
    # The samples stand as further runs: (samples·runs, words, hidden).
    kept = keep_mask((samples, runs, words, 1), input_dropout, generator)
    hidden = transform(graph, None, (first["weight"] * kept).flatten(0, 1)).view(nodes, samples, runs, hidden_size)
    hidden = hidden * keep_mask((nodes, samples, runs, 1), node_dropout, generator)
    hidden = torch.relu(propagate(graph, hidden, restart, hops) + first["bias"])
    hidden = (hidden * keep_mask(tuple(hidden.shape), dropout, generator)).flatten(1, 2)
    weight = second["weight"].expand(samples, -1, -1, -1).flatten(0, 1)
    return transform(graph, hidden, weight).view(nodes, samples, runs, -1) + second["bias"]


def disagreement(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return how far the samples are from their common, sharpened prediction, (runs,): GRAND's equations 4 and 5.

    logits (nodes, samples, runs, classes). The mean over the samples is sharpened by p^(1/T), made to add up to 1, and
    taken as given; the distance is squared, summed over classes, and averaged over papers and samples.
    """
    # As they lie in memory, papers innermost, which makes all of this several times as fast.
    shares = logits.permute(1, 2, 3, 0).softmax(dim=2)  # (samples, runs, classes, nodes)
    common = shares.mean(dim=0).detach() ** (1 / temperature)
    common = common / common.sum(dim=1, keepdim=True)
    return (shares - common).square().sum(dim=2).mean(dim=(0, 2))


def losses_of(
    graph: Graph,
    labels: torch.Tensor,
    nodes: torch.Tensor,
    weights: Weights,
    generator: torch.Generator,
    samples: int,
    restart: float,
    hops: int,
    node_dropout: float,
    temperature: float,
    consistency: float,
    input_dropout: float,
    dropout: float,
) -> torch.Tensor:
    """Return each run's loss (runs,): cross-entropy at its labelled nodes (runs, labelled), mean over the samples, and
    `consistency` times the disagreement on all nodes."""
    logits = sample_logits(graph, weights, samples, restart, hops, node_dropout, input_dropout, dropout, generator)
    runs = torch.arange(len(nodes))[:, None]
    picked = logits.transpose(1, 2)[nodes, runs]  # (runs, labelled, samples, classes)
    targets = labels[nodes][..., None].expand(-1, -1, samples)
    supervised = F.cross_entropy(picked.permute(0, 3, 1, 2), targets, reduction="none").mean(dim=(1, 2))
    return supervised + consistency * disagreement(logits, temperature)
