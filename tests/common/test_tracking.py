"""What the small chapter 6 leaves in MLflow: in the store, and over REST from the real tracking server."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import LoggedModelOutput
from safetensors.torch import load_file

from stages.ch06_timeseries.model import Forecaster
from stages.common import recorder, tracking
from stages.common.dependencies import parameters_behind
from stages.common.files import file_hash, read_json
from tests.conftest import end_within, running

SMALL = {
    "ch06.tuned.length": 120,
    "ch06.tuned.duration": 12.0,
    "ch06.tuned.window": 10,
    "ch06.tuned.loss_steps": 5,
    "ch06.tuned.hidden_size": 4,
    "ch06.tuned.epochs": 3,
    "ch06.compared_noise_levels": [0.1],
}
WINDOWS = "data/prepared/ch06/windows.npz"
FIGURES = ["figures/forecast.png", "figures/loss.png", "figures/noise_levels.png", "figures/series.png"]
METRICS = {
    *("r2", "rmse", "r2_ceiling", "r2_gap", "linear_r2", "persistence_r2"),
    *("r2_book_windows", "r2_book_windows_ceiling"),
}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def chapter(open_workspace):
    """The workspace after chapter 6 ran from a store that did not exist; then its RNN is trained as "noisy"."""
    with open_workspace(SMALL, store=False) as workspace:
        workspace.run("ch06")
        workspace.monkeypatch.setenv("DVC_EXP_NAME", "noisy")
        workspace.monkeypatch.setenv("DVC_STAGE", "ch06_train@rnn")
        workspace.set_parameters({**SMALL, "noise_level": 0.2})
        kept = {path: Path(path).read_bytes() for path in workspace.outputs()}
        for step in ("generate", "preprocess"):
            workspace.step(f"stages.ch06_timeseries.{step}")
        workspace.step("stages.ch06_timeseries.train", "rnn")
        workspace.step("stages.ch06_timeseries.evaluate", "rnn")
        for name in ("DVC_EXP_NAME", "DVC_STAGE"):
            workspace.monkeypatch.delenv(name)
        workspace.set_parameters(SMALL)
        for path, content in kept.items():
            Path(path).write_bytes(content)
        yield workspace


@pytest.fixture
def client(chapter) -> mlflow.MlflowClient:
    uri = f"sqlite:///{chapter.path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


def runs_by_name(client: mlflow.MlflowClient) -> dict[str, mlflow.entities.Run]:
    found = client.search_runs([client.get_experiment_by_name("ch06").experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def test_one_experiment_and_one_run_a_training(client, chapter):
    names = {experiment.name for experiment in client.search_experiments()}
    assert names == {"Default", "ch06"}
    # Evaluations and plots are in the run that trained, not in runs of their own.
    assert set(runs_by_name(client)) == {"repro-rnn", "repro-lstm", "noisy-rnn"}
    assert all(run.info.status == "FINISHED" for run in runs_by_name(client).values())
    location = client.get_experiment_by_name("ch06").artifact_location
    assert location == (chapter.path / "mlartifacts/ch06").as_uri()


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_parameters_are_those_used(client, cell):
    assert runs_by_name(client)[f"repro-{cell}"].data.params == {
        "recipe": "tuned",
        "seed": "0",
        "num_threads": "1",
        "instructions": "avx2",
        "cell": cell,
        "hidden_size": "4",
        "num_layers": "1",
        "epochs": "3",
        "batch_size": "64",
        "learning_rate": "0.01",
        "schedule": "one_cycle",
        "gradient_clip": "1.0",
        # Of the stages before:
        "noise_level": "0.1",
        "window": "10",
        "length": "120",
        "duration": "12.0",
        "test_times": "later",
        "steps_ahead": "1",
        "windows": "all",
        "loss_steps": "5",
    }


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_history_and_test_metrics(client, chapter, cell):
    run = runs_by_name(client)[f"repro-{cell}"]
    rows = (chapter.path / f"metrics/history/ch06/{cell}.csv").read_text().splitlines()[1:]
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert [f"{metric.value:.6g}" for metric in history] == [row.split(",")[1] for row in rows]
    metrics = read_json(chapter.path / f"metrics/ch06/{cell}.json")
    assert metrics.keys() == METRICS
    logged = run.data.metrics
    assert logged.keys() == {"train_loss", "train_seconds", *(f"test_{name}" for name in METRICS)}
    assert {name: logged[f"test_{name}"] for name in METRICS} == metrics


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_models_can_be_compared_by_the_results(client, chapter, cell):
    run = runs_by_name(client)[f"repro-{cell}"]
    (model,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    found = {metric.key: metric.value for metric in model.metrics}
    assert found == {f"test_{name}": run.data.metrics[f"test_{name}"] for name in METRICS}


def test_another_experiments_run_has_its_own_results(client):
    runs = runs_by_name(client)
    # Var(target) is about 1/2, so that the ceilings differ by about 2·(0.2² − 0.1²).
    assert runs["noisy-rnn"].data.metrics["test_r2_ceiling"] < runs["repro-rnn"].data.metrics["test_r2_ceiling"] - 0.03
    assert runs["noisy-rnn"].data.tags["dvc.experiment"] == "noisy"
    assert runs["repro-rnn"].data.tags["dvc.experiment"] == ""


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_tags_tell_where_the_run_came_from(client, chapter, cell):
    tags = runs_by_name(client)[f"repro-{cell}"].data.tags
    assert (tags["dvc.stage"], tags["variant"]) == (f"ch06_train@{cell}", cell)
    assert tags["mlflow.source.name"] == "ch06_train"
    assert tags["model_sha256"] == file_hash(chapter.path / f"data/models/ch06/{cell}.safetensors", "sha256")
    dependencies = json.loads(tags["dvc.dependencies"])
    assert dependencies[WINDOWS] == file_hash(chapter.path / WINDOWS, "md5")
    code = "stages/ch06_timeseries/train.py"
    assert dependencies[code] == file_hash(chapter.path / code, "md5")


def test_git_revision_is_a_tag(client, chapter, tmp_path, monkeypatch):
    from stages.common.tracking import record_training

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"]
        return subprocess.run(["git", *identity, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((chapter.path / name).read_bytes())
    (tmp_path / "mlflow.db").write_bytes((chapter.path / "mlflow.db").read_bytes())
    (tmp_path / "model").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # which MLflow sets itself
    git("init", "-q")
    git("add", "dvc.yaml", "params.yaml")
    git("commit", "-qm", "Pipeline")
    tags = []
    for change in ("", "# changed\n"):
        with open("params.yaml", "a") as file:
            file.write(change)
        run_id = record_training("ch06_train", "rnn", Path("model"), {}, {}, time.time())
        tags.append(mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(run_id).data.tags)
    assert [tag["mlflow.source.git.commit"] for tag in tags] == [git("rev-parse", "HEAD")] * 2
    assert [tag["git.dirty"] for tag in tags] == ["false", "true"]


def test_dataset_has_dvcs_hash(client, chapter):
    for name in ("repro-rnn", "repro-lstm"):
        (entry,) = runs_by_name(client)[name].inputs.dataset_inputs
        assert (entry.dataset.name, entry.dataset.digest) == ("ch06_windows", file_hash(chapter.path / WINDOWS, "md5"))
        assert json.loads(entry.dataset.source) == {"uri": WINDOWS}
        assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "training")]
    (noisy,) = runs_by_name(client)["noisy-rnn"].inputs.dataset_inputs
    assert noisy.dataset.digest != file_hash(chapter.path / WINDOWS, "md5")


def test_figures_are_in_the_run(client, chapter):
    for name in ("repro-rnn", "repro-lstm"):
        run_id = runs_by_name(client)[name].info.run_id
        assert sorted(file.path for file in client.list_artifacts(run_id, "figures")) == FIGURES
        for path in FIGURES:
            drawn = chapter.path / "metrics/plots/ch06" / Path(path).name
            stored = chapter.path / "mlartifacts/ch06" / run_id / "artifacts" / path
            assert stored.read_bytes() == drawn.read_bytes()


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_model_comes_back_with_its_signature(client, chapter, cell):
    run = runs_by_name(client)[f"repro-{cell}"]
    uri = f"runs:/{run.info.run_id}/model"
    signature = mlflow.models.get_model_info(uri).signature
    shapes = [[(tensor.type, tensor.shape) for tensor in schema] for schema in (signature.inputs, signature.outputs)]
    assert shapes == [[(np.dtype("float32"), (-1, 10))], [(np.dtype("float32"), (-1,))]]
    plain = Forecaster(cell, hidden_size=4, num_layers=1).eval()
    plain.load_state_dict(load_file(chapter.path / f"data/models/ch06/{cell}.safetensors"))
    with np.load(chapter.path / WINDOWS) as windows:
        inputs = torch.from_numpy(windows["test_inputs"])
    loaded = mlflow.pytorch.load_model(uri)
    with torch.no_grad():
        torch.testing.assert_close(loaded(inputs[:2]), plain(inputs[:2]))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_model_takes_any_batch_that_its_signature_allows(client, chapter, batch_size):
    uri = f"runs:/{runs_by_name(client)['repro-lstm'].info.run_id}/model"
    with np.load(chapter.path / WINDOWS) as windows:
        inputs = windows["test_inputs"][:batch_size]
    predictions = mlflow.pyfunc.load_model(uri).predict(inputs)
    with np.load(chapter.path / "data/evaluated/ch06/lstm.npz") as forecast:
        np.testing.assert_allclose(predictions, forecast["predictions"][:batch_size], rtol=1e-4, atol=1e-5)


def test_there_is_no_pickle(chapter):
    files = [path for path in (chapter.path / "mlartifacts").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"MLmodel", "loss.png"} <= names
    assert [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth")] == []
    assert "pickle_module_info.txt" not in names
    # A pickle of protocol 2 or later begins with byte 0x80 and ends with a full stop.
    assert [path for path in files if path.read_bytes()[:1] == b"\x80" and path.read_bytes()[-1:] == b"."] == []


def test_results_go_to_the_newest_training_also_where_a_parameter_is_auto(chapter, tmp_path, monkeypatch):
    shutil.copyfile(chapter.path / "mlflow.db", tmp_path / "mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(recorder, "parameters_behind", lambda stage: {"seed": 0, "precision": "auto"})
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiment = client.create_experiment("ch09")
    runs = []
    for start, precision in enumerate(("auto", "float32")):
        tags = {recorder.MODEL_TAG: "same", recorder.STAGE_TAG: "ch09_train"}
        run = client.create_run(experiment, start_time=start + 1, tags=tags)
        for key, value in (("seed", "0"), ("precision", precision)):
            client.log_param(run.info.run_id, key, value)
        runs.append(run.info.run_id)
    assert recorder._run_of_results(client, experiment, "ch09_evaluate", "same", {"beams": "4"}) == runs[-1]


def test_without_the_training_run_results_get_one_of_their_own(chapter, open_workspace, monkeypatch):
    with open_workspace(SMALL) as other:
        for path, content in chapter.outputs().items():
            (other.path / path).parent.mkdir(parents=True, exist_ok=True)
            (other.path / path).write_bytes(content)
        for _ in range(2):  # the second finds the run of the first
            other.step("stages.ch06_timeseries.evaluate", "lstm")
        client = mlflow.MlflowClient(f"sqlite:///{other.path}/mlflow.db")
        (run,) = runs_by_name(client).values()
        assert (run.info.run_name, run.info.status) == ("repro", "FINISHED")
        assert run.data.tags["mlflow.source.name"] == "ch06_evaluate" and "git.dirty" in run.data.tags
        assert run.data.tags["model_sha256"] == file_hash("data/models/ch06/lstm.safetensors", "sha256")
        metrics = read_json("metrics/ch06/lstm.json")
        assert run.data.metrics == {f"test_{name}": value for name, value in metrics.items()}


def test_another_evaluation_of_a_model_has_a_run_of_its_own(chapter, client, monkeypatch):
    monkeypatch.chdir(chapter.path)
    before = runs_by_name(client)
    model = Path("data/models/ch06/rnn.safetensors")

    def record(experiment: str, r2: float, window: int) -> str:
        monkeypatch.setenv("DVC_EXP_NAME", experiment)
        return tracking.record_results("ch06_evaluate", model, {"test_r2": r2}, {"window": window})

    try:
        # The model of "repro" is evaluated in an experiment that didn't train it, and again there.
        first = record("wider", 0.5, 10)
        assert record("wider", 0.6, 10) == first
        # With another value of a parameter that the run has already, which MLflow doesn't let anyone change.
        second = record("wider", 0.7, 20)
        third = record("", 0.8, 30)
        assert len({first, second, third, *(run.info.run_id for run in before.values())}) == len(before) + 3
        repro = client.get_run(before["repro-rnn"].info.run_id)
        assert repro.data.metrics == before["repro-rnn"].data.metrics
        for run_id, name, experiment, r2, window in [
            (first, "wider-rnn", "wider", 0.6, "10"),
            (second, "wider-rnn", "wider", 0.7, "20"),
            (third, "repro-rnn", "", 0.8, "30"),
        ]:
            run = client.get_run(run_id)
            assert (run.info.run_name, run.info.status) == (name, "FINISHED")
            assert (run.data.tags["dvc.experiment"], run.data.tags["variant"]) == (experiment, "rnn")
            assert run.data.tags["model_sha256"] == repro.data.tags["model_sha256"]
            assert run.data.metrics == {"test_r2": r2}
            assert run.data.params == {**repro.data.params, "window": window}
        # With the parameters that it has, the run that trained gets the results.
        assert record("", repro.data.metrics["test_r2"], 10) == repro.info.run_id
    finally:
        for run_id in (first, second, third):
            client.delete_run(run_id)


# The tracking server.


@pytest.fixture(scope="module")
def server(chapter, tmp_path_factory):
    """The address of `mlflow server` on the chapter's store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{chapter.path}/mlflow.db"]
    # Without the workers for jobs of MLflow's own, which the store has no part in, it starts in half the time.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while not answers(f"{address}/health"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def get(url: str, **query: str) -> bytes:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}", timeout=30) as response:
        return response.read()


