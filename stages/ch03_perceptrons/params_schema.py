"""What the section ch03 of params.yaml may hold."""

from typing import Annotated, Literal

from pydantic import Field

from stages.common.schema import Chapter, PositiveFloat, PositiveInt, Strict

Steps = Annotated[int, Field(ge=1, le=100_000)]
Runs = Annotated[int, Field(ge=1, le=1000)]


class Recipe(Strict):
    """One way through chapter 3."""

    activation_points: Annotated[int, Field(ge=30, le=100_000)]  # with fewer a slope looks like a jump
    target_noise: Annotated[float, Field(ge=0, le=1000)]
    neuron_rate: PositiveFloat
    neuron_steps: Steps
    layer_rate: PositiveFloat
    layer_epochs: Steps
    layer_loss: Literal["half", "sum"]
    xor_hidden: PositiveInt
    xor_rate: PositiveFloat
    xor_steps: Steps
    xor_runs: Runs
    output: Literal["linear", "relu"]
    multilayer_rate: PositiveFloat
    multilayer_steps: Steps
    multilayer_runs: Annotated[int, Field(ge=2, le=100)]
    softmax_dim: Literal["last", "implicit"]
    optimizer_steps: Steps
    sgd_rate: PositiveFloat
    adam_rate: PositiveFloat
    adagrad_rate: PositiveFloat


class Perceptrons(Chapter[Recipe]):
    pass
