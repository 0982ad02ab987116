"""Set-up: what is installed from where, when it is done already, and what is said where it can't be done."""

import ast
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest

import setup_environment

TORCH = {"torch", "torchvision"}
CREATE = setup_environment.create_environment


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
        if not {setup_environment.ASK_PIP, "import pip"} & set(command):  # which ask for pip's settings, and for pip
            commands.append([str(part) for part in command])
            assert options["check"]
            if "uv" in command:
                assert "--no-config" in command  # the user's own may name another place, too
                assert command[command.index("--python") + 1] == setup_environment.PYTHON
                assert options["env"]["VIRTUAL_ENV"] == str(environment)
                assert not set(setup_environment.LEFT_OUT_FOR_UV) & options["env"].keys()
            else:
                assert {"--no-user", "--target="} <= set(command)
        if "uv" not in command and "import pip" not in command:
            assert not set(setup_environment.LEFT_OUT_FOR_PIP) & options["env"].keys()
        return subprocess.CompletedProcess(command, main.status if "import pip" in command else 0, stdout="{}")

    for name in (*setup_environment.LEFT_OUT_FOR_UV, *setup_environment.LEFT_OUT_FOR_PIP):
        monkeypatch.setenv(name, "elsewhere")  # a user's own, which are to lead nowhere
    monkeypatch.setattr(setup_environment, "create_environment", lambda: main.made.append(True))

    def main(*arguments: str) -> list[list[str]]:
        commands.clear()
        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(sys, "argv", ["setup_environment.py", *arguments])
        setup_environment.main()
        return list(commands)

    main.status, main.made = 0, []  # of `import pip`; of every new environment
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

    def fail(command, check=False, **_):
        if check:
            raise subprocess.CalledProcessError(1, command)
        return subprocess.CompletedProcess(command, 0, stdout="{}")

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
    monkeypatch.setattr(setup_environment, "create_environment", CREATE)

    def create(environment, **options):
        (environment / "lib").mkdir(parents=True, exist_ok=True)
        raise error

    setup_environment.PYTHON.unlink()
    monkeypatch.setattr(setup_environment.venv, "create", create)
    with pytest.raises(SystemExit if message else KeyboardInterrupt, match=message or None):
        set_up()
    assert not setup_environment.ENVIRONMENT.exists()


def test_an_environment_that_a_killed_set_up_left_is_made_anew(set_up):
    setup_environment.STAMP.unlink()  # it is written when the environment is whole, before anything is installed
    set_up()
    assert set_up.made == [True]
    set_up("--torch-index", "folder")
    assert set_up.made == [True]
    setup_environment.STAMP.write_text("unfinished folder", encoding="utf-8")  # killed while it installed
    assert "folder" in set_up()[-1]
    assert set_up.made == [True, True]
    assert set_up() == []


def test_an_environment_whose_python_went_or_is_another_is_made_anew(set_up):
    set_up()
    assert set_up.made == []
    set_up.status = 1
    assert len(set_up()) == 2
    assert set_up.made == [True]


def test_an_environment_that_was_moved_or_copied_is_made_anew(set_up, tmp_path):
    set_up()
    made = set_up.made
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