def post(url: str, **body: object) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


@pytest.fixture(scope="module")
def served(server) -> tuple[str, dict[str, dict]]:
    """The experiment's id and its runs by name, as the server gives them."""
    api = f"{server}/api/2.0/mlflow"
    experiments = post(f"{api}/experiments/search", max_results=10, filter="name = 'ch06'")["experiments"]
    assert [experiment["name"] for experiment in experiments] == ["ch06"]
    experiment_id = experiments[0]["experiment_id"]
    found = post(f"{api}/runs/search", experiment_ids=[experiment_id])["runs"]
    return experiment_id, {run["info"]["run_name"]: run for run in found}


def test_server_gives_the_runs(served, client):
    _, runs = served
    assert set(runs) == {"repro-rnn", "repro-lstm", "noisy-rnn"}
    for name, stored in runs_by_name(client).items():
        data = runs[name]["data"]
        assert {item["key"]: item["value"] for item in data["params"]} == stored.data.params
        assert {item["key"]: item["value"] for item in data["metrics"]} == stored.data.metrics
        assert {item["key"]: item["value"] for item in data["tags"]} == stored.data.tags
        (dataset,) = runs[name]["inputs"]["dataset_inputs"]
        assert dataset["dataset"]["digest"] == stored.inputs.dataset_inputs[0].dataset.digest


