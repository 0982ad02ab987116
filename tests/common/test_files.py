"""stages.common.files: a result is there whole or not at all, and what was written reads back the same."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from stages.common.files import file_hash, placed, read_history, read_json, rounded, write_history, write_json


def test_placed_moves_the_whole_file_in(tmp_path):
    target = tmp_path / "new" / "folder" / "array.npz"
    with placed(target) as path:
        # On the same disk; savers choose their format by the suffix.
        assert path.parent.parent == target.parent and path.name == target.name
        path.write_bytes(b"whole")
        assert not target.exists()
    assert list(target.parent.iterdir()) == [target]
    assert target.read_bytes() == b"whole"


def test_placed_replaces_an_old_file(tmp_path):
    target = tmp_path / "result.json"
    target.write_bytes(b"old")
    with placed(target) as path:
        path.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_placed_keeps_the_old_file_when_writing_fails(tmp_path, error):
    target = tmp_path / "result.json"
    target.write_bytes(b"old")
    with pytest.raises(error), placed(target) as path:
        path.write_bytes(b"hal")
        raise error
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"old"


def test_placed_leaves_nothing_when_nothing_was_there(tmp_path):
    with pytest.raises(ZeroDivisionError), placed(tmp_path / "result.npz") as path:
        path.write_bytes(b"hal")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_placed_without_a_file_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), placed(tmp_path / "result.npz"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_placed_like_a_file(tmp_path):
    with placed(tmp_path / "corpus") as path:
        path.mkdir()
        (path / "part").write_text("whole")
    assert [found.relative_to(tmp_path).as_posix() for found in tmp_path.rglob("*")] == ["corpus", "corpus/part"]


def test_half_a_folder_is_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), placed(tmp_path / "corpus") as path:
        path.mkdir()
        (path / "part").write_text("hal")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_model_can_be_read_by_those_who_can_read_all_else(tmp_path):
    before = os.umask(0o027)
    try:
        with placed(tmp_path / "model.safetensors") as path:
            save_file({"weight": np.ones(3)}, path)
            assert path.stat().st_mode & 0o777 == 0o600  # safetensors' own
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o640


@pytest.fixture
def alive():
    """The number of another process that is there."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def test_what_a_killed_writer_left_is_removed(tmp_path, alive):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    gone_and_own = [f".{name}.{pid}" for name in ("model.safetensors", "folder") for pid in (gone.pid, os.getpid())]
    others = [f".model.safetensors.{alive}", f".model.json.{gone.pid}", f".best.model.safetensors.{gone.pid}"]
    for name in gone_and_own + others:  # others: of a writer that is alive, and of other files
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_bytes(b"half")
    with placed(tmp_path / "model.safetensors") as path:
        path.write_bytes(b"whole")
    with placed(tmp_path / "folder") as path:
        path.mkdir()
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "folder", "model.safetensors"])


@pytest.mark.parametrize("content", [b"", b'{"r2": 0.', b"\xff\xfe"])
def test_what_is_no_json_is_named(tmp_path, content):
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.json: not JSON: "):
        read_json(tmp_path / "metrics.json")


def test_json_in_the_order_given_and_readable(tmp_path):
    values = {"r2": 0.5, "accuracy": 1, "имя": [1, None]}
    write_json(tmp_path / "metrics.json", values)
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert text == ('{\n  "r2": 0.5,\n  "accuracy": 1,\n  "имя": [\n    1,\n    null\n  ]\n}\n')
    assert read_json(tmp_path / "metrics.json") == values
    assert list(tmp_path.iterdir()) == [tmp_path / "metrics.json"]


def test_json_that_cannot_be_written_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "metrics.json", {"r2": 0.5})
    with pytest.raises(TypeError):
        write_json(tmp_path / "metrics.json", {"r2": 0.5, "when": object()})
    assert read_json(tmp_path / "metrics.json") == {"r2": 0.5}
    assert list(tmp_path.iterdir()) == [tmp_path / "metrics.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64("-inf")])
def test_json_has_finite_numbers_alone(tmp_path, value):
    with pytest.raises(SystemExit, match=rf"metrics.json: r2 is {value}: did a training diverge\? Then try a lower"):
        write_json(tmp_path / "metrics.json", {"accuracy": 0.5, "r2": value})
    with pytest.raises(SystemExit, match=rf"metrics.json: layers.1.loss is {value}: "):
        write_json(tmp_path / "metrics.json", {"layers": [0.5, {"loss": value}]})
    assert list(tmp_path.iterdir()) == []


def test_rounded_gives_plain_floats():
    assert rounded({"a": 1 / 3, "b": 2}) == {"a": 0.333333, "b": 2.0}
    assert rounded({"a": 1 / 3}, digits=2) == {"a": 0.33}
    assert type(rounded({"b": 2})["b"]) is float


def test_history_reads_back(tmp_path):
    history = {"train_loss": [0.5, 0.25, 1e-05], "accuracy": [0.0, 0.125, 1.0]}
    write_history(tmp_path / "history.csv", history)
    assert (tmp_path / "history.csv").read_bytes() == (b"epoch,train_loss,accuracy\n1,0.5,0\n2,0.25,0.125\n3,1e-05,1\n")
    assert read_history(tmp_path / "history.csv") == history


def test_history_of_every_so_many_epochs(tmp_path):
    write_history(tmp_path / "history.csv", {"accuracy": [0.5, 0.75]}, every=5)
    assert (tmp_path / "history.csv").read_bytes() == b"epoch,accuracy\n5,0.5\n10,0.75\n"
    with pytest.raises(SystemExit, match="accuracy is nan after epoch 10: the training diverged"):
        write_history(tmp_path / "history.csv", {"accuracy": [0.5, math.nan]}, every=5)


def test_history_of_steps(tmp_path):
    write_history(tmp_path / "history.csv", {"loss": [0.5, 0.25]}, unit="step")
    assert (tmp_path / "history.csv").read_bytes() == b"step,loss\n1,0.5\n2,0.25\n"
    assert read_history(tmp_path / "history.csv") == {"loss": [0.5, 0.25]}
    with pytest.raises(SystemExit, match="loss is nan after step 2: the training diverged"):
        write_history(tmp_path / "history.csv", {"loss": [0.5, math.nan]}, unit="step")


def test_history_of_unequal_lengths_is_refused(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write_history(tmp_path / "history.csv", {"train_loss": [0.5, 0.25], "accuracy": [0.0]})
    assert list(tmp_path.iterdir()) == []


def test_history_of_a_training_that_diverged_is_refused(tmp_path):
    with pytest.raises(SystemExit) as error:
        write_history(tmp_path / "history.csv", {"train_loss": [0.5, 0.7, 0.9], "val_loss": [0.5, math.inf, math.nan]})
    assert str(error.value) == (
        f"{tmp_path / 'history.csv'}: val_loss is inf after epoch 2: the training diverged; try a lower learning rate"
    )
    assert list(tmp_path.iterdir()) == []


def test_file_hash_is_of_the_content(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert file_hash(tmp_path / "empty", "md5") == "d41d8cd98f00b204e9800998ecf8427e"
    assert file_hash(tmp_path / "empty", "sha256").startswith("e3b0c44298fc1c149afbf4c8996fb924")
