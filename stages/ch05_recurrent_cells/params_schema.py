"""What the section ch05 of params.yaml may hold."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.schema import Chapter, NonNegativeFloat, PositiveFloat, PositiveInt, Strict

Length = Annotated[int, Field(ge=1, le=10_000)]
Steps = Annotated[int, Field(ge=1, le=100_000)]


class Recipe(Strict):
    """One way through chapter 5."""

    lengths: Annotated[list[Length], Field(min_length=1, max_length=12)]
    symbols: Annotated[int, Field(ge=2, le=1000)]
    noise: NonNegativeFloat
    runs: Annotated[int, Field(ge=2, le=100)]
    hidden_size: PositiveInt
    steps: Steps
    mode_steps: Steps
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    schedule: Literal["constant", "one_cycle"]
    gradient_clip: NonNegativeFloat
    recurrent_init: Literal["uniform", "orthogonal"]
    memory_bias: Annotated[float, Field(ge=-10, le=10)]  # beyond, a gate is 0 or 1 in float32

    @model_validator(mode="after")
    def relations(self):
        if any(first >= second for first, second in pairwise(self.lengths)):
            raise ValueError(f"lengths {self.lengths} must rise")
        for name in ("steps", "mode_steps"):  # PyTorch's schedule ends with a rate of about 0, and one step is its end
            if self.schedule == "one_cycle" and getattr(self, name) < 2:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 2 with the schedule one_cycle")
        return self


class RecurrentCells(Chapter[Recipe]):
    pass