@pytest.fixture
def pip_of(tmp_path, monkeypatch):
    """Return pip's own settings where the user has these files, by their names in this folder, and variables."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "XDG_"))]:
        monkeypatch.delenv(name)
    homes = {"HOME": "", "USERPROFILE": "home", "APPDATA": "", "WIN_PD_OVERRIDE_APPDATA": ""}
    for name, folder in homes.items():
        monkeypatch.setenv(name, str(tmp_path / folder))

    def settings(files: dict[str, str], **variables: str) -> dict:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with monkeypatch.context() as patch:
            patch.setattr(setup_environment, "PYTHON", Path(sys.executable))
            return setup_environment.pip_settings()

    return settings


OWN, OLD = (".config/pip/pip.conf", ".pip/pip.conf") if os.name != "nt" else ("pip/pip.ini", "home/pip/pip.ini")


@pytest.mark.parametrize(
    ("files", "variables", "expected"),
    [
        ({OWN: "[global]\ntimeout = 60\n[download]\nindex-url = https://d/simple"}, {}, {}),
        ({OWN: "[install]\nextra-index-url = https://e/simple"}, {}, {}),
        ({OWN: "[install]\nindex-url = https://a/simple"}, {}, {"UV_DEFAULT_INDEX": "https://a/simple"}),
        (
            {OWN: "[global]\nindex-url = https://a/simple\n[install]\nindex-url = https://b/simple"},
            {},
            {"UV_DEFAULT_INDEX": "https://b/simple"},
        ),
        (
            {
                OWN: "[install]\nquiet = 1\nindex-url = https://a/simple",
                OLD: "[install]\nindex-url = https://old/simple",
            },
            {"PIP_VERBOSE": "2"},
            {"UV_DEFAULT_INDEX": "https://a/simple"},
        ),
        (
            {OWN: "[install]\nindex-url = https://a/simple"},
            {"PIP_INDEX_URL": "https://c/simple"},
            {"UV_DEFAULT_INDEX": "https://c/simple"},
        ),
        (
            {OWN: "[install]\nindex-url = https://a/simple"},
            {"PIP_INDEX_URL": ""},
            {"UV_DEFAULT_INDEX": "https://a/simple"},
        ),
        ({OWN: "[install]\nfind-links =\n    /a\n    /b"}, {}, {"UV_FIND_LINKS": "/a,/b"}),
        ({}, {"PIP_TRUSTED_HOST": "a b"}, {"UV_INSECURE_HOST": "a b"}),
        (
            {OWN: "[install]\ncert = /srv/school.pem\nproxy = http://school:3128"},
            {},
            {"SSL_CERT_FILE": "/srv/school.pem", "ALL_PROXY": "http://school:3128"},
        ),
    ],
)
def test_packages_come_from_where_pip_has_them(pip_of, monkeypatch, files, variables, expected):
    names = ("UV_DEFAULT_INDEX", "UV_FIND_LINKS", "UV_INSECURE_HOST", "SSL_CERT_FILE", "ALL_PROXY")
    for name in (*names, "UV_INDEX_URL", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)

    def handed_over(settings: dict) -> dict[str, str]:
        found = setup_environment.uv_environment(settings)
        assert "https://e/simple" not in found.values()
        return {name: found[name] for name in names if name in found}

    of_the_machine = handed_over(pip_of({}))  # a file for all its users may say something, too
    settings = pip_of(files, **variables)
    assert handed_over(settings) == {**of_the_machine, **expected}
    for name in expected:
        monkeypatch.setenv(name, "the user's own for uv")
    found = setup_environment.uv_environment(settings)
    assert all(found[name] == "the user's own for uv" for name in expected)


@pytest.mark.parametrize(("value", "alone"), [("1", True), ("y", True), ("True", True), ("false", False), ("", False)])
def test_a_folder_of_wheels_may_be_the_only_source(pip_of, set_up, monkeypatch, value, alone):
    settings = pip_of({}, PIP_NO_INDEX=value)
    monkeypatch.setattr(setup_environment, "pip_settings", lambda: settings)
    _, sync = set_up()
    assert ("--no-index" in sync) == alone


def test_settings_that_pip_cannot_read_are_left_to_pip(pip_of):
    assert pip_of({}, PIP_NO_INDEX="perhaps") == {}


def test_other_variables_that_lead_to_packages(monkeypatch, tmp_path):
    (tmp_path / "school.pem").touch()
    for name in ("SSL_CERT_FILE", "UV_DEFAULT_INDEX", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))  # a folder, which uv doesn't take there
    assert "SSL_CERT_FILE" not in setup_environment.uv_environment({})
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "school.pem"))
    assert setup_environment.uv_environment({})["SSL_CERT_FILE"] == str(tmp_path / "school.pem")
    assert setup_environment.uv_environment({"cert": "/srv/a.pem"})["SSL_CERT_FILE"] == "/srv/a.pem"
    monkeypatch.setenv("UV_INDEX_URL", "https://a/simple")
    assert "UV_DEFAULT_INDEX" not in setup_environment.uv_environment({"index_url": "https://b/simple"})


def test_a_program_of_the_environment_that_runs_is_one_line(set_up, monkeypatch):
    def create(*_, **__):
        raise PermissionError(13, "Access is denied", ".venv/python.exe")

    monkeypatch.setattr(setup_environment, "create_environment", CREATE)
    monkeypatch.setattr(setup_environment.venv, "create", create)
    setup_environment.STAMP.write_text("unfinished ", encoding="utf-8")
    with pytest.raises(SystemExit, match="python.exe': end what runs from .venv"):
        set_up()


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


def test_what_counts_as_certificates(monkeypatch, tmp_path):
    def found(cafile: str | None, capath: Path | None) -> bool:
        paths = SimpleNamespace(cafile=cafile, capath=capath)
        monkeypatch.setattr(setup_environment.ssl, "get_default_verify_paths", lambda: paths)
        return setup_environment.has_certificates()

    monkeypatch.setattr(sys, "platform", "linux")
    assert not found(None, None) and not found(None, tmp_path)  # a folder with nothing in it
    (tmp_path / "ssl-cert-snakeoil.pem").touch()
    assert not found(None, tmp_path)
    for number in range(10):
        (tmp_path / f"0a1b2c3d.{number}").touch()
    assert found(None, tmp_path) and found("/etc/ssl/cert.pem", None)


@pytest.mark.parametrize("there", [False, True])
def test_certificates_are_the_systems_where_it_has_some(monkeypatch, there):
    monkeypatch.delenv("UV_SYSTEM_CERTS", raising=False)
    monkeypatch.setattr(setup_environment, "has_certificates", lambda: there)
    assert setup_environment.uv_environment({}).get("UV_SYSTEM_CERTS") == ("true" if there else None)
