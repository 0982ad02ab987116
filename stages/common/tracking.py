"""MLflow: one experiment a chapter, one run a training; what is measured later lands in the run that trained.

The store is SQLite in the root of the main workspace (DVC_ROOT), also for stages that DVC runs in a temporary copy of
the repository, unless MLFLOW_TRACKING_URI names another. A run is found again by the SHA-256 of the model's file: a run
id in a DVC output would make that output different from run to run.
"""

import json
import logging
import os
import subprocess
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import that would start it

import mlflow
import numpy as np
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from stages.common.files import file_hash
from stages.common.params import dependency_hashes, main_root

METRICS_PER_BATCH = 1000  # MLflow refuses larger batches
MODEL_TAG = "model_sha256"
EXPERIMENT_TAG = "dvc.experiment"

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)


def record_training(
    stage: str,
    variant: str | None,
    model_file: Path,
    parameters: Mapping[str, object],
    history: Mapping[str, Sequence[float]],
    datasets: Mapping[str, Path],
    started: float,
    model=None,
    example: np.ndarray | None = None,
) -> str:
    """Record a finished training as one MLflow run and return the run's id.

    Args:
        stage: name in dvc.yaml, such as "ch06_train"; the chapter before "_" names the MLflow experiment.
        variant: which of a matrix, such as "rnn", or None.
        model_file: the trained weights as they lie in the stage's outputs.
        parameters: names and values, as the stage used them.
        history: metric name to its value after each epoch, first epoch first.
        datasets: name to file; the digest is the MD5 that DVC knows the file by.
        started: `time.time()` at the start of training.
        model: the torch.nn.Module in evaluation mode, logged with a signature; None logs no model.
        example: a batch of inputs, shape (batch, …), from which the signature is taken.
    """
    client, experiment_id = _open_experiment(stage)
    name = "-".join(filter(None, [os.environ.get("DVC_EXP_NAME", "repro"), variant]))
    run = client.create_run(experiment_id, start_time=int(started * 1000), run_name=name)
    tags = {MODEL_TAG: file_hash(model_file, "sha256"), **_provenance(stage, variant)}
    with mlflow.start_run(run_id=run.info.run_id):
        client.log_batch(
            run.info.run_id,
            params=[Param(key, str(value)) for key, value in parameters.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        _log_history(client, run.info.run_id, {**history, "train_seconds": [time.time() - started]})
        inputs = [
            DatasetInput(
                Dataset(name, file_hash(path, "md5"), "local", json.dumps({"uri": path.as_posix()})),
                [InputTag("mlflow.data.context", "training")],
            )
            for name, path in datasets.items()
        ]
        client.log_inputs(run.info.run_id, inputs)
        if model is not None:
            _log_model(model, example)
    return run.info.run_id


def record_results(
    stage: str,
    model_file: Path,
    metrics: Mapping[str, float] | None = None,
    parameters: Mapping[str, object] | None = None,
    figures: Sequence[Path] = (),
) -> str:
    """Add metrics, parameters and figures to the run that trained `model_file`, and return the run's id.

    The parameters are those that training didn't depend on and a reader compares runs by.

    Where no run trained it (the store was removed, or another machine trained), they get a run of their own.
    """
    client, experiment_id = _open_experiment(stage)
    model_hash = file_hash(model_file, "sha256")
    runs = client.search_runs([experiment_id], f"tags.{MODEL_TAG} = '{model_hash}'", order_by=["start_time DESC"])
    # The same bytes may have been trained more than once: prefer the run of this experiment, then the newest.
    name = os.environ.get("DVC_EXP_NAME", "")
    runs.sort(key=lambda run: run.data.tags.get(EXPERIMENT_TAG, "") != name)
    if runs:
        run_id = runs[0].info.run_id
    else:
        run_id = client.create_run(experiment_id, run_name=name or "repro", tags={MODEL_TAG: model_hash}).info.run_id
        client.set_terminated(run_id)
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in (parameters or {}).items()])
    _log_history(client, run_id, {key: [value] for key, value in (metrics or {}).items()})
    for figure in figures:
        client.log_artifact(run_id, str(figure), "figures")
    return run_id


def _open_experiment(stage: str) -> tuple[mlflow.MlflowClient, str]:
    root, chapter = main_root(), stage.split("_")[0]
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri or f"sqlite:///{(root / 'mlflow.db').as_posix()}")
    # Two first writers at once crash while they create the schema, so one at a time opens the store.
    with FileLock(root / ".mlflow.lock"):
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(chapter)
        if experiment is None:
            # Without a location of its own, an experiment made in a temporary workspace keeps its artifacts there.
            location = None if uri else (root / "mlartifacts" / chapter).as_uri()
            try:
                return client, client.create_experiment(chapter, artifact_location=location)
            except MlflowException:  # a writer on another machine was first
                experiment = client.get_experiment_by_name(chapter)
                if experiment is None:
                    raise
    return client, experiment.experiment_id


def _log_history(client: mlflow.MlflowClient, run_id: str, history: Mapping[str, Sequence[float]]) -> None:
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, float(value), now, epoch)
        for name, values in history.items()
        for epoch, value in enumerate(values, start=1)
    ]
    for start in range(0, len(metrics), METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])


def _log_model(model, example: np.ndarray) -> None:
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    with torch.no_grad():
        output = model(torch.from_numpy(example)).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export remarks on its own handling of recurrent layers' weights
        mlflow.pytorch.log_model(
            model,
            name="model",
            signature=infer_signature(example, output),
            input_example=example,
            # Named, because MLflow would else start another Python to find out.
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
            serialization_format="pt2",  # an exported graph, no pickle
        )


def _provenance(stage: str, variant: str | None) -> dict[str, str]:
    tags = {
        "dvc.stage": os.environ.get("DVC_STAGE", f"{stage}@{variant}" if variant else stage),
        EXPERIMENT_TAG: os.environ.get("DVC_EXP_NAME", ""),
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "dvc.dependencies": json.dumps(dependency_hashes(stage, variant)),
        "git.dirty": str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower(),
    }
    revision = _git("rev-parse", "HEAD")
    return {**tags, "mlflow.source.git.commit": revision} if revision else tags


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository: the run is recorded all the same
        return ""
