"""What the section ch04 of params.yaml may hold."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.schema import Chapter, NonNegativeFloat, PositiveFloat, PositiveInt, Strict
from stages.common.seeds import RUNS

Column = Literal["CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT"]
DISTRICTS = 506
SHORTEST_CYCLE = 6  # epochs, of which a fifth rises: with 5 or fewer PyTorch's schedule has no step in which to do so


class Recipe(Strict):
    """One way through chapter 4."""

    features: Literal["log", "raw"]
    target: Literal["log", "raw"]
    scaled_on: Literal["train", "all"]
    members: PositiveInt
    frequencies: Annotated[int, Field(ge=0)]
    frequency_scale: Annotated[float, Field(ge=0, le=1000)]
    embedding_size: Annotated[int, Field(ge=0)]
    hidden_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    activation: Literal["relu", "silu"]
    process_share: Annotated[float, Field(ge=0, le=1)]
    process_groups: list[Column]
    process_steps: Annotated[int, Field(ge=0)]
    process_learning_rate: Annotated[float, Field(ge=0, le=1)]  # of logarithms: beyond, covariances are singular
    optimizer: Literal["adamw", "sgd"]
    schedule: Literal["one_cycle", "constant"]
    epochs: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat

    @model_validator(mode="after")
    def relations(self):
        if (self.frequencies == 0) != (self.embedding_size == 0):
            raise ValueError(
                f"frequencies {self.frequencies} and embedding_size {self.embedding_size} must both be 0, or neither"
            )
        if self.schedule == "one_cycle" and self.epochs < SHORTEST_CYCLE:
            raise ValueError(f"epochs {self.epochs} must be at least {SHORTEST_CYCLE} with the schedule one_cycle")
        if self.process_share and self.target != "log":
            raise ValueError(
                f"process_share {self.process_share} needs the target log, not {self.target}: "
                "a Gaussian process expects targets about zero"
            )
        return self


class Housing(Chapter[Recipe]):
    runs: Annotated[int, Field(ge=2, le=RUNS)]  # of fewer there is no spread
    cv_splits: Annotated[int, Field(ge=2, le=DISTRICTS // 10)]  # R² of fewer than ten rows says nothing
    cv_repeats: PositiveInt

    @model_validator(mode="after")
    def as_many_folds_as_seeds(self):
        if self.cv_splits * self.cv_repeats > RUNS:
            raise ValueError(f"cv_splits {self.cv_splits} · cv_repeats {self.cv_repeats} must be at most {RUNS}")
        return self
