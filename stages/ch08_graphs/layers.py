"""The graph layers of chapter 8, for many networks side by side, and the networks of two such layers.

PyTorch Geometric's layers hold the weights of one network. Honest statistics need dozens, and on a graph of 2,708 nodes
one network leaves a processor idle; so these layers compute the same formulas for `runs` networks at once, each with
weights of its own (tests/ch08_graphs compares them with PyTorch Geometric's). The nodes' values have the shape

    (nodes, runs, channels)

so that as (nodes, runs·channels) one product with the graph's matrix serves all runs; weights are (runs, in, out).
A paper's words are sparse, too (1 % of them), and stay so: the first layer multiplies words and weights before it looks
at neighbours, which gives the same, since both are linear.
"""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from stages.ch08_graphs.preprocess import stored_matrix

if TYPE_CHECKING:
    from scipy import sparse

Weights = dict[str, torch.Tensor]


class SparseMatrix:
    """A constant sparse matrix, and its transpose for the gradient."""

    def __init__(self, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, shape: tuple[int, int]):
        from scipy import sparse

        matrix = sparse.csr_matrix((values, indices, indptr), shape=tuple(shape))
        self.matrix, self.transpose = (self._tensor(part) for part in (matrix, matrix.T.tocsr()))
        # Where each row holds a single 1, the product only picks rows.
        picks = bool((np.diff(indptr) == 1).all() and (values == 1).all())
        self.picked = torch.from_numpy(indices.astype(np.int64)) if picks else None

    @staticmethod
    def _tensor(matrix) -> torch.Tensor:
        parts = [torch.from_numpy(part.astype(np.int32)) for part in (matrix.indptr, matrix.indices)]
        values = torch.from_numpy(matrix.data.astype(np.float32))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "beta state", at the first such tensor of every process
            return torch.sparse_csr_tensor(*parts, values, matrix.shape, check_invariants=False)

    def __matmul__(self, values: torch.Tensor) -> torch.Tensor:
        """Return the product with values (columns, …), as (rows, …)."""
        flat = _Product.apply(self, values.reshape(len(values), -1))
        return flat.view(-1, *values.shape[1:])


class _Product(torch.autograd.Function):
    """matrix @ values, whose gradient by `values` is the transpose's product; PyTorch's own transposes each time."""

    @staticmethod
    def forward(ctx, matrix: SparseMatrix, values: torch.Tensor) -> torch.Tensor:
        ctx.matrix = matrix
        if matrix.picked is not None:
            return values.index_select(0, matrix.picked)
        return multiply(matrix.matrix, values)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return None, multiply(ctx.matrix.transpose, gradient.contiguous())


