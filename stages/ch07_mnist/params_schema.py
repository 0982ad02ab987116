"""What the section ch07 of params.yaml may hold."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.schema import Chapter, Dropout, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Strict

TRAINING_IMAGES = 60_000
STEPS_PER_AVERAGE = 5  # as in train: before the fifth step the average is the network's start


class Recipe(Strict):
    """One way through chapter 7."""

    validation_images: Annotated[int, Field(ge=0, lt=TRAINING_IMAGES)]
    shuffle: bool
    network: Literal["tuned", "book"]
    widths: Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]
    dropout: Dropout
    precision: Literal["float32", "bfloat16"]
    optimizer: Literal["sgd", "adadelta"]
    schedule: Literal["linear", "constant"]
    warmup: Fraction
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    label_smoothing: Fraction
    average_decay: Fraction
    rotation: Annotated[float, Field(ge=0, le=180)]
    translation: Annotated[float, Field(ge=0, le=1)]
    scaling: Fraction
    shear: Annotated[float, Field(ge=0, lt=90)]
    shifted_views: bool

    @model_validator(mode="after")
    def relations(self):
        left = TRAINING_IMAGES - self.validation_images
        if self.batch_size > left:
            raise ValueError(f"batch_size {self.batch_size} must be at most the {left} images left to train on")
        steps = self.epochs * -(-left // self.batch_size)
        if self.warmup and steps == 1:
            raise ValueError(
                f"warmup {self.warmup} leaves the only step without a rate: raise epochs, or lower batch_size"
            )
        if self.average_decay and steps < STEPS_PER_AVERAGE:
            raise ValueError(
                f"average_decay {self.average_decay} needs {STEPS_PER_AVERAGE} steps of training, not {steps}: "
                "raise epochs, or lower batch_size"
            )
        return self


class Mnist(Chapter[Recipe]):
    pass
