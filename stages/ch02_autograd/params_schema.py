"""What the section ch02 of params.yaml may hold."""

from typing import Annotated, Literal

from pydantic import Field

from stages.common.schema import PositiveFloat, PositiveInt, Strict, Threads

Iterations = Annotated[int, Field(ge=1, le=10_000)]


class Recipe(Strict):
    """One way through chapter 2; pages and figures as in the book's program."""

    points: PositiveInt
    slope: float
    initial_weight: float
    gradient: Literal["mean", "sum"]
    learning_rate: PositiveFloat
    numpy_iterations: Iterations
    autograd_iterations: Iterations
    difference_step: PositiveFloat


class Autograd(Strict):
    recipe: Literal["tuned", "book"]
    num_threads: Threads
    tuned: Recipe
    book: Recipe
