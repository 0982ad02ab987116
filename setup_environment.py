"""Build the environment in .venv from requirements.lock: `python setup_environment.py`, with nothing but Python 3.11+.

Every package is pinned and checked by its hash. It is quick when it is done already. The index is the one that pip is
configured for. With `--torch-index INDEX` torch and torchvision come from another one, in the pinned versions but
without hashes, since the lock file has those of other builds, and CUDA's packages are left out. A later set-up keeps to
that index; `--torch-index ""` goes back to the lock file's own.
"""

from __future__ import annotations  # so that an older Python gets as far as the line that refuses it

import argparse
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = ENVIRONMENT / "requirements.sha256"
BUSY = ROOT / ".venv.lock"  # held by the set-up that is at work
PLACE = ENVIRONMENT / "place.txt"  # its programs name the folder: moved or copied, they start nothing, or another's
UNFINISHED = "unfinished"  # what the stamp begins with until all is there
OF_TORCH = re.compile(r"(?:torch|torchvision)==")
OF_CUDA = re.compile(r"(?:nvidia|cuda|triton)\b")
# The user's own that name another place to install into, from which uv would also remove whatever is not in the lock
# file, or another source of packages, whose files have other hashes. So may the user's file of settings for uv.
LEFT_OUT_FOR_UV = (
    *("UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_CONFIG_FILE"),
    *("UV_TORCH_BACKEND", "UV_INDEX", "UV_EXTRA_INDEX_URL"),
)
LEFT_OUT_FOR_PIP = ("PIP_PYTHON", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
ASK_PIP = """
import json
from pip._internal.commands import create_command
chosen = vars(create_command("install").parser.get_default_values())
names = ("index_url", "no_index", "find_links", "trusted_hosts", "cert", "proxy")
print(json.dumps({name: chosen[name] for name in names}))
"""
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def pins() -> list[str]:
    """Return for each package of the lock file the lines that pin it: version, where it is wanted, and hashes."""
    return re.findall(r"^\S.*(?:\n[ ].*)*\n", LOCK.read_text(encoding="utf-8"), re.MULTILINE)


def locked(package: str) -> list[str]:
    """Return those of `pins` that pin `package`: several, where its version depends on Python's or the system."""
    found = [pin for pin in pins() if pin.startswith(f"{package}==")]
    if not found:
        raise SystemExit(f"{LOCK.name} has no {package}: name it in pyproject.toml and run `make lock`")
    return found


def pip_environment() -> dict[str, str]:
    """Return the variables for pip: all but those that lead it to another place than .venv."""
    return {name: value for name, value in os.environ.items() if name not in LEFT_OUT_FOR_PIP}


def pip_settings() -> dict:
    """Return where `pip install` would take packages from, by pip's names, as it puts together files and variables.

    Of pip's own code, since `pip config` doesn't tell which of several files counts.
    """
    command = [PYTHON, "-I", "-c", ASK_PIP]
    asked = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=pip_environment())
    return {} if asked.returncode else json.loads(asked.stdout)  # what is wrong with its settings, pip will say itself


def has_certificates() -> bool:
    """Return whether the system has certificates of authorities, which a slim container may lack, but for a few."""
    paths = ssl.get_default_verify_paths()
    several = bool(paths.capath) and len(os.listdir(paths.capath)) > 10
    return sys.platform in ("win32", "darwin") or bool(paths.cafile) or several


def uv_environment(settings: dict) -> dict[str, str]:
    """Return the variables for uv, with pip's settings, which uv doesn't look up; the user's own for uv count more.

    An extra index is left out: of several uv takes the first that has a package, and its file may be another build.
    """
    variables = {name: value for name, value in os.environ.items() if name not in LEFT_OUT_FOR_UV}
    named = (os.environ.get(name, "") for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))  # pip reads these, too
    certificates = [settings.get("cert"), *(path for path in named if Path(path).is_file())]
    of_pip = {
        # uv prefers this variable to the older one.
        "UV_DEFAULT_INDEX": None if variables.get("UV_INDEX_URL") else settings.get("index_url"),
        "UV_FIND_LINKS": ",".join(settings.get("find_links", ())),
        "UV_INSECURE_HOST": " ".join(settings.get("trusted_hosts", ())),
        "SSL_CERT_FILE": next(filter(None, certificates), None),
        "ALL_PROXY": settings.get("proxy"),
    }
    if has_certificates():  # as pip does: those of a school that looks into what comes may be there alone
        of_pip["UV_SYSTEM_CERTS"] = "true"
    for name, value in of_pip.items():
        if value:
            variables.setdefault(name, value)
    return {**variables, "VIRTUAL_ENV": str(ENVIRONMENT)}


