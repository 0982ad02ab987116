"""The computation graph of fig. 9, built by autograd and read back from it."""

import torch

WEIGHTS = {"w1": 1.0, "w2": -2.0, "w3": 0.5, "w4": 3.0}
START = 2.0  # of a


def example() -> dict[str, torch.Tensor]:
    """Compute fig. 9's graph; return its tensors by name, each of which keeps its gradient.

    b = w1·a, c = w2·a, d = w3·b + w4·c, and L is a function of d that the book leaves open: here its square.
    """
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in {"a": START, **WEIGHTS}.items()}
    tensors["b"] = tensors["w1"] * tensors["a"]
    tensors["c"] = tensors["w2"] * tensors["a"]
    tensors["d"] = tensors["w3"] * tensors["b"] + tensors["w4"] * tensors["c"]
    tensors["L"] = tensors["d"] ** 2
    for name in "bcdL":
        tensors[name].retain_grad()  # by itself autograd keeps the gradients of leaves alone
    return tensors


def walk(result: torch.Tensor, names: dict[str, torch.Tensor]) -> dict[str, list]:
    """Read the graph behind `result` from its grad_fn.

    Args:
        result: the tensor to start from.
        names: tensors by name; a node whose tensor has a name bears it.

    Returns:
        nodes: a dict each with `operation` (class of the grad_fn), `name` ("" for an intermediate result without one)
            and `depth`, the longest way from `result` in edges.
        edges: pairs [from, to] of indices into nodes, in the direction of the backward pass, from result to leaf.
    """
    name_of = {id(tensor.grad_fn): name for name, tensor in names.items() if tensor.grad_fn is not None}
    leaf_name = {id(tensor): name for name, tensor in names.items() if tensor.is_leaf}
    order, edges, depths = [result.grad_fn], [], [0]
    for function in order:  # grows while it is walked
        here = order.index(function)
        for child, _ in function.next_functions:
            if child is None:  # an operand that needs no gradient
                continue
            if child not in order:
                order.append(child)
                depths.append(0)
            edges.append([here, order.index(child)])
    for _ in order:  # the longest of all ways: settled after as many rounds as there are nodes
        for start, end in edges:
            depths[end] = max(depths[end], depths[start] + 1)
    nodes = []
    for function, depth in zip(order, depths, strict=True):
        leaf = getattr(function, "variable", None)  # AccumulateGrad, the end of a path, knows its leaf
        name = name_of.get(id(function), "") if leaf is None else leaf_name.get(id(leaf), "")
        nodes.append({"operation": type(function).__name__, "name": name, "depth": depth})
    return {"nodes": nodes, "edges": edges}
