"""What the section ch09 of params.yaml may hold."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.common.schema import Chapter, Dropout, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Seed, Strict

Count = Annotated[int, Field(ge=0)]
WIDEST_SEARCH, LARGEST_PENALTY = 64, 10


class Recipe(Strict):
    """One way through chapter 9."""

    pairs: Count
    tokenizer: Literal["wordlevel", "bpe"]
    vocabulary: Annotated[int, Field(ge=300, le=200_000)]  # the 256 bytes of "bpe" and the special tokens are in it
    min_frequency: PositiveInt
    longest: Annotated[int, Field(ge=6, le=5000)]  # a letter can be four tokens of "bpe", and begin with a blank
    d_model: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    d_ff: PositiveInt
    dropout: Dropout
    tied: bool
    cooccurrence: bool
    epochs: PositiveInt
    batch_pairs: Count
    batch_tokens: Count
    learning_rate: PositiveFloat
    beta2: Annotated[float, Field(gt=0, lt=1)]
    schedule: Literal["linear", "constant"]
    warmup: Fraction
    label_smoothing: Fraction
    clip_norm: NonNegativeFloat
    averaged_epochs: Count
    precision: Literal["auto", "float32", "bfloat16"]
    memory_pairs: Count
    memory_nearest: PositiveInt
    memory_temperature: Annotated[float, Field(ge=0.001, le=1000)]  # far below, no token has a share
    memory_reach: Annotated[float, Field(ge=0.001, le=1000)]
    beams: Annotated[int, Field(ge=1, le=WIDEST_SEARCH)]
    length_penalty: Annotated[float, Field(ge=0, le=LARGEST_PENALTY)]

    @model_validator(mode="after")
    def relations(self):
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} must be a multiple of heads {self.heads}")
        if bool(self.batch_pairs) == bool(self.batch_tokens):
            raise ValueError(
                f"batch_pairs {self.batch_pairs} and batch_tokens {self.batch_tokens}: one of them must be 0"
            )
        if self.averaged_epochs > self.epochs:
            raise ValueError(f"averaged_epochs {self.averaged_epochs} must be at most epochs {self.epochs}")
        return self


class Translation(Chapter[Recipe]):
    corpus: Literal["homeassistant", "opus_books"]
    launcher: Annotated[
        str, Field(pattern=r"^(python|torchrun|accelerate launch)( [\w.,:=/@+~\\-]+)* -m$")
    ]  # nothing that a shell acts on
    split_seed: Seed
    val_share: Annotated[float, Field(gt=0, le=0.4)]
    test_share: Annotated[float, Field(gt=0, le=0.4)]
