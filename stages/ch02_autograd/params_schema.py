"""What the section ch02 of params.yaml may hold."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.schema import Chapter, PositiveFloat, PositiveInt, Strict

Iterations = Annotated[int, Field(ge=1, le=10_000)]
Weight = Annotated[float, Field(ge=-1e6, le=1e6)]


class Recipe(Strict):
    """One way through chapter 2."""

    points: PositiveInt
    slope: Weight
    initial_weight: Weight
    gradient: Literal["mean", "sum"]
    learning_rate: PositiveFloat
    numpy_iterations: Iterations
    autograd_iterations: Iterations
    difference_step: Annotated[float, Field(ge=1e-6, le=1)]  # far below, float32 has no such step

    @model_validator(mode="after")
    def relations(self):
        # They are float32.
        if math.isclose(self.initial_weight, self.slope, rel_tol=1e-6, abs_tol=1e-6):
            raise ValueError(f"initial_weight {self.initial_weight} must not be slope: nothing would be left to learn")
        return self


class Autograd(Chapter[Recipe]):
    pass
