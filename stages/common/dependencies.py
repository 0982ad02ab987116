"""What a stage's results depend on, as it was when the stage began and as it is now.

DVC looks at parameters and programs when a stage has ended. One that changed meanwhile would be taken for what the
outputs were made from: in dvc.lock, in DVC's cache, and in MLflow.
"""

import contextlib

from stages.common.files import file_hash
from stages.common.params import (
    PARAMS_FILE,
    PIPELINE_FILE,
    ParametersError,
    read_yaml,
    resolve,
    stage_entry,
    value_at,
)

# By stage, as the functions below of like names give them.
parameters_at_start: dict[str, dict[str, object]] = {}
own_at_start: dict[str, dict[str, object]] = {}


def remember(stage: str) -> None:
    """Keep what `stage` depends on now. What is wrong with it is found again, and told, by the stage itself."""
    with contextlib.suppress(Exception):
        own_at_start[stage] = own_dependencies(stage)
        parameters_at_start[stage] = parameters_behind(stage)


def parameters_behind(stage: str) -> dict[str, object]:
    """Return the parameters that `stage`, and those of its chapter before it, declare: all that its result depends on.

    Their names are without chapter and recipe: `window` for `ch06.tuned.window`.
    """
    values, stages = read_yaml(PARAMS_FILE), read_yaml(PIPELINE_FILE)["stages"]
    makers = {
        path: name
        for name, entry in stages.items()
        for kind in ("outs", "metrics", "plots")
        for path in _paths(entry, kind)
    }
    found, left = {}, [stage]
    while left:
        entry = stages.get(left.pop(), {})  # a run may be of a stage that is no longer there
        names = (resolve(name, values) for name in entry.get("params", []))
        found |= {name.split(".")[-1]: value_at(name, values) for name in names}
        left += [makers[path] for path in _paths(entry, "deps") if path in makers]
    return found


def own_dependencies(stage: str) -> dict[str, object]:
    """Return what DVC files the stage's outputs under and a user may edit: its parameters, and its programs' MD5."""
    values, entry = read_yaml(PARAMS_FILE), stage_entry(stage)
    names = [resolve(name, values) for name in entry.get("params", [])]
    programs = [path for path in entry.get("deps", []) if path.endswith(".py")]
    return {name: _found(name, values) for name in (*names, *programs)}


def _found(name: str, values: dict) -> object:
    """Return the value of a parameter in `values`, or the MD5 of a program."""
    return file_hash(name, "md5") if name.endswith(".py") else value_at(name, values)


def refuse_if_changed(stage: str) -> None:
    """End the stage if its own parameters or programs are others than when it began.

    Raises:
        SystemExit: with one line that names the first change.
    """
    if stage not in own_at_start:
        return
    try:
        values = read_yaml(PARAMS_FILE)
    except ParametersError as error:
        raise SystemExit(f"{error.file}: {error}") from None
    for name, then in own_at_start[stage].items():
        try:
            now = _found(name, values)
        except (OSError, KeyError, TypeError):
            raise SystemExit(f"{name} has gone since {stage} began: run it again") from None
        if now == then:
            continue
        if name.endswith(".py"):
            raise SystemExit(f"{name} has changed since {stage} began: run it again")
        raise SystemExit(f"{PARAMS_FILE}: {name} was {then} when {stage} began and is {now} now: run it again")


def _paths(entry: dict, kind: str) -> list[str]:
    """Return the paths that a stage in dvc.yaml has under `kind`, of all variants; each may be a mapping to options."""
    paths = [path if isinstance(path, str) else next(iter(path)) for path in entry.get(kind, [])]
    for key, variants in entry.get("matrix", {}).items():
        paths = [path.replace(f"${{item.{key}}}", variant) for path in paths for variant in variants]
    return paths
