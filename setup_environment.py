"""Build the environment in .venv from requirements.lock: `python setup_environment.py`, with nothing but Python 3.11+.

Every package is pinned and checked by its hash. It is quick when it is done already. The index is the one that pip is
configured for. With `--torch-index INDEX` torch and torchvision come from another one, in the pinned versions but
without hashes, since the lock file has those of other builds, and CUDA's packages are left out. A later set-up keeps to
that index; `--torch-index ""` goes back to the lock file's own.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = ENVIRONMENT / "requirements.sha256"
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
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
    except BaseException as error:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)  # half of one would be in the way
        if not isinstance(error, subprocess.CalledProcessError):  # Debian's venv exits, and has said what to install
            raise
        raise SystemExit(
            "Python can't make an environment with pip; on Debian and Ubuntu install python3-venv, and try again"
        ) from None


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
    done, _, index_before = STAMP.read_text(encoding="utf-8").partition(" ") if STAMP.exists() else ("", "", "")
    moved = not PLACE.exists() or PLACE.read_text(encoding="utf-8") != str(ENVIRONMENT.resolve())
    index = index_before if index is None else index
    wheels = bool(index) and Path(index).is_dir()
    if wheels:
        index = str(Path(index).resolve())
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if (done, index_before) == (wanted, index) and PYTHON.exists() and not moved:
        return
    print(f"Setting up {ENVIRONMENT} (a few minutes the first time)", flush=True)
    if moved or not (PYTHON.exists() and STAMP.exists()):  # the stamp comes when the environment is whole
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
    STAMP.write_text(f"{wanted} {index}", encoding="utf-8")


if __name__ == "__main__":
    main()