def test_server_gives_the_history(server, served):
    run_id = served[1]["repro-rnn"]["info"]["run_id"]
    answer = json.loads(get(f"{server}/api/2.0/mlflow/metrics/get-history", run_id=run_id, metric_key="train_loss"))
    assert sorted(metric["step"] for metric in answer["metrics"]) == [1, 2, 3]


def test_server_gives_the_figures(server, served, chapter):
    run_id = served[1]["repro-lstm"]["info"]["run_id"]
    listed = json.loads(get(f"{server}/api/2.0/mlflow/artifacts/list", run_id=run_id, path="figures"))
    assert sorted(file["path"] for file in listed["files"]) == FIGURES
    for path in FIGURES:
        picture = get(f"{server}/get-artifact", run_uuid=run_id, path=path)
        assert picture.startswith(PNG)
        assert picture == (chapter.path / "metrics/plots/ch06" / Path(path).name).read_bytes()


def test_server_gives_the_models(server, served, chapter):
    experiment_id, runs = served
    models = post(f"{server}/api/2.0/mlflow/logged-models/search", experiment_ids=[experiment_id])["models"]
    by_run = {model["info"]["source_run_id"]: model["info"] for model in models}
    assert by_run.keys() == {run["info"]["run_id"] for run in runs.values()}
    for info in by_run.values():
        assert (info["name"], info["status"]) == ("model", "LOGGED_MODEL_READY")
        model = f"{server}/api/2.0/mlflow/logged-models/{info['model_id']}"
        files = json.loads(get(f"{model}/artifacts/directories"))["files"]
        paths = {file["path"] for file in files}
        assert {"MLmodel", "data"} <= paths
        data = json.loads(get(f"{model}/artifacts/directories", artifact_directory_path="data"))["files"]
        (weights,) = (file for file in data if file["path"].endswith(".pt2"))
        content = get(
            f"{server}/ajax-api/2.0/mlflow/logged-models/{info['model_id']}/artifacts/files",
            artifact_file_path=weights["path"],
        )
        assert len(content) == int(weights["file_size"])
        assert content.startswith(b"PK")  # an archive of the exported program


