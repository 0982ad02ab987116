"""Run every operation that chapter 1 names and check it against NumPy; measure how exact each matrix product is.

In: parameters only. Out: metrics/ch01.json; metrics/facts/ch01.json with every operation, its result and whether NumPy
agrees, and every statement and whether it holds; data/evaluated/ch01/arrays.npz with the rounding errors by method and
the tensors of fig. 3.
"""

import math

import numpy as np
import torch

from stages.ch01_tensors.expressions import (
    INTEGER_FUNCTIONS,
    check_statements,
    refused_integers,
    run_operations,
    view_shapes,
)
from stages.ch01_tensors.products import PRODUCTS, draw_matrices
from stages.common.arrays import save_arrays
from stages.common.devices import find_device, set_up_torch
from stages.common.files import write_json
from stages.common.params import declared_parameters

ARRAYS = "data/evaluated/ch01/arrays.npz"


def rounding_errors(sizes: list[int], kind: str, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Return method to the rounding error of its float32 product at each size, shape (sizes,).

    It is that of the first `rows` rows of x times y, enough to tell, since the loops take as long as the rows are many:
    the root mean square of the difference to that product in float64, relative to the root mean square of the product.
    """
    errors = {name: [] for name in PRODUCTS}
    for size in sizes:
        x, y = draw_matrices(size, kind, seed)
        exact = x[:rows].double() @ y.double()
        for name, product in PRODUCTS.items():
            difference = product(x[:rows], y).double() - exact
            errors[name].append(math.sqrt(difference.square().mean() / exact.square().mean()))
    return {name: np.array(values) for name, values in errors.items()}


def transposed_difference(size: int, kind: str, seed: int) -> float:
    """Return the largest |x·y − x·yᵀ|: if it is zero, these matrices can't show that a program mixes up two indices."""
    x, y = draw_matrices(size, kind, seed)
    return (x @ y - x @ y.T).abs().max().item()


def example_tensors() -> dict[str, np.ndarray]:
    """Return the tensors that fig. 3 stands for, of one, two and three dimensions."""
    return {
        "vector": torch.arange(1, 5).numpy(),
        "matrix": torch.arange(1, 13).view(3, 4).numpy(),
        "cube": torch.arange(1, 25).view(2, 3, 4).numpy(),
    }


def main() -> None:
    parameters = declared_parameters("ch01_evaluate")
    recipe = parameters.ch01.active
    seed = parameters.seed
    device = find_device(parameters.device)
    set_up_torch(seed, parameters.ch01.num_threads, device)
    operations, statements = run_operations(seed, device), check_statements(seed, device)
    errors = rounding_errors(recipe.sizes, recipe.matrices, recipe.rounding_rows, seed)
    save_arrays(ARRAYS, sizes=np.array(recipe.sizes), **errors, **example_tensors())
    metrics = {
        "operations": len(operations),
        "operations_agreeing": sum(row["agrees"] for row in operations),
        "statements": len(statements),
        "statements_true": sum(row["holds"] for row in statements),
        "integer_functions": len(INTEGER_FUNCTIONS),
        "integer_functions_refused": len(refused_integers()),
        "view_shapes_of_9": len(view_shapes(elements=9, dimensions=3)),
        **{f"rounding_error_{name}": float(f"{values[-1]:.4g}") for name, values in errors.items()},
        "transposed_difference": transposed_difference(recipe.sizes[-1], recipe.matrices, seed),
    }
    write_json("metrics/ch01.json", metrics)
    facts = {"operations": operations, "statements": statements, "integers_refused_by": refused_integers()}
    write_json("metrics/facts/ch01.json", facts)


if __name__ == "__main__":
    main()
