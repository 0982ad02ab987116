"""What the section ch06 of params.yaml may hold."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.schema import Chapter, NonNegativeFloat, PositiveFloat, PositiveInt, Strict

MOST_VALUES = 200_000_000  # of all windows together: 0.8 GB, and a few times that for the linear forecast


class Recipe(Strict):
    """One way through chapter 6."""

    length: Annotated[int, Field(ge=10, le=1_000_000)]
    duration: Annotated[float, Field(ge=0.001, le=1e6)]  # with less, the sine is a constant in float32
    test_times: Literal["later", "same"]
    window: PositiveInt
    steps_ahead: PositiveInt
    windows: Literal["all", "book"]
    loss_steps: PositiveInt
    hidden_size: PositiveInt
    num_layers: PositiveInt
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    schedule: Literal["constant", "one_cycle"]
    gradient_clip: NonNegativeFloat

    @model_validator(mode="after")
    def relations(self):
        # R² needs two windows, and two of those that don't overlap for the book's way to measure.
        if 2 * self.window > self.length:
            raise ValueError(f"window {self.window} must be at most half of length {self.length}")
        if self.window + self.steps_ahead >= self.length:
            raise ValueError(
                f"window {self.window} + steps_ahead {self.steps_ahead} must be less than length {self.length}"
            )
        if self.loss_steps > self.window:
            raise ValueError(f"loss_steps {self.loss_steps} must be at most window {self.window}")
        if self.length * self.window > MOST_VALUES:
            raise ValueError(f"length {self.length} · window {self.window} must be at most {MOST_VALUES:,}")
        trained_on = self.length - self.window - self.steps_ahead + 1
        if self.windows == "book":
            trained_on = min(trained_on, self.length // self.window)
        # PyTorch's schedule ends with a rate of about 0, and a single step is its end.
        if self.schedule == "one_cycle" and self.epochs == 1 and self.batch_size >= trained_on:
            raise ValueError(f"batch_size {self.batch_size} leaves one step, and the schedule one_cycle needs two")
        return self


class TimeSeries(Chapter[Recipe]):
    compared_noise_levels: Annotated[list[Annotated[float, Field(ge=0, le=10)]], Field(min_length=1, max_length=6)]