# The process that records.


def run_stage(workspace, *command: str, **variables: str) -> subprocess.CompletedProcess:
    """Run `python command` in the workspace as DVC would, on one thread."""
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment = {**inherited, "PYTHONPATH": str(workspace.path), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", **variables}
    return subprocess.run(
        [sys.executable, *command], cwd=workspace.path, env=environment, capture_output=True, text=True, timeout=200
    )


APART = """
import runpy, sys

sys.argv[1:] = ["rnn"]
runpy.run_module("stages.ch06_timeseries.train", run_name="__main__")
assert "mlflow" not in sys.modules
"""


def test_a_stage_records_through_a_process_of_its_own(chapter, client):
    begun = time.time()
    before = {name: run.info.run_id for name, run in runs_by_name(client).items()}
    result = run_stage(chapter, "-c", APART, DVC_EXP_NAME="apart")
    assert result.returncode == 0, result.stderr
    runs = runs_by_name(client)
    assert set(runs) == {*before, "apart-rnn"}
    found, expected = runs["apart-rnn"], runs["repro-rnn"]
    assert found.data.params.items() <= expected.data.params.items()  # the other has what evaluation added, too
    assert {"seed", "cell", "epochs"} <= found.data.params.keys()
    assert found.data.tags["model_sha256"] == expected.data.tags["model_sha256"]
    histories = (client.get_metric_history(run.info.run_id, "train_loss") for run in (found, expected))
    (history,) = {tuple(metric.value for metric in history) for history in histories}
    assert len(history) == 3
    assert 0 < found.data.metrics["train_seconds"] < time.time() - begun
    loaded, plain = (mlflow.pytorch.load_model(f"runs:/{run.info.run_id}/model") for run in (found, expected))
    inputs = torch.randn(2, 10)
    torch.testing.assert_close(loaded(inputs), plain(inputs))
    client.delete_run(found.info.run_id)


LOST = """
import runpy, sys
from stages.common import tracking

def start(*arguments, started=tracking.start, **options):
    started(*arguments, **options)
    tracking._recorder.kill()
    tracking._recorder.wait()

tracking.start = start
sys.argv[1:] = ["rnn"]
runpy.run_module("stages.ch06_timeseries.train", run_name="__main__")
"""


def test_without_the_process_that_records_the_stage_does_it_itself(chapter, client):
    result = run_stage(chapter, "-c", LOST, DVC_EXP_NAME="lost")
    assert result.returncode == 0, result.stderr
    assert "stages.common.recorder is gone: recording without it" in result.stderr.splitlines()
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr
    runs = runs_by_name(client)
    assert len(client.get_metric_history(runs["lost-rnn"].info.run_id, "train_loss")) == 3
    client.delete_run(runs["lost-rnn"].info.run_id)


def test_a_store_that_cannot_be_reached_ends_the_stage_with_its_reason(chapter):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://anna:secret@127.0.0.1:{closed.getsockname()[1]}"  # bound, but nobody listens
        result = run_stage(chapter, "-m", "stages.ch06_timeseries.evaluate", "rnn", MLFLOW_TRACKING_URI=address)
    assert result.returncode == 1
    start = "MLflow could not record in what MLFLOW_TRACKING_URI names: MlflowException: "
    warning, last = result.stderr.splitlines()
    assert warning.startswith("MLFLOW_TRACKING_URI: no answer there (ConnectionError); ")
    assert last.startswith(start) and address.removeprefix("http://anna:secret@127.0.0.1:") in last
    assert "secret" not in result.stderr


@pytest.mark.parametrize(("status", "told"), [(200, ""), (401, ""), (403, "403 Forbidden"), (502, "502 Bad Gateway")])
def test_a_server_that_refuses_is_told_of_at_once(status, told, capsys):
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.handle_request).start()
        recorder._warn_of_silent_server(f"http://127.0.0.1:{server.server_port}")
    found = capsys.readouterr().err
    assert found.startswith(f"MLFLOW_TRACKING_URI: its answer is {told}; the stage goes on") if told else not found


