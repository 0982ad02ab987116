"""What the section ch08 of params.yaml may hold."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.schema import Chapter, Dropout, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Strict

Runs = Annotated[int, Field(ge=2, le=1000)]


class Recipe(Strict):
    """One way through chapter 8."""

    features: Literal["normalized", "raw"]
    dense_aggregation: Literal["mean", "sum"]
    hidden_size: Annotated[int, Field(ge=2)]  # drawn in two dimensions
    heads: PositiveInt
    initial_weights: Literal["glorot", "library"]
    epochs: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    decayed: Literal["first", "all"]
    input_dropout: Dropout
    dropout: Dropout
    chosen_by: Literal["validation", "last"]
    validate_every: PositiveInt
    propagation_restart: Annotated[float, Field(gt=0, lt=1)]
    propagation_steps: PositiveInt
    best_hidden_size: PositiveInt
    best_epochs: PositiveInt
    best_learning_rate: PositiveFloat
    best_average_decay: Fraction
    samples: Annotated[int, Field(ge=1, le=16)]
    restart: Annotated[float, Field(gt=0, lt=1)]
    hops: PositiveInt
    node_dropout: Dropout
    temperature: Annotated[float, Field(ge=0.05, le=1)]  # far below, p^(1/T) is 0 for every class
    consistency: NonNegativeFloat
    warm_up: PositiveInt
    held_out_links: Annotated[float, Field(ge=0.001, le=0.9)]  # of 5,278
    motif_graphs: Annotated[int, Field(ge=2, le=100_000)]
    motif_nodes: Annotated[int, Field(ge=2, le=10_000)]
    link_channels: PositiveInt
    task_hidden_size: PositiveInt
    task_learning_rate: PositiveFloat
    task_epochs: PositiveInt

    @model_validator(mode="after")
    def relations(self):
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of heads {self.heads}")
        for name, epochs in (("epochs", self.epochs), ("best_epochs", self.best_epochs)):
            if epochs % self.validate_every:
                raise ValueError(f"{name} {epochs} must be a multiple of validate_every {self.validate_every}")
        return self


class Graphs(Chapter[Recipe]):
    runs: Runs
    splits: Runs
    best_runs: Runs
    source: Literal["graphdatascience", "planetoid"]
    batch_nodes: Annotated[int, Field(ge=0)]
    fan_out: PositiveInt
