"""Chapter 9 as dvc.yaml runs it, small: what comes out, that it can translate, the same bytes again.

Killed while it trains, it goes on to the same bytes; in two processes, it learns as in one.
"""

import copy
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import mlflow
import numpy as np
import pytest
import sacrebleu
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn import functional as F

from stages.ch09_translation import train
from stages.ch09_translation.corpus import sameness
from stages.ch09_translation.dataset import batch_numbers, make_batch
from stages.ch09_translation.evaluate import scores, token_accuracy
from stages.ch09_translation.model import Transformer
from stages.ch09_translation.neighbours import Memory
from stages.ch09_translation.tokens import FIRST, LAST, PAD, UNKNOWN
from stages.ch09_translation.train import Trainer, mixed_precision
from stages.ch09_translation.translator import load_translator
from stages.common.checkpoint import Checkpoint
from stages.common.files import read_history
from stages.common.optimizers import rate_share
from tests.conftest import ROOT, arrays, by_epoch, changed, clip_to_nothing, curves
from tests.test_pipeline import imported_packages, missing_from

SMALL = {
    "ch09.tuned.vocabulary": 320,
    "ch09.tuned.d_model": 32,
    "ch09.tuned.layers": 1,
    "ch09.tuned.d_ff": 64,
    "ch09.tuned.epochs": 3,
    "ch09.tuned.batch_tokens": 1000,
    "ch09.tuned.learning_rate": 0.01,
    "ch09.tuned.averaged_epochs": 2,
    "ch09.tuned.beams": 2,
    "ch09.book.pairs": 200,
    "ch09.book.d_model": 16,
    "ch09.book.layers": 1,
    "ch09.book.heads": 2,
    "ch09.book.d_ff": 16,
    "ch09.book.epochs": 1,
}
CORPUS = "data/prepared/ch09/corpus"
MODEL, TOKENIZERS = "data/models/ch09/transformer.safetensors", "data/prepared/ch09/tokenizers.json"
HISTORY = "metrics/history/ch09.csv"


@pytest.fixture(scope="module", params=["tuned", "book"])
def chapter(open_workspace, request):
    """(workspace, recipe, outputs) after a whole run of the chapter."""
    with open_workspace({**SMALL, "ch09.recipe": request.param}) as workspace:
        workspace.write_translations()
        AcceleratorState._reset_state(True)
        yield workspace, request.param, workspace.run("ch09", tracked=request.param == "tuned")


def test_the_corpus_is_those_files_alone(chapter):
    files = ("data-00000-of-00001.arrow", "dataset_info.json", "state.json")
    expected = {f"{CORPUS}/{part}/{file}" for part in ("train", "val", "test") for file in files}
    found = {path for path in chapter[2] if path.startswith(f"{CORPUS}/")}
    assert found == expected | {f"{CORPUS}/dataset_dict.json"}


def test_no_checkpoint_is_left(chapter):
    workspace, *_ = chapter
    assert list((workspace.path / ".checkpoints").iterdir()) == []


def test_no_test_text_was_trained_on_and_none_is_lost(chapter):
    workspace, recipe, outputs = chapter
    corpus = datasets.load_from_disk(str(workspace.path / CORPUS))
    seen = {sameness(text) for part in ("train", "val") for text in corpus[part]["en"]}
    assert not seen & {sameness(text) for text in corpus["test"]["en"]}
    counts = json.loads(outputs["data/prepared/ch09/counts.json"])
    assert counts["unique_pairs"] == counts["read_pairs"] == 15**3
    if recipe == "tuned":
        assert sum(counts[f"{part}_pairs"] for part in ("train", "val", "test")) == 15**3
    else:
        assert counts["train_pairs"] == 200
        # Of all that there are: the first 200 would be of the first of 15 words alone.
        assert len({text.split()[0] for text in corpus["train"]["en"]}) > 10