def test_a_model_that_was_deleted_takes_no_results(tmp_path):
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs.db")
    experiment = client.create_experiment("ch06", artifact_location=tmp_path.as_uri())
    run_id = client.create_run(experiment).info.run_id
    assert recorder._model_of(client, run_id) is None
    model = client.create_logged_model(experiment, source_run_id=run_id)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    assert recorder._model_of(client, run_id) == model.model_id
    client.delete_logged_model(model.model_id)
    assert recorder._model_of(client, run_id) is None


def test_a_store_that_is_no_database_ends_the_stage_with_its_reason(chapter, tmp_path):
    (tmp_path / "mlflow.db").write_text("no database " * 100, encoding="utf-8")
    result = run_stage(chapter, "-m", "stages.ch06_timeseries.evaluate", "rnn", DVC_ROOT=str(tmp_path))
    assert result.returncode == 1
    first, last = result.stderr.splitlines()
    assert first.startswith("mlflow.db: file is not a database; the stage goes on")
    assert last == "MLflow could not record in mlflow.db: DatabaseError: file is not a database"


def test_a_store_by_name_that_is_no_database_is_told_of_at_once(chapter, tmp_path):
    (tmp_path / "class.db").write_text("no database " * 100, encoding="utf-8")
    settings = {"DVC_ROOT": str(tmp_path), "MLFLOW_TRACKING_URI": "sqlite:///class.db"}
    result = run_stage(chapter, "-m", "stages.ch06_timeseries.evaluate", "rnn", **settings)
    assert result.returncode == 1
    first, *_, last = result.stderr.splitlines()
    assert first.startswith("MLFLOW_TRACKING_URI: ") and "file is not a database" in first
    assert "; the stage goes on" in first
    assert last.startswith("MLflow could not record in what MLFLOW_TRACKING_URI names: ")
    assert "file is not a database" in last


def test_a_dirty_workspace_is_told_without_a_lock_on_gits_index(monkeypatch, tmp_path):
    from stages.common import recorder

    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    Path("Анализ.md").write_text("x", encoding="utf-8")
    subprocess.run(["git", "config", "core.quotepath", "false"], check=True)
    subprocess.run(["git", "add", "-A"], check=True)
    os.utime("Анализ.md", (1, 1))  # so that git would have something to refresh
    before = Path(".git/index").read_bytes()
    monkeypatch.setenv("LC_ALL", "C")
    assert recorder._git("status", "--porcelain") == "A  Анализ.md"
    assert Path(".git/index").read_bytes() == before