def multiply(matrix: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return matrix @ values, a sparse matrix and a dense one, several times faster than `@`, which copies more."""
    product = torch.zeros(len(matrix), values.shape[1])
    return torch.addmm(product, matrix, values, beta=0, out=product)


class Graph(NamedTuple):
    """A graph as the layers need it; all matrices but the first are (nodes, nodes), those of edges (edges, nodes).

    features: (nodes, words).
    normalized: D̂^(−1/2) (A + I) D̂^(−1/2).
    with_self: A + I.  mean: A with rows that add up to 1.  mean_with_self: A + I likewise.
    laplacian: −D^(−1/2) A D^(−1/2), the Laplacian scaled to [−1, 1] with λ_max = 2.
    sources, targets: which node an edge comes from and leads to, of A + I.
    incoming: targets, transposed, (nodes, edges).
    """

    features: SparseMatrix
    normalized: SparseMatrix
    with_self: SparseMatrix
    mean: SparseMatrix
    mean_with_self: SparseMatrix
    laplacian: SparseMatrix
    sources: SparseMatrix
    targets: SparseMatrix
    incoming: SparseMatrix


def build_graph(arrays: Mapping[str, np.ndarray]) -> Graph:
    """Make the matrices of a Graph from what `preprocess` stored."""
    adjacency = stored_matrix(arrays, "adjacency")
    return make_graph(stored_matrix(arrays, "features"), adjacency, np.diff(adjacency.indptr))


def make_graph(features: "sparse.csr_matrix", adjacency: "sparse.csr_matrix", degrees: np.ndarray) -> Graph:
    """Make the matrices of a Graph from the nodes' words, A, and each node's number of neighbours (nodes,).

    In a part of a graph, rows of A may hold a sample of the neighbours, weighted so that they stand for all of them.
    """
    from scipy import sparse

    def scaled(matrix: sparse.csr_matrix, degrees: np.ndarray, left: float, right: float) -> sparse.csr_matrix:
        degrees = np.maximum(degrees, 1).astype(np.float64)
        return sparse.diags(degrees**left) @ matrix @ sparse.diags(degrees**right)

    nodes = adjacency.shape[0]
    with_self = adjacency + sparse.eye(nodes)
    pairs = with_self.tocoo()
    edges, ones = np.arange(pairs.nnz), np.ones(pairs.nnz)
    targets = sparse.csr_matrix((ones, (edges, pairs.row)), shape=(pairs.nnz, nodes))
    sources = sparse.csr_matrix((ones, (edges, pairs.col)), shape=(pairs.nnz, nodes))
    matrices = {
        "features": features,
        "normalized": scaled(with_self, degrees + 1, -0.5, -0.5),
        "with_self": with_self,
        "mean": scaled(adjacency, degrees, -1, 0),
        "mean_with_self": scaled(with_self, degrees + 1, -1, 0),
        "laplacian": -scaled(adjacency, degrees, -0.5, -0.5),
        "sources": sources,
        "targets": targets,
        "incoming": targets.T,
    }
    compressed = {name: matrix.tocsr() for name, matrix in matrices.items()}
    return Graph(**{name: SparseMatrix(m.indptr, m.indices, m.data, m.shape) for name, m in compressed.items()})


def transform(graph: Graph, values: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
    """Multiply values (nodes, runs, in), None for the graph's features, by weight (runs, in, out), run by run."""
    if values is None:
        return graph.features @ weight.transpose(0, 1)
    # Transposed, the nodes are what a row of the result holds, not the few channels: up to ten times as fast.
    return torch.bmm(weight.mT, values.permute(1, 2, 0)).permute(2, 0, 1)


# One layer each: values (nodes, runs, in) or None, weights of the layer; returns (nodes, runs, out).


def mlp(graph: Graph, values: torch.Tensor | None, weights: Weights) -> torch.Tensor:
    """x W + b: no neighbours at all, a floor."""
    return transform(graph, values, weights["weight"]) + weights["bias"]


def gcn(graph: Graph, values: torch.Tensor | None, weights: Weights) -> torch.Tensor:
    """D̂^(−1/2) (A + I) D̂^(−1/2) x W + b (Kipf and Welling, 2017, equation 2)."""
    return graph.normalized @ transform(graph, values, weights["weight"]) + weights["bias"]


def dense_sum(graph: Graph, values: torch.Tensor | None, weights: Weights) -> torch.Tensor:
    """(A + I) x W + b: fig. 84, which adds up the neighbours. The bias comes behind, once a node."""
    return graph.with_self @ transform(graph, values, weights["weight"]) + weights["bias"]


def dense_mean(graph: Graph, values: torch.Tensor | None, weights: Weights) -> torch.Tensor:
    """The same with the mean, which the formula above fig. 84 takes of the neighbours alone; `sage` is that formula."""
    return graph.mean_with_self @ transform(graph, values, weights["weight"]) + weights["bias"]


def sage(graph: Graph, values: torch.Tensor | None, weights: Weights) -> torch.Tensor:
    """x W₁ + mean over neighbours(x) W₂ + b (Hamilton et al., 2017); the formula above fig. 84 with both its parts."""
    around = graph.mean @ transform(graph, values, weights["neighbours"])
    return transform(graph, values, weights["weight"]) + around + weights["bias"]


def gin(graph: Graph, values: torch.Tensor | None, weights: Weights) -> torch.Tensor:
    """MLP(x + sum over neighbours(x)), ε = 0 (Xu et al., 2019); the MLP has one hidden layer."""
    hidden = torch.relu(graph.with_self @ transform(graph, values, weights["weight"]) + weights["bias"])
    return transform(graph, hidden, weights["weight2"]) + weights["bias2"]


def cheb(graph: Graph, values: torch.Tensor | None, weights: Weights) -> torch.Tensor:
    """Σ_k T_k(L̂) x W_k + b with Chebyshev polynomials up to order 2, K = 3 of them (Defferrard et al., 2016).

    With T_0 = 1, T_1 = L̂ and T_2 = 2 L̂² − 1 this is x (W_0 − W_2) + L̂ (x W_1 + 2 L̂ x W_2).
    """
    first, second, third = (transform(graph, values, weights[f"weight{order}"]) for order in range(3))
    return first - third + graph.laplacian @ (second + 2 * (graph.laplacian @ third)) + weights["bias"]


def gat(graph: Graph, values: torch.Tensor | None, weights: Weights) -> torch.Tensor:
    """Σ_j α_ij x_j W + b, α_ij = softmax over j of LeakyReLU(s·x_j W + t·x_i W), a head each (Veličković et al., 2018).

    `source` and `target`, (runs, heads, channels), are the attention's s and t; the heads' results stand side by side.
    The paper also leaves out weights α at random while it trains; here none are.
    """
    heads, channels = weights["source"].shape[1:]
    hidden = transform(graph, values, weights["weight"])  # (nodes, runs, heads·channels)
    hidden = hidden.unflatten(-1, (heads, channels))
    alphas = attention(graph, values, weights)  # (edges, runs, heads)
    messages = (graph.sources @ hidden.permute(0, 3, 1, 2)) * alphas[:, None]  # (edges, channels, runs, heads)
    return (graph.incoming @ messages).permute(0, 2, 3, 1).flatten(-2) + weights["bias"]


def attention(graph: Graph, values: torch.Tensor | None, weights: Weights) -> torch.Tensor:
    """Return the weights α (edges, runs, heads) of the edges of A + I; those that lead to one node add up to 1."""

    def scores_by(name: str) -> torch.Tensor:  # s·x W is x (W s), a product with few columns: (nodes, runs, heads)
        by_head = weights["weight"].unflatten(-1, weights[name].shape[1:])  # (runs, in, heads, channels)
        return transform(graph, values, (by_head * weights[name].unsqueeze(1)).sum(-1))

    scores = graph.sources @ scores_by("source") + graph.targets @ scores_by("target")
    scores = F.leaky_relu(scores, 0.2)
    # A softmax stays the same when a node's scores are all lowered alike, and with their maximum as that amount exp
    # neither overflows nor leaves a node with nothing. Edges are in the order of their targets.
    degrees = graph.incoming.matrix.crow_indices().diff().long()
    highest = torch.segment_reduce(scores.detach(), "max", lengths=degrees, axis=0)  # (nodes, runs, heads)
    exponents = torch.exp(scores - graph.targets @ highest)
    return exponents / (graph.targets @ (graph.incoming @ exponents))


LAYERS = {
    "mlp": mlp,
    "dense_sum": dense_sum,
    "dense_mean": dense_mean,
    "gcn": gcn,
    "sage": sage,
    "gat": gat,
    "gin": gin,
    "cheb": cheb,
}


def start_layer(
    layer: str, runs: int, fan_in: int, fan_out: int, heads: int, generator: torch.Generator, initial: str = "glorot"
) -> Weights:
    """Draw a layer's weights.

    Args:
        initial: "glorot": after Glorot and Bengio (2010), biases zero, as PyTorch Geometric's GCN, GAT and ChebNet
            start; "library": so those three, and all others as nn.Linear and PyTorch Geometric's GraphSAGE, which lie
            between ±1/√(numbers that come in), biases too.
    """
    linear = initial == "library" and layer not in ("gcn", "gat", "cheb")

    def matrix(inputs: int, outputs: int) -> torch.Tensor:
        bound = inputs**-0.5 if linear else (6 / (inputs + outputs)) ** 0.5
        return torch.empty(runs, inputs, outputs).uniform_(-bound, bound, generator=generator)

    def bias(inputs: int) -> torch.Tensor:
        zeros = torch.zeros(runs, fan_out)
        return zeros.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator) if linear else zeros

    weights = {"bias": bias(fan_in)}
    if layer == "cheb":
        return {**weights, **{f"weight{order}": matrix(fan_in, fan_out) for order in range(3)}}
    weights["weight"] = matrix(fan_in, fan_out)
    if layer == "sage":
        weights["neighbours"] = matrix(fan_in, fan_out)
    if layer == "gin":
        weights |= {"weight2": matrix(fan_out, fan_out), "bias2": bias(fan_out)}
    if layer == "gat":
        weights |= {name: matrix(heads, fan_out // heads) for name in ("source", "target")}
    return weights


def start_network(
    layer: str,
    runs: int,
    words: int,
    hidden_size: int,
    classes: int,
    heads: int,
    generator: torch.Generator,
    initial: str = "glorot",
) -> Weights:
    """Draw the weights of `runs` networks of two layers; names are "1." or "2." and the layer's own.

    The second layer of a GAT has one head. `initial` is start_layer's.
    """
    first = start_layer(layer, runs, words, hidden_size, heads, generator, initial)
    second = start_layer(layer, runs, hidden_size, classes, 1, generator, initial)
    return {**{f"1.{name}": w for name, w in first.items()}, **{f"2.{name}": w for name, w in second.items()}}


def keep_mask(shape: tuple[int, ...], dropout: float, generator: torch.Generator) -> torch.Tensor:
    """Draw 1/(1 − dropout) with probability 1 − dropout, else 0: what a tensor of `shape` is multiplied by.

    From one byte each, eight of which one random number gives: several times faster than a number each. The share is
    rounded to 1/256.
    """
    dropped = round(256 * dropout)
    count = int(np.prod(shape))
    numbers = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), 2**63 - 1, generator=generator)
    return (numbers.view(torch.uint8)[:count].view(shape) >= dropped) * (256 / (256 - dropped))


