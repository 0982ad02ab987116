"""The product of two square matrices, from loops over its elements to one call (figs. 6, 7)."""

import torch


def by_loops(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Multiply x (rows, size) by y (size, columns) element by element in two Python loops, as fig. 6 does."""
    result = torch.zeros(len(x), y.shape[1])
    for i in range(len(x)):
        for j in range(y.shape[1]):
            result[i, j] = torch.sum(x[i, :] * y[:, j])
    return result


def by_rows(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Multiply row by row: one loop, in which a row of x meets all columns of y at once."""
    result = torch.zeros(len(x), y.shape[1])
    for i in range(len(x)):
        result[i] = x[i] @ y
    return result


PRODUCTS = {"loops": by_loops, "rows": by_rows, "mm": torch.mm}


def draw_matrices(size: int, kind: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two float32 matrices (size, size): of standard normal numbers ("normal"), or of "ones" as in the book."""
    if kind == "ones":
        return torch.ones(size, size), torch.ones(size, size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, size, generator=generator), torch.randn(size, size, generator=generator)


def operations(size: int) -> int:
    """Return the floating-point operations in a product of matrices (size, size): a multiplication and an addition
    for each of size³ pairs."""
    return 2 * size**3