@pytest.mark.parametrize("deleted", [False, True], ids=["fresh", "deleted"])
def test_a_relative_store_lies_in_the_main_workspace(chapter, monkeypatch, tmp_path, deleted):
    copy, main = tmp_path / "copy", tmp_path / "main"
    copy.mkdir()
    main.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(main))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    monkeypatch.chdir(copy)
    model, figure = chapter.path / "data/models/ch06/rnn.safetensors", tmp_path / "figure.png"
    figure.write_bytes(PNG)
    client = mlflow.MlflowClient(f"sqlite:///{main}/runs.db")
    if deleted:
        experiment = client.create_experiment("ch06", artifact_location=(main / "mlartifacts").as_uri())
        earlier = client.create_run(experiment).info.run_id
        client.delete_experiment(experiment)
    run = client.get_run(tracking.record_results("ch06_evaluate", model, {"r2": 0.5}, figures=[figure]))
    assert run.data.metrics == {"r2": 0.5} and list(copy.iterdir()) == []
    assert [path.name for path in (main / "mlartifacts").rglob("*.png")] == ["figure.png"]
    if deleted:
        assert client.get_run(earlier).info.lifecycle_stage == "deleted"  # MLflow would restore it with the experiment


@pytest.mark.parametrize(
    "uri, expected",
    [
        ("sqlite:///mlflow.db", "sqlite:////main/mlflow.db"),
        ("sqlite:////other/mlflow.db", "sqlite:////other/mlflow.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("./mlruns", "/main/mlruns"),
        ("/other/mlruns", "/other/mlruns"),
        ("http://server:5000", "http://server:5000"),
        ("postgresql://server/runs", "postgresql://server/runs"),
        ("databricks", "databricks"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="paths of POSIX")
def test_a_relative_path_is_taken_from_the_workspaces_root(uri, expected):
    assert recorder._in_folder(uri, Path("/main")) == expected


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("sqlite:////main/mlflow.db", True),
        ("postgresql://server/runs", True),
        ("mysql+pymysql://server/runs", True),
        ("http://server:5000", False),
        ("databricks", False),
        ("/main/mlruns", False),
    ],
)
def test_artifacts_of_a_database_are_in_the_main_workspace(uri, named, tmp_path):
    expected = (tmp_path / "mlartifacts/ch06").as_uri() if named else None
    assert recorder._location_of(uri, tmp_path, "ch06") == expected


CHANGED = """
import sqlite3, sys, time
from pathlib import Path
from stages.common import tracking

tracking.start("ch06_train")
store = sqlite3.connect("mlflow.db")
while not store.execute("SELECT 1 FROM experiments WHERE name = 'ch06'").fetchall():  # the other process has begun
    time.sleep(0.1)
parameters = Path("params.yaml")
parameters.write_text(parameters.read_text().replace(*sys.argv[1:]))
Path("model").write_text("weights")
tracking.record_training("ch06_train", "rnn", Path("model"), {}, {}, time.time(), {"hidden_size": 99})
"""


def test_parameters_are_those_at_the_stages_start_and_the_stages_own(open_workspace):
    with open_workspace(SMALL) as workspace:
        result = run_stage(workspace, "-c", CHANGED, "window: 10", "window: 9")
        assert result.returncode == 0, result.stderr
        assert "window: 9" in Path("params.yaml").read_text()
        (run,) = runs_by_name(mlflow.MlflowClient(f"sqlite:///{workspace.path}/mlflow.db")).values()
        expected = {"window": "10", "epochs": "3", "hidden_size": "99", "noise_level": "0.1"}
        assert run.data.params.items() >= expected.items()


def test_a_stage_whose_own_parameters_changed_meanwhile_records_nothing(open_workspace):
    with open_workspace(SMALL) as workspace:
        result = run_stage(workspace, "-c", CHANGED, "epochs: 3", "epochs: 4")
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line == "params.yaml: ch06.tuned.epochs was 3 when ch06_train began and is 4 now: run it again"
        assert runs_by_name(mlflow.MlflowClient(f"sqlite:///{workspace.path}/mlflow.db")) == {}


def test_results_go_to_the_training_with_the_present_parameters(open_workspace, monkeypatch):
    with open_workspace(SMALL) as workspace:
        Path("model").write_bytes(b"the same with both seeds")
        trained = {}
        for seed in (0, 1):
            workspace.set_parameters({**SMALL, "seed": seed})
            trained[seed] = tracking.record_training("ch06_train", "rnn", Path("model"), {}, {}, time.time() + seed)
        for seed in (0, 1):
            workspace.set_parameters({**SMALL, "seed": seed})
            assert tracking.record_results("ch06_evaluate", Path("model"), {"r2": 0.5}) == trained[seed]
        # An evaluation without a training of its own has the parameters of the one that fits, not of the newest.
        workspace.set_parameters({**SMALL, "seed": 0})
        monkeypatch.setenv("DVC_EXP_NAME", "other")
        own = tracking.record_results("ch06_evaluate", Path("model"), {"r2": 0.5})
        assert own not in trained.values()
        client = mlflow.MlflowClient(f"sqlite:///{workspace.path}/mlflow.db")
        assert client.get_run(own).data.params["seed"] == "0"


def test_results_of_a_stage_that_changed_meanwhile_are_refused(workspace, monkeypatch):
    Path("model").write_bytes(b"weights")
    monkeypatch.setattr("stages.common.dependencies.own_at_start", {"ch06_evaluate": {"ch06.recipe": "book"}})
    with pytest.raises(SystemExit, match="ch06.recipe was book when ch06_evaluate began and is tuned now"):
        tracking.record_results("ch06_evaluate", Path("model"))


def test_on_a_server_of_many_everybody_has_runs_of_their_own(chapter, monkeypatch, tmp_path):
    monkeypatch.chdir(chapter.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/all.db")
    model = chapter.path / "data/models/ch06/rnn.safetensors"  # the same bytes for all
    students = [tmp_path / name for name in ("Anna", "Boris")]
    trained, evaluated = [], []
    for student in students:
        student.mkdir()
        monkeypatch.setenv("DVC_ROOT", str(student))
        monkeypatch.setenv("LOGNAME", student.name)
        trained.append(tracking.record_training("ch06_train", "rnn", model, {}, {}, time.time()))
    for student in students:
        monkeypatch.setenv("DVC_ROOT", str(student))
        evaluated.append(tracking.record_results("ch06_evaluate", model, {"r2": 0.5}))
    assert evaluated == trained and len(set(trained)) == 2
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/all.db")
    tags = [client.get_run(run_id).data.tags for run_id in trained]
    assert [tag["mlflow.user"] for tag in tags] == ["Anna", "Boris"]
    # Who only evaluates gets a run, too, with the parameters of a training.
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    third = client.get_run(tracking.record_results("ch06_evaluate", model, {"r2": 0.5}))
    assert third.info.run_id not in trained
    assert third.data.params == client.get_run(trained[0]).data.params
    # A copied checkout is another one.
    shutil.copytree(students[0], tmp_path / "Anna's copy")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "Anna's copy"))
    fourth = client.get_run(tracking.record_results("ch06_evaluate", model, {"r2": 0.5}))
    assert len({tag["dvc.workspace"] for tag in (*tags, third.data.tags, fourth.data.tags)}) == 4


