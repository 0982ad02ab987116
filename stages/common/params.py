"""Parameters of a stage: params.yaml checked whole, then only what dvc.yaml declares for the stage.

In: params.yaml and dvc.yaml of the folder the step runs in. Out: an object whose attributes are the declared keys.

    parameters = declared_parameters("ch06_train")
    recipe = parameters.ch06.active            # the section that ch06.recipe names
    recipe.epochs, parameters.noise_level      # each is declared in dvc.yaml, or reading it is an error
"""

import hashlib
import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import ClassVar

import yaml

from stages.common.files import file_hash

PARAMS_FILE = "params.yaml"
PIPELINE_FILE = "dvc.yaml"


class UndeclaredParameterError(Exception):
    """A stage read a parameter that its entry in dvc.yaml doesn't declare."""


class ParametersError(Exception):
    """A file of parameters can't be used; the message is one line that names key, value and what is allowed."""

    def __init__(self, message: str, file: str = PARAMS_FILE):
        super().__init__(message)
        self.file = file


class Yaml12Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Reads plain scalars by YAML 1.2, as DVC does: 1e-5 is a number, 010 is ten, and yes is a word.

    It differs from DVC in what no parameter is written like, such as 1_000 and dates.
    With libyaml, where PyYAML was built with it, in a tenth of the time.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def construct_integer(self, node: yaml.Node) -> int:
        text = self.construct_scalar(node)
        return int(text, 0 if text.startswith(("0x", "0o")) else 10)


for tag, pattern, first in [
    ("null", r"^(?:null|Null|NULL|~|)$", ["n", "N", "~", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
]:
    Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), first)
Yaml12Loader.add_constructor("tag:yaml.org,2002:int", Yaml12Loader.construct_integer)


class Section:
    """Read-only view of the declared part of params.yaml: `section.key`, or `section.active` for the active recipe."""

    def __init__(self, stage: str, values: dict, declared: frozenset[str], prefix: str = ""):
        self._stage, self._values, self._declared, self._prefix = stage, values, declared, prefix

    def __getattr__(self, key: str):
        if key == "active":
            key = self.recipe
        path = f"{self._prefix}{key}"
        if path in self._declared:
            return self._values[key]
        if any(name.startswith(f"{path}.") for name in self._declared):
            return Section(self._stage, self._values[key], self._declared, f"{path}.")
        raise UndeclaredParameterError(f"{self._stage} reads {path}, which {PIPELINE_FILE} does not declare for it")

    def select(self, *keys: str) -> dict:
        """Return {key: value} of `keys`: arguments for a function that names them alike."""
        return {key: getattr(self, key) for key in keys}

    def fingerprint(self) -> str:
        """Return a hash of all that the stage's result depends on: its declared values, and its dependencies' bytes."""
        values = {name: value_at(name, self._values) for name in sorted(self._declared)}
        made_of = json.dumps([self._stage, values, dependency_hashes(self._stage)], sort_keys=True)
        return hashlib.sha256(made_of.encode()).hexdigest()


def declared_parameters(stage: str, wants_inputs: bool = True) -> Section:
    """Return the parameters that `stage` (its name in dvc.yaml, no variant) declares.

    The whole of params.yaml is checked first. A mistake in it ends the program: one line on stderr, exit status 2.
    So does, with status 1, an input of the stage that isn't there, unless it goes without (`wants_inputs` false).
    """
    try:
        values = checked_parameters(read_yaml(PARAMS_FILE))
        entry = stage_entry(stage)
        declared = frozenset(resolve(name, values) for name in entry.get("params", []))
    except ParametersError as error:
        sys.exit(report(error))
    if wants_inputs:
        check_inputs(stage, entry)
    return Section(stage, values, declared)


