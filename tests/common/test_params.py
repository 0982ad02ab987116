"""params.yaml checked whole, and a stage that meets a wrong one: one line on stderr, exit status 2, nothing written."""

import copy
import itertools
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.common.params import (
    PARAMS_FILE,
    PIPELINE_FILE,
    declared_parameters,
    read_yaml,
    resolve,
    stage_entry,
    variant_of,
)
from stages.params_schema import first_problem, main

ROOT = Path(__file__).parents[2]
GOOD = yaml.safe_load((ROOT / PARAMS_FILE).read_text(encoding="utf-8"))
MISSING = object()


def changed(changes: dict) -> dict:
    """Return the real parameters with `changes`, dotted name to value; MISSING removes the key."""
    values = copy.deepcopy(GOOD)
    for name, value in changes.items():
        *path, key = name.split(".")
        section = values
        for part in path:
            section = section[part]
        if value is MISSING:
            del section[key]
        else:
            section[key] = value
    return values


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder with the real dvc.yaml and params.yaml, which a test then spoils."""
    for name in (PARAMS_FILE, PIPELINE_FILE):
        shutil.copyfile(ROOT / name, tmp_path / name)  # not its mode, which may be that of a file that stays as it is
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_real_parameters_are_accepted(workspace, capsys):
    assert first_problem(GOOD) is None
    assert main() == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_level": 0},  # a whole number where a fraction is meant
        {"noise_level": 10},
        {"seed": 2**31 - 1, "ch04.num_threads": 256, "device": "auto"},
        {"ch04.tuned.frequencies": 0, "ch04.tuned.embedding_size": 0},
        {"ch04.cv_splits": 50},
        {"ch04.tuned.epochs": 6, "ch04.book.epochs": 1},
        {"ch06.compared_noise_levels": [0]},
        {"ch06.tuned.length": 100, "ch06.tuned.window": 50, "ch06.tuned.steps_ahead": 49, "ch06.tuned.loss_steps": 50},
        {"ch06.tuned.length": 1_000_000, "ch06.tuned.window": 200},
        {"ch09.launcher": "accelerate launch --config_file ~/a.yaml -m"},
        {"ch09.launcher": "torchrun --standalone --local-addr=127.0.0.1 --nproc_per_node 2 -m"},
        {"ch07.tuned.batch_size": 13_750, "ch07.tuned.epochs": 2},  # eight steps
        {"ch07.tuned.batch_size": 55_000, "ch07.tuned.epochs": 1, "ch07.tuned.average_decay": 0.0}
        | {"ch07.tuned.warmup": 0.0},
        {"ch08.tuned.held_out_links": 0.001, "ch08.tuned.dropout": 0.99},
        {"ch07.tuned.validation_images": 59_900, "ch07.tuned.batch_size": 100},  # one batch is left
        {"ch07.tuned.dropout": 0, "ch07.tuned.translation": 1},
    ],
)
def test_accepted(changes):
    assert first_problem(changed(changes)) is None


@pytest.mark.parametrize(
    "name, value, message",
    [
        # shared keys: type
        ("seed", 1.5, "seed = 1.5: input should be a valid integer"),
        ("seed", 1.0, "seed = 1.0: input should be a valid integer"),
        ("seed", True, "seed = True: input should be a valid integer"),
        ("seed", None, "seed = None: input should be a valid integer"),
        ("ch06.num_threads", "2", "ch06.num_threads = '2': input should be a valid integer"),
        ("noise_level", "0.1", "noise_level = '0.1': input should be a valid number"),
        ("noise_level", True, "noise_level = True: input should be a valid number"),
        ("noise_level", [0.1], "noise_level = [0.1]: input should be a valid number"),
        ("noise_level", math.nan, "noise_level = nan: input should be a finite number"),
        ("noise_level", math.inf, "noise_level = inf: input should be a finite number"),
        # range
        ("seed", -1, "seed = -1: input should be greater than or equal to 0"),
        ("seed", 2**31, "seed = 2147483648: input should be less than 2147483648"),
        ("ch07.num_threads", 0, "ch07.num_threads = 0: input should be greater than or equal to 1"),
        ("ch07.num_threads", 257, "ch07.num_threads = 257: input should be less than or equal to 256"),
        ("noise_level", -0.1, "noise_level = -0.1: input should be greater than or equal to 0"),
        ("noise_level", 10.5, "noise_level = 10.5: input should be less than or equal to 10"),
        ("device", "gpu", "device = 'gpu': input should be 'auto', 'cpu', 'cuda' or 'mps'"),
        # unknown and missing keys
        ("noise_lvl", 0.3, "noise_lvl = 0.3: there is no such parameter"),
        ("noise_level", MISSING, "noise_level is missing"),
        ("ch04", MISSING, "ch04 is missing"),
        # chapter 4
        ("ch04.recipe", "Book", "ch04.recipe = 'Book': input should be 'tuned' or 'book'"),
        ("ch04.runs", 1, "ch04.runs = 1: input should be greater than or equal to 2"),
        ("ch04.cv_splits", 1, "ch04.cv_splits = 1: input should be greater than or equal to 2"),
        ("ch04.cv_splits", 51, "ch04.cv_splits = 51: input should be less than or equal to 50"),
        (
            "ch02.tuned.initial_weight",
            3.0,
            "ch02.tuned: initial_weight 3.0 must not be slope: nothing would be left to learn",
        ),
        (
            "ch02.tuned.initial_weight",
            3.00000000001,  # 3 in float32
            "ch02.tuned: initial_weight 3.00000000001 must not be slope: nothing would be left to learn",
        ),
        (
            "ch02.tuned.difference_step",
            1e-300,
            "ch02.tuned.difference_step = 1e-300: input should be greater than or equal to 0.000001",
        ),
        (
            "ch03.tuned.target_noise",
            1e25,
            "ch03.tuned.target_noise = 1e+25: input should be less than or equal to 1000",
        ),
        ("ch05.tuned.runs", 1, "ch05.tuned.runs = 1: input should be greater than or equal to 2"),
        ("ch05.tuned.memory_bias", 20.0, "ch05.tuned.memory_bias = 20.0: input should be less than or equal to 10"),
        (
            "ch08.tuned.temperature",
            0.04,
            "ch08.tuned.temperature = 0.04: input should be greater than or equal to 0.05",
        ),
        (
            "ch09.tuned.memory_temperature",
            1e-39,
            "ch09.tuned.memory_temperature = 1e-39: input should be greater than or equal to 0.001",
        ),
        (
            "ch09.tuned.memory_reach",
            0,
            "ch09.tuned.memory_reach = 0: input should be greater than or equal to 0.001",
        ),
        (
            "ch09.tuned.length_penalty",
            11.0,
            "ch09.tuned.length_penalty = 11.0: input should be less than or equal to 10",
        ),
        ("ch04.tuned.features", "sqrt", "ch04.tuned.features = 'sqrt': input should be 'log' or 'raw'"),
        ("ch04.tuned.hidden_sizes", 64, "ch04.tuned.hidden_sizes = 64: input should be a valid list"),
        ("ch04.runs", 1001, "ch04.runs = 1001: input should be less than or equal to 1000"),
        ("ch04.cv_repeats", 201, "ch04: cv_splits 5 · cv_repeats 201 must be at most 1000"),
        ("ch04.tuned.hidden_sizes", [64, "8"], "ch04.tuned.hidden_sizes[1] = '8': input should be a valid integer"),
        (
            "ch04.tuned.process_groups",
            ["ZN", "PRICES"],
            "ch04.tuned.process_groups[1] = 'PRICES': input should be 'CRIM', 'ZN', 'INDUS', 'CHAS', 'NOX', 'RM', "
            "'AGE', 'DIS', 'RAD', 'TAX', 'PTRATIO', 'B' or 'LSTAT'",
        ),
        ("ch04.book.learning_rate", 0, "ch04.book.learning_rate = 0: input should be greater than 0"),
        ("ch04.book.momentum", 0.9, "ch04.book.momentum = 0.9: there is no such parameter"),
        ("ch04.book.epochs", MISSING, "ch04.book.epochs is missing"),
        # chapter 6
        ("ch06.tuned.length", 9, "ch06.tuned.length = 9: input should be greater than or equal to 10"),
        ("ch06.tuned.duration", 0.0, "ch06.tuned.duration = 0.0: input should be greater than or equal to 0.001"),
        ("ch06.tuned.windows", "some", "ch06.tuned.windows = 'some': input should be 'all' or 'book'"),
        ("ch06.tuned.window", MISSING, "ch06.tuned.window is missing"),
        ("ch06.window", 100, "ch06.window = 100: there is no such parameter"),
        (
            "ch06.compared_noise_levels",
            [0.1, -1],
            "ch06.compared_noise_levels[1] = -1: input should be greater than or equal to 0",
        ),
        # chapter 7
        ("ch07.tuned.dropout", 0.999, "ch07.tuned.dropout = 0.999: input should be less than or equal to 0.99"),
        ("ch07.tuned.warmup", 1, "ch07.tuned.warmup = 1: input should be less than 1"),
        ("ch07.tuned.shuffle", 1, "ch07.tuned.shuffle = 1: input should be a valid boolean"),
        ("ch07.tuned.shuffle", "yes", "ch07.tuned.shuffle = 'yes': input should be a valid boolean"),
        ("ch07.tuned.precision", "fp16", "ch07.tuned.precision = 'fp16': input should be 'float32' or 'bfloat16'"),
        ("ch07.tuned.shear", 90, "ch07.tuned.shear = 90: input should be less than 90"),
        ("ch07.book.average", 0.9, "ch07.book.average = 0.9: there is no such parameter"),
        ("ch07.book", MISSING, "ch07.book is missing"),
    ],
)
def test_refused(name, value, message):
    assert first_problem(changed({name: value})) == message


@pytest.mark.parametrize("recipe", ["tuned", "book"])
@pytest.mark.parametrize(
    "chapter, values, message",
    [
        (
            "ch04",
            {"frequencies": 0, "embedding_size": 4},
            "frequencies 0 and embedding_size 4 must both be 0, or neither",
        ),
        (
            "ch04",
            {"frequencies": 8, "embedding_size": 0},
            "frequencies 8 and embedding_size 0 must both be 0, or neither",
        ),
        (
            "ch04",
            {"target": "raw", "process_share": 0.5},
            "process_share 0.5 needs the target log, not raw: a Gaussian process expects targets about zero",
        ),
        (
            "ch04",
            {"schedule": "one_cycle", "epochs": 5},
            "epochs 5 must be at least 6 with the schedule one_cycle",
        ),
        (
            "ch06",
            {"length": 100, "window": 50, "steps_ahead": 50, "loss_steps": 1},
            "window 50 + steps_ahead 50 must be less than length 100",
        ),
        ("ch06", {"length": 100, "window": 51, "loss_steps": 1}, "window 51 must be at most half of length 100"),
        ("ch06", {"window": 50, "loss_steps": 51}, "loss_steps 51 must be at most window 50"),
        (
            "ch06",
            {"schedule": "one_cycle", "windows": "book", "length": 100, "window": 10, "epochs": 1, "batch_size": 10}
            | {"loss_steps": 1},
            "batch_size 10 leaves one step, and the schedule one_cycle needs two",
        ),
        (
            "ch06",
            {"schedule": "one_cycle", "windows": "book", "length": 100, "window": 1, "steps_ahead": 98, "epochs": 1}
            | {"batch_size": 5, "loss_steps": 1},
            "batch_size 5 leaves one step, and the schedule one_cycle needs two",
        ),
        (
            "ch06",
            {"length": 1_000_000, "window": 1000, "loss_steps": 1},
            "length 1000000 · window 1000 must be at most 200,000,000",
        ),
        (
            "ch07",
            {"warmup": 0.1, "validation_images": 59_000, "batch_size": 1000, "epochs": 1, "average_decay": 0.0},
            "warmup 0.1 leaves the only step without a rate: raise epochs, or lower batch_size",
        ),
        ("ch05", {"schedule": "one_cycle", "steps": 1}, "steps 1 must be at least 2 with the schedule one_cycle"),
        (
            "ch05",
            {"schedule": "one_cycle", "mode_steps": 1},
            "mode_steps 1 must be at least 2 with the schedule one_cycle",
        ),
        (
            "ch07",
            {"validation_images": 59_900, "batch_size": 101},
            "batch_size 101 must be at most the 100 images left to train on",
        ),
        (
            "ch07",
            {"validation_images": 0, "batch_size": 20_000, "epochs": 1, "average_decay": 0.9},
            "average_decay 0.9 needs 5 steps of training, not 3: raise epochs, or lower batch_size",
        ),
        ("ch08", {"best_epochs": 7}, "best_epochs 7 must be a multiple of validate_every 5"),
        ("ch09", {"d_model": 10, "heads": 4}, "d_model 10 must be a multiple of heads 4"),
        ("ch09", {"batch_pairs": 8, "batch_tokens": 9}, "batch_pairs 8 and batch_tokens 9: one of them must be 0"),
        ("ch09", {"batch_pairs": 0, "batch_tokens": 0}, "batch_pairs 0 and batch_tokens 0: one of them must be 0"),
        ("ch09", {"epochs": 4, "averaged_epochs": 5}, "averaged_epochs 5 must be at most epochs 4"),
    ],
)
def test_refused_relations(chapter, recipe, values, message):
    changes = {f"{chapter}.{recipe}.{key}": value for key, value in values.items()}
    assert first_problem(changed(changes)) == f"{chapter}.{recipe}: {message}"


@pytest.mark.parametrize(
    "name, value, start",
    [  # pydantic words what comes after
        ("ch04", None, "ch04 = None: "),
        ("ch04.tuned.hidden_sizes", [], "ch04.tuned.hidden_sizes = []: must have at least 1 values"),
        (
            "ch06.compared_noise_levels",
            [0.1] * 7,
            "ch06.compared_noise_levels = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, ...]: must have at most 6 values",
        ),
        ("ch07.tuned.widths", [1, 2], "ch07.tuned.widths = [1, 2]: "),
        ("ch07.tuned.widths", [1, 2, 3, 4], "ch07.tuned.widths = [1, 2, 3, 4]: "),
        ("device", "a\nb", "device = 'a\\nb': "),  # still one line
    ],
)
def test_refused_in_one_line_that_names_key_and_value(name, value, start):
    problem = first_problem(changed({name: value}))
    assert problem.startswith(start) and "\n" not in problem


def test_the_inactive_recipe_is_checked_too():
    for active, other in itertools.permutations(["tuned", "book"]):
        changes = {"ch06.recipe": active, f"ch06.{other}.epochs": 0}
        assert first_problem(changed(changes)).startswith(f"ch06.{other}.epochs = 0: ")


BAD_FILES = {
    "not YAML": (
        b"seed: [1\n",
        "not valid YAML: while parsing a flow sequence",
    ),
    "a tab": (b"seed:\n\t1\n", "not valid YAML: while scanning for the next token found character "),
    "a list": (b"- seed\n", "must be a mapping of keys to values, and is list"),
    "empty": (b"", "must be a mapping of keys to values, and is empty"),
    "not UTF-8": ("seed: 0  # семя\n".encode("cp1251"), "not UTF-8 text"),
}


@pytest.mark.parametrize("content, message", BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_holds_no_parameters(workspace, capsys, content, message):
    (workspace / PARAMS_FILE).write_bytes(content)
    with pytest.raises(SystemExit) as end:
        declared_parameters("ch06_generate")
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"params.yaml: {message}")
    assert main() == 2
    assert capsys.readouterr() == ("", err)


def test_no_file(workspace, capsys):
    (workspace / PARAMS_FILE).unlink()
    with pytest.raises(SystemExit) as end:
        declared_parameters("ch06_generate")
    assert end.value.code == 2
    assert capsys.readouterr() == ("", f"params.yaml: there is no such file in {os.getcwd()}\n")


@pytest.mark.parametrize(
    "text, value",
    [("1e-05", 1e-05), ("1e-5", 1e-05), ("2E3", 2000.0), ("010", 10), ("0x10", 16), ("yes", "yes"), ("true", True)],
)
def test_numbers_read_as_dvc_writes_them(tmp_path, text, value):
    """`dvc exp run -S ch04.tuned.weight_decay=0.00001` puts `1e-05` into params.yaml."""
    (tmp_path / PARAMS_FILE).write_text(f"weight_decay: {text}\n")
    assert read_yaml(tmp_path / PARAMS_FILE) == {"weight_decay": value}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"noise_level": "high"}, "params.yaml: noise_level = 'high': input should be a valid number\n"),
        # another chapter's mistake stops a stage as well
        ({"ch07.tuned.epochs": 0}, "params.yaml: ch07.tuned.epochs = 0: input should be greater than or equal to 1\n"),
    ],
)
def test_a_stage_stops_before_it_works(workspace, changes, message):
    (workspace / PARAMS_FILE).write_text(yaml.safe_dump(changed(changes)), encoding="utf-8")
    before = {path.name: path.read_bytes() for path in workspace.iterdir()}
    command = [sys.executable, "-m", "stages.ch06_timeseries.generate"]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", message)
    assert {path.name: path.read_bytes() for path in workspace.iterdir()} == before


@pytest.mark.parametrize(
    ("stage", "variant", "lacking"),
    [
        ("ch06_preprocess", [], "data/raw/ch06/series.npz"),
        ("ch06_evaluate", ["lstm"], "data/models/ch06/lstm.safetensors"),
        ("ch04_plot", [], "metrics/ch04.json"),
    ],
)
def test_a_step_without_its_inputs_says_which_and_what_makes_them(workspace, monkeypatch, stage, variant, lacking):
    monkeypatch.setattr(sys, "argv", [stage, *variant])
    values = {"item": {"cell": "".join(variant)}}
    for path in (resolve(path, values) for path in stage_entry(stage)["deps"]):
        if path != lacking:
            (workspace / path).parent.mkdir(parents=True, exist_ok=True)
            (workspace / path).touch()
    with pytest.raises(SystemExit) as end:
        declared_parameters(stage)
    assert end.value.code == f"{stage}: there is no {lacking} yet: dvc repro {stage} runs what makes it, too"
    declared_parameters(stage, wants_inputs=False)
    (workspace / lacking).parent.mkdir(parents=True, exist_ok=True)
    (workspace / lacking).touch()
    declared_parameters(stage)


@pytest.mark.parametrize("arguments", [[], ["gru"], ["rnn", "lstm"]], ids=["none", "unknown", "two"])
def test_a_stage_of_a_matrix_needs_one_of_it(workspace, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit) as end:
        variant_of("ch06_train")
    assert end.value.code == "ch06_train: name one of rnn, lstm, as dvc.yaml does"
    monkeypatch.setattr(sys, "argv", ["train", "lstm"])
    assert variant_of("ch06_train") == "lstm"
