"""Graphs that differ in a motif, to be told apart: a random tree-like graph with a house or with a ring of five.

After the BA-2motifs of Luo et al. (2020). Both motifs have five nodes, and the house one edge more, its ceiling; there
the number of edges alone would do to tell the graphs apart. Here a ring hangs on the tree by one edge more.
"""

import numpy as np

HOUSE = ((0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (1, 4))
RING = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0))


def attachment_edges(nodes: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Grow a graph by preferential attachment (Barabási and Albert, 1999), each node with one edge to an older one."""
    edges, ends = [(0, 1)], [0, 1]  # a node stands among the ends as often as it has edges
    for node in range(2, nodes):
        other = int(generator.choice(ends))
        edges.append((node, other))
        ends += [node, other]
    return edges


def motif_graph(motif: int, nodes: int, generator: np.random.Generator) -> np.ndarray:
    """Return the edges (2, edges), both directions, of a graph of `nodes` + 5 nodes with a house (0) or a ring (1).

    The nodes are numbered at random, so that the numbers tell nothing.
    """
    edges = attachment_edges(nodes, generator)
    edges += [(nodes + first, nodes + second) for first, second in (HOUSE, RING)[motif]]
    # One edge to the tree from a house, and from a ring two, of different nodes: both graphs have as many edges.
    edges += zip(generator.permutation(nodes)[: 1 + motif], nodes + generator.permutation(5)[: 1 + motif], strict=True)
    names = generator.permutation(nodes + 5)
    pairs = names[np.array(edges)]
    return np.concatenate([pairs, pairs[:, ::-1]]).T


def motif_graphs(count: int, nodes: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw `count` graphs, house and ring in turn.

    Returns:
        edges (2, …) of all graphs as one, graph_of (count·(nodes + 5),): which graph a node is in, and motifs (count,).
    """
    size = nodes + 5
    edges = [motif_graph(index % 2, nodes, generator) + index * size for index in range(count)]
    return np.concatenate(edges, axis=1), np.repeat(np.arange(count), size), np.arange(count) % 2