def test_in_a_store_of_its_own_a_checkout_finds_all_runs(chapter, client, monkeypatch):
    """Also where its identifier is gone, as after a removal of .dvc/tmp."""
    monkeypatch.chdir(chapter.path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.rmtree(chapter.path / ".dvc", ignore_errors=True)
    trained = runs_by_name(client)["repro-rnn"]
    model = Path("data/models/ch06/rnn.safetensors")
    same = {"test_r2": trained.data.metrics["test_r2"]}
    assert tracking.record_results("ch06_evaluate", model, same) == trained.info.run_id


ANOTHER_FIGURE = """
from pathlib import Path
from stages.common import tracking

model = Path("data/models/ch06/rnn.safetensors")
print(tracking.record_results("ch06_plot", model, figures=[Path("another.png")]))
"""


def test_a_checkout_that_was_moved_or_copied_has_its_artifacts_with_it(chapter, client, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(chapter.path, moved, symlinks=True)
    before = sorted(chapter.path.rglob("*"))
    (moved / "another.png").write_bytes(PNG)
    run_id = runs_by_name(client)["repro-rnn"].info.run_id
    # In a process of its own, as stages are: MLflow keeps the addresses that it has seen.
    result = run_stage(SimpleNamespace(path=moved), "-c", ANOTHER_FIGURE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == run_id
    assert sorted(chapter.path.rglob("*")) == before  # nothing was written to the old place
    assert (moved / f"mlartifacts/ch06/{run_id}/artifacts/figures/another.png").read_bytes() == PNG
    store = mlflow.MlflowClient(f"sqlite:///{moved}/mlflow.db")
    experiment = store.get_experiment_by_name("ch06")
    (model,) = store.search_logged_models([experiment.experiment_id], f"source_run_id = '{run_id}'")
    for address in (experiment.artifact_location, store.get_run(run_id).info.artifact_uri, model.artifact_location):
        assert address.startswith((moved / "mlartifacts/ch06").as_uri())
    assert (moved / "mlartifacts/ch06/models" / model.model_id / "artifacts/MLmodel").exists()


def test_a_store_of_a_later_mlflow_is_told_of_at_once(chapter, tmp_path):
    shutil.copy(chapter.path / "mlflow.db", tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = 'of tomorrow'")
    result = run_stage(chapter, "-m", "stages.ch06_timeseries.evaluate", "rnn", DVC_ROOT=str(tmp_path))
    assert result.returncode == 1
    first, *_, last = result.stderr.splitlines()
    assert first.startswith("mlflow.db: a later MLflow than the one installed") and "the stage goes on" in first
    assert last.startswith("MLflow could not record in mlflow.db: NotSupportedError: a later MLflow")


BEGUN = """
import signal, time
from stages.common import tracking

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
tracking.start("ch06_train")
print(tracking._recorder.pid, flush=True)
time.sleep(500)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends signals to a group of processes")
def test_a_store_that_is_being_made_at_ctrl_c_is_whole(open_workspace):
    with open_workspace(SMALL, store=False) as workspace:
        process = subprocess.Popen(
            [sys.executable, "-c", BEGUN],
            env={**os.environ, "PYTHONPATH": str(workspace.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        with process:
            try:
                recorder = int(process.stdout.readline())
                deadline = time.monotonic() + 120
                while not (workspace.path / "mlflow.db").exists():
                    assert running(recorder) and time.monotonic() < deadline
                    time.sleep(0.002)
                os.killpg(process.pid, signal.SIGINT)
                assert process.wait(60) != 0
                while running(recorder):
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            finally:
                process.kill()
        client = mlflow.MlflowClient(f"sqlite:///{workspace.path}/mlflow.db")
        assert {experiment.name for experiment in client.search_experiments()} == {"Default", "ch06"}


ABANDONED = """
import os, signal, time
from stages.common import tracking

tracking.start("ch06_train")
if not (child := os.fork()):  # as a worker would, the child keeps the pipe open
    time.sleep(500)
    os._exit(0)
print(tracking._recorder.pid, child, flush=True)
time.sleep(8)  # the other process is waiting for something to record
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_the_process_that_records_ends_with_the_stage(open_workspace):
    with open_workspace(SMALL) as workspace:
        process = subprocess.Popen(
            [sys.executable, "-c", ABANDONED],
            env={**os.environ, "PYTHONPATH": str(workspace.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        recorder, child = map(int, process.stdout.readline().split())
        try:
            assert process.wait(60) == -signal.SIGKILL
            assert end_within([recorder], seconds=120)
            assert running(child)
        finally:
            os.kill(child, signal.SIGKILL)


# Several processes at once.

WRITERS = """
import os, time
from pathlib import Path
from stages.common import recorder  # which loads MLflow, once for all
from stages.common.tracking import record_results, record_training

def write(number):
    model = Path(f"model{number}")
    model.write_text(str(number))
    history = {"train_loss": [number + epoch / 10 for epoch in range(1200)]}
    parameters, variant = {"number": number}, f"writer{number}"
    record_training("ch06_train", variant, model, history, {"data": model}, time.time(), parameters, every=5)
    record_results("ch06_evaluate", model, {"test_r2": number}, figures=[Path("figure.png")])

assert not Path("mlflow.db").exists()
children = []
for number in range(4):  # forked, which saves three imports of MLflow; the store isn't open yet
    children.append(os.fork())
    if not children[-1]:
        write(number)
        os._exit(0)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the writers")
def test_four_first_writers_at_once_lose_nothing(open_workspace):
    with open_workspace(SMALL, store=False) as workspace:
        # "writer0" stands for a variant of the matrix, whose only use here is the run's name and tag.
        Path("figure.png").write_bytes(PNG)
        environment = {**os.environ, "PYTHONPATH": str(workspace.path)}
        command = [sys.executable, "-c", WRITERS]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert result.returncode == 0, result.stderr
        client = mlflow.MlflowClient(f"sqlite:///{workspace.path}/mlflow.db")
        runs = runs_by_name(client)
        assert set(runs) == {f"repro-writer{number}" for number in range(4)}
        for number in range(4):
            run = runs[f"repro-writer{number}"]
            parameters = {key: str(value) for key, value in parameters_behind("ch06_train").items()}
            assert (run.info.status, run.data.params) == ("FINISHED", {**parameters, "number": str(number)})
            history = client.get_metric_history(run.info.run_id, "train_loss")
            assert [metric.value for metric in history] == [number + epoch / 10 for epoch in range(1200)]
            assert [metric.step for metric in history] == list(range(5, 6005, 5))
            assert run.data.metrics["test_r2"] == number
            assert [file.path for file in client.list_artifacts(run.info.run_id, "figures")] == ["figures/figure.png"]
            assert run.data.tags["model_sha256"] == file_hash(f"model{number}", "sha256")
            assert len(run.inputs.dataset_inputs) == 1
