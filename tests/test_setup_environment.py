"""Set-up: what is installed from where, when it is done already, and what is said where it can't be done."""

import ast
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import setup_environment

TORCH = {"torch", "torchvision"}


@pytest.fixture
def set_up(tmp_path, monkeypatch):
    """Run the program without installing; returns its commands, the interpreter and options before names left out."""
    environment = tmp_path / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").touch()
    parts = {
        "ENVIRONMENT": "",
        "STAMP": "requirements.sha256",
        "BUSY": "busy",
        "PLACE": "place.txt",
        "PYTHON": "bin/python",
    }
    for name, path in parts.items():
        monkeypatch.setattr(setup_environment, name, environment / path)
    setup_environment.STAMP.touch()
    setup_environment.PLACE.write_text(str(environment.resolve()), encoding="utf-8")
    commands: list[list[str]] = []

    def run(command, **options):
        if "config" not in command:  # which asks for pip's index
            commands.append([str(part) for part in command])
            assert options["check"]
            if "uv" in command:
                assert options["env"]["VIRTUAL_ENV"] == str(environment)
        return subprocess.CompletedProcess(command, 0, stdout="")

    def main(*arguments: str) -> list[list[str]]:
        commands.clear()
        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(sys, "argv", ["setup_environment.py", *arguments])
        setup_environment.main()
        return list(commands)

    return main


@pytest.mark.skipif(os.name == "nt", reason="Windows has copies")
def test_the_environments_python_is_a_link(tmp_path, monkeypatch):
    create = venv.create
    monkeypatch.setattr(venv, "create", lambda path, **options: create(path, **{**options, "with_pip": False}))
    monkeypatch.setattr(setup_environment, "ENVIRONMENT", tmp_path / ".venv")
    setup_environment.create_environment()
    assert (tmp_path / ".venv/bin/python").is_symlink()


def packages(text: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))


def test_pins_are_the_whole_lock_file():
    assert "".join(setup_environment.pins()) == setup_environment.LOCK.read_text(encoding="utf-8")


def test_everything_comes_from_the_lock_file_with_hashes(set_up):
    first, second = set_up()
    assert "pip" in first and "--require-hashes" in first
    assert second[-1] == str(setup_environment.LOCK) and "--require-hashes" in second
    assert set_up() == []  # it is done


def test_torch_from_another_index(set_up, monkeypatch, tmp_path):
    _, sync, install = set_up("--torch-index", "folder")
    kept, all_pinned = packages(Path(sync[-1]).read_text()), packages(setup_environment.LOCK.read_text())
    left_out = all_pinned - kept
    assert left_out >= TORCH and "triton" in left_out
    assert all(re.match("nvidia-|cuda-", name) for name in left_out - TORCH - {"triton"})
    assert {"torchmetrics", "torch-geometric", "numpy"} <= kept
    assert "--require-hashes" in sync and "--require-hashes" not in install
    assert {re.sub("==.*", "", name) for name in install[-2:]} == TORCH
    assert install[install.index("--default-index") + 1] == "folder" and "--no-deps" in install
    # Done, whether it is named again or not; and a new lock file changes nothing about where torch comes from.
    assert set_up() == set_up("--torch-index", "folder") == []
    lock = tmp_path / "requirements.lock"
    lock.write_text(setup_environment.LOCK.read_text() + "zzz==1.0 \\\n    --hash=sha256:0\n")
    monkeypatch.setattr(setup_environment, "LOCK", lock)
    _, sync, install = set_up()
    assert "zzz" in packages(Path(sync[-1]).read_text()) and "folder" in install
    # Back to the lock file's own.
    assert [command[-1] for command in set_up("--torch-index", "")][1:] == [str(lock)]


