"""Building blocks of the chapters' schemas of params.yaml."""

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Refuses unknown keys, and values of another type than the one written ("3" is no number, nor is true)."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Seed = Annotated[int, Field(ge=0, lt=2**31)]
Threads = Annotated[int, Field(ge=1, le=256)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Dropout = Annotated[float, Field(ge=0, le=0.99)]  # it is rounded to a multiple of 1/256, which must not become 1

Recipe = TypeVar("Recipe", bound=Strict)


class Chapter(Strict, Generic[Recipe]):
    """A chapter's section: two recipes with the same keys, and which of them is active."""

    recipe: Literal["tuned", "book"]
    num_threads: Threads
    tuned: Recipe
    book: Recipe