def test_metrics_reproduce_what_the_model_file_gives(chapter):
    workspace, recipe, outputs = chapter
    metrics = json.loads(outputs["metrics/ch09.json"])
    texts = json.loads(outputs["data/evaluated/ch09/translations.json"])["texts"]
    translator = load_translator(workspace.path / MODEL, workspace.path / TOKENIZERS, torch.device("cpu"))
    corpus = datasets.load_from_disk(str(workspace.path / CORPUS))
    train, test = corpus["train"], corpus["test"]
    references, sources = [text["reference"] for text in texts], [text["source"] for text in texts]
    beams = 2 if recipe == "tuned" else 1
    found = translator.translate(sources, beams)
    alone = sacrebleu.corpus_bleu(found, [references], smooth_method="none").score
    assert metrics["network_bleu"] == pytest.approx(alone, abs=0.01)
    if recipe == "tuned":
        pairs = (train["en"][:], train["src"][:], train["tgt"][:])
        translator.memory = Memory(*pairs, memory_pairs=16, memory_nearest=8, memory_temperature=0.08, memory_reach=2.0)
        by_network, found = found, translator.translate(sources, beams)
        assert found != by_network
    assert found == [text["translation"] for text in texts]
    assert metrics["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(found, [references], smooth_method="none").score, abs=0.01
    )
    assert metrics["chrf"] == pytest.approx(sacrebleu.corpus_chrf(found, [references]).score, abs=0.01)
    draws = np.random.default_rng(1).integers(len(texts), size=(200, len(texts)))
    drawn = [sacrebleu.corpus_chrf([found[n] for n in own], [[references[n] for n in own]]).score for own in draws]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert metrics["chrf_interval"] == pytest.approx((high - low) / 2, rel=0.25)
    memory = [text["memory"] for text in texts]
    assert metrics["memory_bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(memory, [references], smooth_method="none").score, abs=0.01
    )
    assert metrics["memory_chrf"] == pytest.approx(sacrebleu.corpus_chrf(memory, [references]).score, abs=0.01)
    assert metrics["exact_match"] == pytest.approx(np.mean([a == b for a, b in zip(found, references)]), abs=1e-4)  # noqa: B905
    share = token_accuracy(translator, test["src"][:], test["tgt"][:])
    assert metrics["token_accuracy"] == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("chapter", ["book"], indirect=True)  # of one epoch, whose weights are those kept
def test_validation_loss_is_that_of_the_model_file_on_the_validation_texts(chapter):
    workspace, _, outputs = chapter
    val = datasets.load_from_disk(str(workspace.path / CORPUS))["val"]
    model = load_translator(workspace.path / MODEL, workspace.path / TOKENIZERS, torch.device("cpu")).model
    total = count = 0
    with torch.no_grad():
        for src, tgt in zip(val["src"][:], val["tgt"][:], strict=True):
            logits = model(torch.tensor([[*src, LAST]]), torch.tensor([[FIRST, *tgt]]))[0]
            total += F.cross_entropy(logits, torch.tensor([*tgt, LAST]), reduction="sum").item()
            count += len(tgt) + 1
    history = read_history(HISTORY)
    assert history["validation_loss"] == [pytest.approx(total / count, rel=1e-4)]
    # With dropout and smoothed labels: no better than on the validation texts, and not much worse than chance.
    words = json.loads(outputs["data/prepared/ch09/counts.json"])["tgt_vocabulary"]
    assert total / count < history["train_loss"][0] < 1.1 * math.log(words)