def layer_weights(weights: Weights, number: int) -> Weights:
    return {name[2:]: value for name, value in weights.items() if name.startswith(f"{number}.")}


def forward(
    layer: str,
    graph: Graph,
    weights: Weights,
    input_dropout: float = 0.0,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return logits (nodes, runs, classes) of networks of two layers.

    Args:
        input_dropout: share of the words that a run leaves out, the same for all papers: a dropout of rows of the first
            weights, which unlike one of single entries keeps the product sparse and shared by all runs.
        dropout: share of the hidden values left out.
        generator: None leaves nothing out.
    """
    first, second = layer_weights(weights, 1), layer_weights(weights, 2)
    if generator is not None and input_dropout:
        matrices = [name for name, value in first.items() if value.dim() == 3 and value.shape[1] == words_of(graph)]
        runs = first["bias"].shape[0]
        kept = keep_mask((runs, words_of(graph), 1), input_dropout, generator)
        first = {name: value * kept if name in matrices else value for name, value in first.items()}
    hidden = hidden_values(layer, graph, first)
    if generator is not None and dropout:
        hidden = hidden * keep_mask(tuple(hidden.shape), dropout, generator)
    return LAYERS[layer](graph, hidden, second)


def words_of(graph: Graph) -> int:
    return graph.features.matrix.shape[1]


def hidden_values(layer: str, graph: Graph, first: Weights) -> torch.Tensor:
    """Return the values behind the first layer, (nodes, runs, hidden); the activation is that of the layer's paper."""
    activation = {"gat": F.elu, "dense_sum": torch.sigmoid, "dense_mean": torch.sigmoid}.get(layer, torch.relu)
    return activation(LAYERS[layer](graph, None, first))
