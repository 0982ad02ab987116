"""What the section ch01 of params.yaml may hold."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.schema import Chapter, PositiveInt, Strict

Size = Annotated[int, Field(ge=2, le=10_000)]


class Recipe(Strict):
    """One way through chapter 1."""

    matrices: Literal["normal", "ones"]
    sizes: Annotated[list[Size], Field(min_length=1, max_length=12)]
    loops_up_to: Size
    repeats: Annotated[int, Field(ge=1, le=1000)]
    warm_ups: Annotated[int, Field(ge=0, le=1000)]
    synchronize: bool
    rounding_rows: PositiveInt

    @model_validator(mode="after")
    def relations(self):
        if any(first >= second for first, second in pairwise(self.sizes)):
            raise ValueError(f"sizes {self.sizes} must rise")
        if self.loops_up_to < self.sizes[0]:
            raise ValueError(f"loops_up_to {self.loops_up_to} must be at least the smallest of sizes {self.sizes}")
        return self


class Tensors(Chapter[Recipe]):
    pass