def test_pairs_too_long_to_train_on_are_kept_for_the_memory(open_workspace):
    with open_workspace({**SMALL, "ch09.tuned.longest": 6}) as workspace:
        workspace.write_translations()
        workspace.step("stages.ch09_translation.tokenize")
        outputs = workspace.outputs()
        train = datasets.load_from_disk(str(workspace.path / CORPUS))["train"]
        trained_on = set(zip(train["en"], train["ru"], strict=True))
    counts = json.loads(outputs["data/prepared/ch09/counts.json"])
    pairs = {tuple(pair) for pair in json.loads(outputs["data/prepared/ch09/too_long.json"])}
    assert len(pairs) == counts["train_pairs_too_long"] > 0 < len(trained_on)
    assert not pairs & trained_on


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_mlflow_keeps_a_model_that_translates(chapter):
    workspace, _, _ = chapter
    client = mlflow.MlflowClient(f"sqlite:///{workspace.path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("ch09").experiment_id])
    assert run.data.params["batch_tokens"] and run.data.metrics["test_bleu"] > 0
    precision = {"no": "float32", "bf16": "bfloat16"}[mixed_precision("auto", torch.device("cpu"))]
    assert (run.data.params["device"], run.data.params["precision"]) == ("cpu", precision)
    mlflow.set_tracking_uri(f"sqlite:///{workspace.path}/mlflow.db")
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    assert model.metadata.signature.inputs.input_types() == [mlflow.types.DataType.string]
    translator = load_translator(workspace.path / MODEL, workspace.path / TOKENIZERS, torch.device("cpu"))
    texts = ["Ban dor kis", "Lun men nos", ""]
    for beams in (1, 3):
        assert model.predict(texts, params={"beams": beams}) == translator.translate(texts, beams)
    with pytest.raises(mlflow.exceptions.MlflowException, match="Expected type str"):
        model.predict([1, 2])
    required = Path(mlflow.pyfunc.get_model_dependencies(f"runs:/{run.info.run_id}/model")).read_text()
    served = ROOT / "stages/ch09_translation/served.py"
    assert {"torch", "mlflow", "tokenizers"} <= imported_packages(served)
    assert missing_from(required, served) == []
    files = [path for path in (workspace.path / "mlartifacts/ch09").rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth")] == []


def test_the_tuned_network_learns_words_that_the_memory_does_not_have(chapter):
    _, recipe, outputs = chapter
    metrics = json.loads(outputs["metrics/ch09.json"])
    if recipe == "tuned":
        assert metrics["token_accuracy"] > 0.9
        assert metrics["chrf"] > metrics["memory_chrf"] + 5


def test_attention_is_of_every_head_and_adds_up_to_one(chapter):
    _, recipe, outputs = chapter

    shown = arrays(outputs, "data/evaluated/ch09/attention.npz")
    maps, words, written = shown["maps"], shown["words"], shown["written"]
    assert maps.shape == ({"tuned": 4, "book": 2}[recipe], len(written), len(words))
    np.testing.assert_allclose(maps.sum(axis=2), 1, atol=1e-5)
    assert words[-1] == written[-1] == "■"


def test_second_run_gives_the_same_bytes(chapter):
    workspace, _, outputs = chapter
    workspace.remove_outputs()
    again = workspace.run("ch09", tracked=False)
    assert changed(again, outputs) == []


# Kill and resume; several processes.


def run_training(*command: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def prepared(open_workspace):
    """A workspace in which the texts are tokenized."""
    with open_workspace({**SMALL, "ch09.tuned.learning_rate": 0.002}) as workspace:
        workspace.write_translations()
        workspace.step("stages.ch09_translation.tokenize")
        yield workspace


def test_killed_training_goes_on_to_the_same_bytes(prepared):
    command = [sys.executable, "-m", "stages.ch09_translation.train"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(Path(".checkpoints").glob("ch09_train-1-cpu-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not Path(MODEL).exists()
    run = run_training(*command)
    assert run.returncode == 0, run.stderr
    resumed = Path(MODEL).read_bytes(), Path(HISTORY).read_bytes()
    assert not list(Path(".checkpoints").iterdir())
    Path(MODEL).unlink()
    run = run_training(*command)
    assert run.returncode == 0, run.stderr
    assert (Path(MODEL).read_bytes(), Path(HISTORY).read_bytes()) == resumed


def test_two_processes_learn_as_one(prepared):
    """The same loss curve with the same batches, shared; without dropout, which each process draws by itself."""

    def history() -> np.ndarray:
        return np.loadtxt(HISTORY, delimiter=",", skiprows=1)[:, 1:]

    run = run_training(sys.executable, "-m", "stages.ch09_translation.train")
    assert run.returncode == 0, run.stderr
    alone = history()
    Path(HISTORY).unlink()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    launcher += ["--nproc_per_node", "2", "-m"]
    run = run_training(*launcher, "stages.ch09_translation.train")
    assert run.returncode == 0, run.stderr
    np.testing.assert_allclose(history(), alone, atol=1e-4)


def test_one_process_a_machine_keeps_to_its_threads():
    """As torchrun starts it, which leaves OMP_NUM_THREADS unset there: accelerate would take a thread for each core."""
    program = (
        "import torch; from stages.ch09_translation.train import start; torch.set_num_threads(3); "
        'start(torch.device("cpu"), "float32", 3); print(torch.get_num_threads())'
    )
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    with socket.create_server(("127.0.0.1", 0)) as server:  # a free port
        port = str(server.getsockname()[1])
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment = {**inherited, **variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "3\n", done.stderr


def test_processes_that_do_not_find_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or it would be set for the tests that follow
    monkeypatch.setattr(train, "Accelerator", lambda **_: SimpleNamespace(num_processes=1))
    with pytest.raises(SystemExit) as error:
        train.start(torch.device("cpu"), "float32", 1)
    assert str(error.value) == "2 processes were started, and accelerate sees 1"


def test_a_launcher_that_starts_one_process_of_several_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(train, "Accelerator", lambda **_: SimpleNamespace(num_processes=1))
    monkeypatch.setenv("MASTER_PORT", "29500")  # by itself it may be a cluster's
    assert train.start(torch.device("cpu"), "float32", 1).num_processes == 1
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # as `accelerate launch --cpu --num_processes 2` sets both
    with pytest.raises(SystemExit, match="accelerate launch starts one process, or leaves it to MPI"):
        train.start(torch.device("cpu"), "float32", 1)


# Parts of the training


def test_precision_is_by_parameter():
    cpu = torch.device("cpu")
    assert (mixed_precision("float32", cpu), mixed_precision("bfloat16", cpu)) == ("no", "bf16")
    # `auto` goes by what PyTorch may use, not by what the processor has: with `instructions: avx2` that is float32.
    limited = torch.backends.cpu.get_cpu_capability() == "AVX2"
    assert mixed_precision("auto", cpu) in (("no",) if limited else ("no", "bf16"))


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_a_search_in_bfloat16_finds_nearly_the_same(chapter):
    workspace, _, outputs = chapter
    sources = [text["source"] for text in json.loads(outputs["data/evaluated/ch09/translations.json"])["texts"]]
    translator = load_translator(workspace.path / MODEL, workspace.path / TOKENIZERS, torch.device("cpu"))
    for beams in (1, 3):
        translator.bfloat16 = False
        found = translator.translate(sources, beams)
        translator.bfloat16 = True
        rounded = translator.translate(sources, beams)
        assert sacrebleu.corpus_bleu(rounded, [found]).score > 90
    states = []
    translator.model.decoder_norm.register_forward_hook(lambda _, inputs, output: states.append(output))
    for translator.bfloat16 in (False, True):
        translator.translate(sources[:1])
    assert not torch.equal(states[0], states[len(states) // 2]), "both searches had the same precision"


def test_scores_are_sacrebleus():
    translations = ["Кошка сидит на окне в доме.", "Собака, которая лает!", "нет", "", "и"]
    references = ["Кошка сидит на окне в дому.", "Собака лает.", "нет", "Да", "или так"]
    found = scores(translations, references)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(translations, [references]).score, abs=0.01)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(translations, [references]).score, abs=0.01)


def test_error_rates_are_edits_over_the_references_length():
    found = scores(["один два три", "да"], ["один два", "да да"])
    assert found["wer"] == pytest.approx(2 / 4)
    assert found["cer"] == pytest.approx((4 + 3) / (8 + 5))


@pytest.mark.parametrize("guess, share", [(LAST, 2 / 5), (4, 1 / 5), (UNKNOWN, 0)])
def test_an_unknown_word_is_never_right(guess, share):
    class Guesses(torch.nn.Linear):
        def forward(self, src, tgt):
            return F.one_hot(torch.full_like(tgt, guess), 5)

    targets = [[4, UNKNOWN], [UNKNOWN]]
    assert token_accuracy(SimpleNamespace(model=Guesses(1, 1)), [[4], [4]], targets) == pytest.approx(share)


def small_trainer(averaged_epochs: int) -> Trainer:
    AcceleratorState._reset_state(True)
    model = Transformer(9, 9, d_model=8, layers=1, heads=2, d_ff=8, longest=9)
    return Trainer(model, Accelerator(cpu=True), 0.01, 0.98, "linear", 0.0, 0.1, 1.0, averaged_epochs)


def test_epochs_are_their_plain_program():
    AcceleratorState._reset_state(True)
    torch.manual_seed(0)
    model = Transformer(9, 9, d_model=8, layers=1, heads=2, d_ff=8, dropout=0.0, longest=9)
    plain, texts = copy.deepcopy(model), [[4], [5, 6], [7, 8, 4]]
    trainer = Trainer(model, Accelerator(cpu=True), 0.01, 0.9, "linear", 0.25, 0.1, 0.0, 0)
    for _ in range(2):
        trainer.train_epoch(texts, texts, epochs=2, batch_tokens=0, batch_pairs=2, seed=3)
    optimizer, step = torch.optim.Adam(plain.parameters(), 0.01, betas=(0.9, 0.9), eps=1e-9), 0
    for epoch in range(2):
        for numbers in batch_numbers(texts, texts, 0, np.random.default_rng([3, epoch]), 2):
            step += 1
            optimizer.param_groups[0]["lr"] = 0.01 * rate_share(step / 4, "linear", 0.25)
            batch = make_batch(*[[texts[number] for number in numbers]] * 2)
            logits = plain(batch.src, batch.tgt).flatten(0, 1)
            loss = F.cross_entropy(logits, batch.labels.flatten(), ignore_index=PAD, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def validated(averaged_epochs: int, biases: list[float], losses: list[float], epochs: int | None = None) -> Trainer:
    """A trainer after an epoch for each bias, of `epochs` or as many, whose validations give the losses."""
    trainer = small_trainer(averaged_epochs)
    found = iter(losses)
    trainer.loss_on = lambda *_: next(found)
    for epoch, value in enumerate(biases, start=1):
        trainer.history.setdefault("train_loss", []).append(float(epoch))
        with torch.no_grad():
            trainer.model.bias.fill_(value)
        trainer.validate([], [], epochs or len(biases))
    return trainer


def test_training_that_diverges_ends_after_its_epoch():
    with pytest.raises(SystemExit) as error:
        validated(averaged_epochs=2, biases=[0.0] * 3, losses=[3.0, math.nan, math.nan])
    assert str(error.value) == (
        "ch09_train: validation_loss is nan after epoch 2: the training diverged; try a lower learning rate"
    )


def test_training_goes_on_with_all_that_it_had(workspace):
    trainer, resumed = validated(3, [1.0, 2.0], [2.0, 3.0], epochs=3), small_trainer(3)
    checkpoint = Checkpoint("ch09_train", "all")
    trainer.save(checkpoint)
    resumed.restore(checkpoint)
    assert (resumed.history, resumed.best_loss, resumed.epochs_done) == (trainer.history, 2.0, 2)
    for found, expected in (
        (resumed.best, trainer.best),
        (resumed.sum, trainer.sum),
        (resumed.model.state_dict(), trainer.model.state_dict()),
    ):
        assert found.keys() == expected.keys() and found
        assert all(torch.equal(found[name], expected[name]) for name in found)
    assert resumed.best["bias"].unique().tolist() == [1.0]  # of the epoch with the lower loss
    assert resumed.sum["bias"].unique().tolist() == [3.0]


def test_processes_that_would_go_on_from_different_epochs_are_refused(workspace):
    trainer = small_trainer(0)
    trainer.accelerator.gather = lambda own: torch.cat([own, own + 1])  # the other process has found a checkpoint
    with pytest.raises(SystemExit, match=r"would go on after epochs \[0, 1\]: .*is not the same file for all"):
        trainer.restore(Checkpoint("ch09_train", "none"))


def test_training_time_leaves_a_break_out(workspace):
    trainer, resumed = small_trainer(0), small_trainer(0)
    trainer.started = time.time() - 1000
    checkpoint = Checkpoint("ch09_train", "seconds")
    trainer.save(checkpoint)
    resumed.started = time.time() + 500  # goes on so much later
    resumed.restore(checkpoint)
    assert time.time() + 500 - resumed.started == pytest.approx(1000, abs=60)


def test_trainer_keeps_the_mean_of_the_last_epochs_if_it_is_better():
    trainer = validated(averaged_epochs=2, biases=[5.0, 1.0, 3.0], losses=[3.0, 2.0, 2.5, 1.0])
    assert trainer.history["validation_loss"] == [3.0, 2.0, 2.5]
    assert trainer.best_loss == 1.0
    assert trainer.best["bias"].tolist() == [2.0] * 9  # the mean of 1 and 3
    assert trainer.model.bias.tolist() == [3.0] * 9


def test_trainer_keeps_the_weights_of_the_lowest_validation_loss():
    trainer = validated(averaged_epochs=0, biases=[5.0, 1.0, 3.0], losses=[3.0, 2.0, 2.5])
    assert trainer.best["bias"].tolist() == [1.0] * 9


@pytest.mark.parametrize(("clip", "stays"), [(0.0, False), (0.5, True)])
def test_gradients_are_clipped_before_the_step(monkeypatch, clip, stays):
    trainer = small_trainer(averaged_epochs=0)
    trainer.clip_norm, before = clip, copy.deepcopy(trainer.model.state_dict())
    monkeypatch.setattr(trainer.accelerator, "clip_grad_norm_", clip_to_nothing)
    texts = [[4, 5, 6], [7, 8]]
    trainer.train_epoch(texts, texts, epochs=1, batch_tokens=0, batch_pairs=1, seed=0)  # the last step has no rate
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items()) == stays


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_figures_show_the_losses_and_scores(chapter):
    workspace, _, outputs = chapter
    drawn = workspace.drawn("stages.ch09_translation.plot")
    history = read_history(HISTORY)
    losses = curves(drawn["learning_curves.png"].axes[0])
    assert losses == {
        "training (label smoothing 0.1)": by_epoch(history["train_loss"]),
        "validation (without)": by_epoch(history["validation_loss"]),
    }
    texts = json.loads(outputs["data/evaluated/ch09/translations.json"])["texts"]
    own = [text for text in texts if len(text["source"].split()) == 3]
    assert own == texts  # which the bars are of, then
    axes = drawn["bleu_by_length.png"].axes[0]
    for bars, name in zip(axes.containers, ("translation", "memory"), strict=True):
        references = [[text["reference"] for text in own]]
        bleu = sacrebleu.BLEU(max_ngram_order=3, smooth_method="none")
        expected = bleu.corpus_score([text[name] for text in own], references).score
        assert [bar.get_height() for bar in bars] == pytest.approx([expected], abs=0.01)
