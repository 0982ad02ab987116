"""What params.yaml may hold: types, ranges, and relations between keys, for all chapters at once.

Run as `python -m stages.params_schema` to check params.yaml, and the versions of packages, before anything works.
"""

import reprlib
import sys
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from stages.ch01_tensors.params_schema import Tensors
from stages.ch02_autograd.params_schema import Autograd
from stages.ch03_perceptrons.params_schema import Perceptrons
from stages.ch04_housing.params_schema import Housing
from stages.ch05_recurrent_cells.params_schema import RecurrentCells
from stages.ch06_timeseries.params_schema import TimeSeries
from stages.ch07_mnist.params_schema import Mnist
from stages.ch08_graphs.params_schema import Graphs
from stages.ch09_translation.params_schema import Translation
from stages.common.params import PARAMS_FILE, ParametersError, checked_parameters, read_yaml, report
from stages.common.schema import Seed, Strict
from stages.packages import check_installed


class Parameters(Strict):
    """params.yaml: what several chapters share, then a section a chapter."""

    seed: Seed
    device: Literal["auto", "cpu", "cuda", "mps"]
    instructions: Literal["avx2", "native"]
    noise_level: Annotated[float, Field(ge=0, le=10)]
    ch01: Tensors
    ch02: Autograd
    ch03: Perceptrons
    ch04: Housing
    ch05: RecurrentCells
    ch06: TimeSeries
    ch07: Mnist
    ch08: Graphs
    ch09: Translation


def first_problem(values: dict) -> str | None:
    """Return one line that names the first wrong key, its value and what is allowed, or None if all is well.

    Raises:
        ParametersError: if the parameters are all right, and a package is of another version than results depend on.
    """
    try:
        Parameters.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        value, message = reprlib.repr(first["input"]), first["msg"]
        match first["type"]:
            case "missing":
                return f"{key} is missing"
            case "extra_forbidden":
                return f"{key} = {value}: there is no such parameter"
            case "value_error":  # a relation between keys: its message names them and their values
                return f"{key}: {first['ctx']['error']}"
            case "model_type":
                return f"{key} = {value}: must be a section with keys of its own"
            case "too_short" | "too_long":
                bounds = first["ctx"]
                bound = (
                    f"at least {bounds['min_length']}" if "min_length" in bounds else f"at most {bounds['max_length']}"
                )
                return f"{key} = {value}: must have {bound} values"
        return f"{key} = {value}: {message[0].lower()}{message[1:]}"
    check_installed()  # here, since every stage comes by that reads a parameter
    return None


def main() -> int:
    try:
        checked_parameters(read_yaml(PARAMS_FILE))
    except ParametersError as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