def test_what_failed_is_done_again_with_the_same_index(set_up, monkeypatch):
    set_up("--torch-index", "folder")
    setup_environment.STAMP.write_text(setup_environment.STAMP.read_text().replace(" folder", " other"))

    def fail(command, **options):
        raise subprocess.CalledProcessError(1, command)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["setup_environment.py", "--torch-index", "folder"])
        patch.setattr(subprocess, "run", fail)
        with pytest.raises(SystemExit, match="set-up failed"):
            setup_environment.main()
    assert "folder" in set_up()[-1]
    assert set_up() == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (subprocess.CalledProcessError(1, "ensurepip"), "install python3-venv"),
        (SystemExit(1), "1"),  # as Debian's venv ends
        (KeyboardInterrupt(), ""),
    ],
)
def test_half_an_environment_is_not_left_behind(set_up, monkeypatch, error, message):
    def create(environment, **options):
        (environment / "lib").mkdir(parents=True, exist_ok=True)
        raise error

    setup_environment.PYTHON.unlink()
    monkeypatch.setattr(setup_environment.venv, "create", create)
    with pytest.raises(SystemExit if message else KeyboardInterrupt, match=message or None):
        set_up()
    assert not setup_environment.ENVIRONMENT.exists()


def test_an_environment_that_a_killed_set_up_left_is_made_anew(set_up, monkeypatch):
    made = []
    monkeypatch.setattr(setup_environment, "create_environment", lambda: made.append(True))
    setup_environment.STAMP.unlink()  # it is written when the environment is whole, before anything is installed
    set_up()
    assert made == [True]
    set_up("--torch-index", "folder")
    assert made == [True]


def test_an_environment_that_was_moved_or_copied_is_made_anew(set_up, monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(setup_environment, "create_environment", lambda: made.append(True))
    set_up()
    assert made == []
    for place in (str(tmp_path / "elsewhere/.venv"), None):  # and one that doesn't tell
        if place:
            setup_environment.PLACE.write_text(place, encoding="utf-8")
        else:
            setup_environment.PLACE.unlink()
        assert len(set_up()) == 2
        assert set_up() == []
    assert made == [True, True]


def test_one_set_up_at_a_time(set_up, monkeypatch, capsys):
    attempts = []

    def create() -> None:
        with setup_environment.BUSY.open("w") as file:
            attempts.append(setup_environment.taken(file))

    monkeypatch.setattr(setup_environment, "create_environment", create)
    setup_environment.STAMP.unlink()
    set_up()
    assert attempts == [False]
    assert set_up() == []  # it is let go

    def wait(seconds: float) -> None:
        setup_environment.STAMP.write_text(setup_environment.wanted_stamp("folder"), encoding="utf-8")
        other.close()

    monkeypatch.setattr(setup_environment.time, "sleep", wait)
    other = setup_environment.BUSY.open("w")
    assert setup_environment.taken(other)
    assert set_up("--torch-index", "folder") == []  # the other has done it
    assert "waiting" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("configured", "index"),
    [
        ("", None),
        ("global.index-url='https://a/simple'\nglobal.timeout='60'\n", "https://a/simple"),
        ("global.index-url='https://a/simple'\ninstall.index-url='https://b/simple'\n", "https://b/simple"),
        (":env:.index-url='https://c/simple'\nglobal.index-url='https://a/simple'\n", "https://c/simple"),
    ],
)
def test_uv_has_the_index_that_pip_has(monkeypatch, configured, index):
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    done = subprocess.CompletedProcess([], 0, stdout=configured)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert setup_environment.uv_environment().get("UV_DEFAULT_INDEX") == index


def test_torch_from_a_folder_of_wheels(set_up, tmp_path):
    (tmp_path / "wheels").mkdir()
    *_, install = set_up("--torch-index", str(tmp_path / "wheels"))
    assert install[install.index("--find-links") + 1] == str(tmp_path / "wheels")
    assert "--no-index" in install and "--default-index" not in install


def test_old_python_is_told_how_to_name_another(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 6))
    with pytest.raises(SystemExit, match="make PYTHON="):
        setup_environment.main()


def test_old_python_gets_as_far_as_that():
    """Python 3.8 reads the program, and takes no annotation for an expression of its own time."""
    source = Path(setup_environment.__file__).read_text(encoding="utf-8")
    _, first, *_ = ast.parse(source, feature_version=(3, 8)).body
    assert ast.unparse(first) == "from __future__ import annotations"