def create_environment() -> None:
    try:
        # Links, as `python -m venv` makes them: a copy of the program lacks its libraries where they lie beside it, and
        # stays, unusable, when the Python that it was made from goes.
        venv.create(ENVIRONMENT, with_pip=True, clear=True, symlinks=os.name != "nt")
    except BaseException as error:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)  # half of one would be in the way
        if isinstance(error, PermissionError):
            raise SystemExit(f"{error}: end what runs from .venv, deactivate it, and try again") from None
        if not isinstance(error, subprocess.CalledProcessError):  # Debian's venv exits, and has said what to install
            raise
        raise SystemExit(
            "Python can't make an environment with pip; on Debian and Ubuntu install python3-venv, and try again"
        ) from None


def taken(file: IO) -> bool:
    """Take the open file for this process alone; return False if another has it. It is let go when it is closed."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system that has no locks
        pass
    return True


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other set-up is at work in this folder: two would remove each other's environment."""
    with BUSY.open("w") as file:
        if not taken(file):
            print("Another set-up is at work here: waiting for it", flush=True)
            while not taken(file):
                time.sleep(0.5)
        yield


def is_whole() -> bool:
    """Return whether there is an environment to install into: made in this place, no half of one, and it works."""
    stayed = PLACE.exists() and PLACE.read_text(encoding="utf-8") == str(ENVIRONMENT.resolve())
    if not (PYTHON.exists() and STAMP.exists() and stayed):
        return False
    # A set-up that was killed may have left a package half there, and known to uv as installed.
    if STAMP.read_text(encoding="utf-8").startswith(UNFINISHED):
        return False
    # The system's Python may have gone, or be another version, which has no packages here.
    try:
        return subprocess.run([PYTHON, "-c", "import pip"], capture_output=True).returncode == 0
    except OSError:  # a program for another processor
        return False


def wanted_stamp(index: str | None) -> str:
    """Return what the stamp says when all is done: the lock file's hash, and the index that torch comes from.

    `index` None is the one before, "" the lock file's own.
    """
    if index is None:
        index = STAMP.read_text(encoding="utf-8").partition(" ")[2] if STAMP.exists() else ""
    if index and Path(index).is_dir():
        index = str(Path(index).resolve())
    return f"{hashlib.sha256(LOCK.read_bytes()).hexdigest()} {index}"


def is_done(stamp: str) -> bool:
    return is_whole() and STAMP.read_text(encoding="utf-8") == stamp


def set_up(stamp: str) -> None:
    """Make of the environment what `stamp` says."""
    index = stamp.partition(" ")[2]
    wheels = bool(index) and Path(index).is_dir()
    print(f"Setting up {ENVIRONMENT} (a few minutes the first time)", flush=True)
    if not is_whole():
        create_environment()
    STAMP.write_text(f"{UNFINISHED} {index}", encoding="utf-8")  # until all is there
    PLACE.write_text(str(ENVIRONMENT.resolve()), encoding="utf-8")
    installer, locked_here = ENVIRONMENT / "installer.txt", LOCK
    installer.write_text("".join(locked("uv")), encoding="utf-8")
    if index:
        locked_here = ENVIRONMENT / "requirements.txt"
        kept = [pin for pin in pins() if not (OF_TORCH.match(pin) or OF_CUDA.match(pin))]
        locked_here.write_text("".join(kept), encoding="utf-8")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-user", "--require-hashes"]
    pip += ["--target="]  # of pip's settings, it would lead to another place
    uv = [PYTHON, "-m", "uv", "--no-config", "pip"]
    # Compiled now, because an environment that can't write .pyc files would compile at every start.
    options = ["--python", PYTHON, "--quiet", "--compile-bytecode"]
    settings = pip_settings()
    variables = uv_environment(settings)
    try:
        subprocess.run([*pip, "-r", installer], check=True, env=pip_environment())
        alone_here = ["--no-index"] if settings.get("no_index") else []
        sync = [*uv, "sync", "--require-hashes", *options, *alone_here, locked_here]
        subprocess.run(sync, check=True, env=variables)
        if index:
            torch = [pin.split()[0] for pin in pins() if OF_TORCH.match(pin)]
            source = ["--no-deps", *(["--no-index", "--find-links"] if wheels else ["--default-index"]), index]
            subprocess.run([*uv, "install", *source, *options, *torch], check=True, env=variables)
    except subprocess.CalledProcessError as error:
        origin = f"; torch comes from {index}, until --torch-index names another" if index else ""
        raise SystemExit(f"set-up failed (see above){origin}: {' '.join(map(str, error.cmd))}") from None
    STAMP.write_text(stamp, encoding="utf-8")


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - the one program that runs before a version was chosen
        raise SystemExit(
            f"Python 3.11 or newer is needed; this is {sys.version.split()[0]} "
            "(make can be told which to use: make PYTHON=python3.13 setup)"
        )
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--torch-index",
        metavar="INDEX",
        help='URL of an index, or folder of wheels, that torch and torchvision come from; "" is the lock file\'s own',
    )
    index = parser.parse_args().torch_index
    if is_done(wanted_stamp(index)):
        return
    with alone():
        stamp = wanted_stamp(index)
        if not is_done(stamp):  # by the one that was waited for
            set_up(stamp)


if __name__ == "__main__":
    main()
