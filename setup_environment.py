"""Build the environment in .venv from requirements.lock: `python setup_environment.py`, with nothing but Python 3.11+.

Every package is pinned and checked by its hash. It is quick when it is done already. The index is the one that pip is
configured for.
"""

import hashlib
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = ENVIRONMENT / "requirements.sha256"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def locked(package: str) -> str:
    """Return the lines of the lock file that pin `package`: version and hashes."""
    match = re.search(rf"^{package}==(?:.*\\\n)*.*", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    if not match:
        raise SystemExit(f"{LOCK.name} has no {package}: run `make lock`")
    return match[0] + "\n"


def uv_environment() -> dict[str, str]:
    """Return the variables for uv: the environment to install into, and pip's index, which uv doesn't look up."""
    variables = {**os.environ, "VIRTUAL_ENV": str(ENVIRONMENT)}
    command = [PYTHON, "-m", "pip", "config", "get", "global.index-url"]
    index = subprocess.run(command, capture_output=True, text=True).stdout.strip() or os.environ.get("PIP_INDEX_URL")
    if index and "UV_DEFAULT_INDEX" not in variables:
        variables["UV_DEFAULT_INDEX"] = index
    return variables


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - the one program that runs before a version was chosen
        raise SystemExit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}")
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted and PYTHON.exists():
        return
    print(f"Setting up {ENVIRONMENT} (a few minutes the first time)", flush=True)
    if not PYTHON.exists():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
    installer = ENVIRONMENT / "installer.txt"
    installer.write_text(locked("uv"), encoding="utf-8")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    sync = [PYTHON, "-m", "uv", "pip", "sync", "--quiet", "--require-hashes"]
    try:
        subprocess.run([*pip, "-r", installer], check=True)
        # Compiled now, because an environment that can't write .pyc files would compile at every start.
        subprocess.run([*sync, "--compile-bytecode", LOCK], check=True, env=uv_environment())
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"set-up failed (see above): {' '.join(map(str, error.cmd))}") from None
    STAMP.write_text(wanted)


if __name__ == "__main__":
    main()
