"""MLflow: one experiment a chapter, one run a training; what is measured later lands in the run that trained.

MLflow takes some five seconds to load and to open its store. So a stage starts a second process first of all, which
does that while this one loads PyTorch and trains, and which records what this one tells it (stages/common/recorder.py):

    from stages.common import tracking

    if __name__ == "__main__":
        tracking.start("ch06_train")

    import torch
    …
    tracking.record_training("ch06_train", …)
"""

import contextlib
import gc
import importlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

RECORDER = "stages.common.recorder"

_recorder: subprocess.Popen | None = None


class RecordingError(SystemExit):
    """MLflow refused what a stage wanted to record: it ends the program with one line that says why."""

    def __init__(self, reason: str):
        # Not the address itself, which may have a password in it.
        where = "what MLFLOW_TRACKING_URI names" if os.environ.get("MLFLOW_TRACKING_URI") else "mlflow.db"
        super().__init__(f"MLflow could not record in {where}: {' '.join(reason.split())}")


def start(stage: str, model: Literal["module", "program", "none"] = "none") -> None:
    """Start the process that records for this one. Where none was started, this process records by itself.

    Args:
        stage: name in dvc.yaml, such as "ch06_train".
        model: what kind of model will be recorded, so that what it takes is loaded, too.
    """
    global _recorder
    # There is no garbage in what a stage loads, and looking for it takes half a second. set_up_torch has it looked for
    # again; stages that don't call that are short.
    gc.disable()
    if os.environ.get("RANK", "0") == "0":  # of several processes that train together, the first records
        command = [sys.executable, "-m", RECORDER, stage, str(os.getpid()), model]
        _recorder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def record_training(
    stage: str,
    variant: str | None,
    model_file: Path,
    history: Mapping[str, Sequence[float]],
    datasets: Mapping[str, Path],
    started: float,
    parameters: Mapping[str, object] | None = None,
    model=None,
    example=None,
    artifacts: Mapping[str, Path] | None = None,
    every: int = 1,
) -> str:
    """Record a finished training as one MLflow run and return the run's id.

    Args:
        stage: name in dvc.yaml, such as "ch06_train"; the chapter before "_" names the MLflow experiment.
        variant: which of the stage's trainings, such as "rnn", or None if it has one alone.
        model_file: the trained weights as they lie in the stage's outputs.
        history: metric name to its values after every so many epochs, first epoch first; `every` says how many.
        datasets: name to file; the digest is the MD5 that DVC knows the file by.
        started: `time.time()` at the start of training.
        parameters: names and values that are not in params.yaml under these names, such as a cell or a computed size.
            All that this stage and the ones before it declare is recorded anyway; where both have a name, these count.
        model: the torch.nn.Module in evaluation mode; or the path of a program that gives MLflow a model made of
            `artifacts` (mlflow.models.set_model). It is logged with a signature. None logs no model.
        example: what the signature is taken from: a batch of inputs, a NumPy array (batch, …) for a module; for a
            program a list of inputs, and a mapping of the other arguments that it takes.
        artifacts: name to file.

    Raises:
        RecordingError: if MLflow's store can't be opened or written.
        SystemExit: with one line, if what the stage depends on has changed since it began.
    """
    return _recorded(
        "record_training",
        stage,
        variant,
        model_file,
        history,
        datasets,
        started,
        ended=time.time(),
        parameters=parameters,
        model=model,
        example=example,
        artifacts=artifacts,
        every=every,
    )


def record_results(
    stage: str,
    model_file: Path,
    metrics: Mapping[str, float] | None = None,
    parameters: Mapping[str, object] | None = None,
    figures: Sequence[Path] = (),
) -> str:
    """Add metrics, parameters and figures to the run that trained `model_file`, and return the run's id.

    The parameters are those of the stages behind the training, and others that a reader compares results by.

    Where no run trained it (the store was removed, or another machine trained), they get a run of their own.

    Raises:
        RecordingError, SystemExit: as `record_training`.
    """
    return _recorded("record_results", stage, model_file, metrics, parameters, figures)


def _recorded(function: str, *arguments, **options) -> str:
    global _recorder
    if _recorder is None:
        return _recorded_here(function, *arguments, **options)
    try:
        pickle.dump((function, arguments, options), _recorder.stdin)
        _recorder.stdin.flush()
    except OSError:  # it never had the whole of it, so that nothing is recorded twice
        print(f"{RECORDER} is gone: recording without it", file=sys.stderr)
        with contextlib.suppress(OSError):
            _recorder.stdin.close()
        _recorder = None
        return _recorded_here(function, *arguments, **options)
    try:
        outcome, answer = pickle.load(_recorder.stdout)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise RecordingError(f"the process that records is gone, or says what it should not: {error!r}") from None
    if outcome == "failed":
        raise RecordingError(answer)
    if outcome == "refused":
        raise SystemExit(answer)
    return answer


def _recorded_here(function: str, *arguments, **options) -> str:
    # By name, because how something is recorded is no dependency of a stage: none of its outputs is made of it.
    record = getattr(importlib.import_module(RECORDER), function)
    try:
        return record(*arguments, **options)
    except Exception as error:
        raise RecordingError(f"{type(error).__name__}: {error}") from error