def check_inputs(stage: str, entry: dict) -> None:
    """End the program, with one line, if something that other stages make for this one isn't there.

    DVC looks for it before it starts a stage; this is for a step that someone starts by hand.
    """
    variant = dict(zip(entry.get("matrix", ()), sys.argv[1:], strict=False))  # as variant_of takes it
    inputs = (path for path in entry.get("deps", ()) if path.startswith(("data/", "metrics/")))
    for path in (resolve(path, {"item": variant}) for path in inputs):
        if not Path(path).exists():
            raise SystemExit(f"{stage}: there is no {path} yet: dvc repro {stage} runs what makes it, too")


def report(error: ParametersError) -> int:
    """Print `error` as one line on stderr; return the exit status of a wrong parameter, 2."""
    print(f"{error.file}: {error}", file=sys.stderr)
    return 2


def read_yaml(path: str | Path) -> dict:
    """Read a YAML mapping; raise ParametersError if the file can't be read or isn't a mapping."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Yaml12Loader)
    except FileNotFoundError:
        raise ParametersError(f"there is no such file in {os.getcwd()}", str(path)) from None
    except OSError as error:
        raise ParametersError(error.strerror, str(path)) from None
    except UnicodeDecodeError:
        raise ParametersError("not UTF-8 text", str(path)) from None
    except yaml.YAMLError as error:
        raise ParametersError("not valid YAML: " + " ".join(str(error).split()), str(path)) from None
    if not isinstance(values, dict):
        what = "empty" if values is None else type(values).__name__
        raise ParametersError(f"must be a mapping of keys to values, and is {what}", str(path))
    return values


def checked_parameters(values: dict) -> dict:
    """Return `values` if stages.params_schema accepts all of them; raise ParametersError at the first it doesn't."""
    # Loaded by name, so that the schema of every chapter doesn't become a dependency of every stage: a schema accepts
    # or refuses, it never changes a value, and so no stage's result depends on it.
    schema = importlib.import_module("stages.params_schema")
    problem = schema.first_problem(values)
    if problem:
        raise ParametersError(problem)
    return values


def stage_entry(stage: str) -> dict:
    """Return the entry of `stage` in dvc.yaml, as written (templates unresolved)."""
    stages = read_yaml(PIPELINE_FILE).get("stages", {})
    if stage not in stages:
        raise ParametersError(f"there is no stage {stage}", PIPELINE_FILE)
    return stages[stage]


def variant_of(stage: str) -> str:
    """Return the variant of `stage` that the command line names: one of its matrix in dvc.yaml, such as "lstm".

    Raises:
        SystemExit: with one line, if it names none, or one that isn't there.
    """
    (variants,) = stage_entry(stage)["matrix"].values()
    if len(sys.argv) != 2 or sys.argv[1] not in variants:
        raise SystemExit(f"{stage}: name one of {', '.join(variants)}, as dvc.yaml does")
    return sys.argv[1]


def resolve(text: str, values: dict) -> str:
    """Fill `${a.b}` in `text` from nested `values`, as DVC's templating does for scalars."""
    return re.sub(r"\$\{([^}]*)\}", lambda match: str(value_at(match[1].strip(), values)), text)


def value_at(name: str, values: dict):
    """Return the value that the dotted `name` has in nested `values`."""
    for key in name.split("."):
        values = values[key]
    return values


def dependency_hashes(stage: str, variant: str | None = None) -> dict[str, str]:
    """Return the MD5 of every file, not folder, that `stage` depends on; `variant` tells which of a matrix it is."""
    entry, values = stage_entry(stage), read_yaml(PARAMS_FILE)
    if variant:
        values["item"] = dict(zip(entry["matrix"], variant.split("-"), strict=True))
    paths = [resolve(dependency, values) for dependency in entry.get("deps", [])]
    return {path: file_hash(path, "md5") for path in paths if Path(path).is_file()}


def main_root() -> Path:
    """Return the main workspace's root, also when DVC runs the stage in a temporary copy of the repository."""
    return Path(os.environ.get("DVC_ROOT", os.getcwd())).absolute()
