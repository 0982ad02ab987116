"""Build the environment in .venv from requirements.lock: `python setup_environment.py`, with nothing but Python 3.11+.

Every package is pinned and checked by its hash. It is quick when it is done already. The index is the one that pip is
configured for. With `--torch-index INDEX` torch and torchvision come from another one, in the pinned versions but
without hashes, since the lock file has those of other builds, and CUDA's packages are left out. A later set-up keeps to
that index; `--torch-index ""` goes back to the lock file's own.
"""

from __future__ import annotations  # so that an older Python gets as far as the line that refuses it

import argparse
import hashlib
import os
import re
import shutil
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
OF_TORCH = re.compile(r"(?:torch|torchvision)==")
OF_CUDA = re.compile(r"(?:nvidia|cuda|triton)\b")
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def pins() -> list[str]:
    """Return for each package of the lock file the lines that pin it: version, where it is wanted, and hashes."""
    return re.findall(r"^\S.*(?:\n[ ].*)*\n", LOCK.read_text(encoding="utf-8"), re.MULTILINE)


def locked(package: str) -> str:
    """Return the lines of the lock file that pin `package`."""
    found = [pin for pin in pins() if pin.startswith(f"{package}==")]
    if not found:
        raise SystemExit(f"{LOCK.name} has no {package}: run `make lock`")
    return found[0]


def uv_environment() -> dict[str, str]:
    """Return the variables for uv: the environment to install into, and pip's index, which uv doesn't look up."""
    variables = {**os.environ, "VIRTUAL_ENV": str(ENVIRONMENT)}
    listed = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found = dict(re.findall(r"^(\S+)\.index-url='(.*)'$", listed, re.MULTILINE))
    # As pip: its variable counts most, then what is set for its command, then what is set for all.
    index = next((found[section] for section in (":env:", "install", "global") if section in found), None)
    if index and "UV_DEFAULT_INDEX" not in variables:
        variables["UV_DEFAULT_INDEX"] = index
    return variables


def create_environment() -> None:
    try:
        # Links, as `python -m venv` makes them: a copy of the program lacks its libraries where they lie beside it, and
        # stays, unusable, when the Python that it was made from goes.
        venv.create(ENVIRONMENT, with_pip=True, clear=True, symlinks=os.name != "nt")
    except BaseException as error:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)  # half of one would be in the way
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
    """Return whether there is an environment to install into, made in this place."""
    stayed = PLACE.exists() and PLACE.read_text(encoding="utf-8") == str(ENVIRONMENT.resolve())
    return PYTHON.exists() and STAMP.exists() and stayed


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
        PLACE.write_text(str(ENVIRONMENT.resolve()), encoding="utf-8")
    STAMP.write_text(f"unfinished {index}", encoding="utf-8")  # until all is there
    installer, locked_here = ENVIRONMENT / "installer.txt", LOCK
    installer.write_text(locked("uv"), encoding="utf-8")
    if index:
        locked_here = ENVIRONMENT / "requirements.txt"
        kept = [pin for pin in pins() if not (OF_TORCH.match(pin) or OF_CUDA.match(pin))]
        locked_here.write_text("".join(kept), encoding="utf-8")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    uv = [PYTHON, "-m", "uv", "pip"]
    # Compiled now, because an environment that can't write .pyc files would compile at every start.
    options = ["--quiet", "--compile-bytecode"]
    try:
        subprocess.run([*pip, "-r", installer], check=True)
        subprocess.run([*uv, "sync", "--require-hashes", *options, locked_here], check=True, env=uv_environment())
        if index:
            torch = [pin.split()[0] for pin in pins() if OF_TORCH.match(pin)]
            source = ["--no-deps", *(["--no-index", "--find-links"] if wheels else ["--default-index"]), index]
            subprocess.run([*uv, "install", *source, *options, *torch], check=True, env=uv_environment())
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
