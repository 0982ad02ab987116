"""Files of a stage: written beside their place and moved in, so that a killed stage leaves no half-written result."""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def placed(path: str | Path) -> Iterator[Path]:
    """Yield a path of the same name in a folder beside `path`; move it to `path` at the end, if the block didn't raise.

    The block may make a folder there, too; a folder at `path` is for the block to remove. Savers may keep files of
    their own beside the one that they write, as safetensors does: they go with the temporary folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_what_killed_writers_left(path)
    folder = path.with_name(f".{path.name}.{os.getpid()}")  # the process id keeps parallel writers apart
    folder.mkdir()
    try:
        temporary = folder / path.name
        yield temporary
        if temporary.is_file():
            temporary.chmod(folder.stat().st_mode & 0o666)  # safetensors' files are for their owner alone
        os.replace(temporary, path)
    finally:
        shutil.rmtree(folder)


def _remove_what_killed_writers_left(path: Path) -> None:
    names = re.compile(rf"\.{re.escape(path.name)}\.(\d+)")
    for left in path.parent.iterdir():
        match = names.fullmatch(left.name)
        if match and (int(match[1]) == os.getpid() or not psutil.pid_exists(int(match[1]))):
            shutil.rmtree(left, ignore_errors=True)


def write_json(path: str | Path, values: dict) -> None:
    """Write `values` as readable JSON with the keys in their given order.

    Raises:
        SystemExit: with one line, if a number is not finite: JSON has no such numbers.
    """
    for name, value in _numbers(values):
        if not math.isfinite(value):
            raise SystemExit(f"{path}: {name} is {value}: did a training diverge? Then try a lower learning rate")
    with placed(path) as temporary:
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8", newline="\n")


def _numbers(values, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every float in nested values, after its name: keys and places in lists, with dots between."""
    if isinstance(values, float):
        yield name, values
    elif isinstance(values, dict | list | tuple):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _numbers(value, f"{name}.{key}" if name else str(key))


def read_json(path: str | Path) -> dict:
    """Read what `write_json` wrote.

    Raises:
        ValueError: that names the file, if it isn't JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # also of a text that isn't UTF-8
        raise ValueError(f"{path}: not JSON: {error}") from None


def rounded(values: dict[str, float], digits: int = 6) -> dict[str, float]:
    """Return `values` as plain floats with `digits` decimals: what a metrics file keeps."""
    return {name: round(float(value), digits) for name, value in values.items()}


def file_hash(path: str | Path, algorithm: str) -> str:
    """Return the hex digest of a file's content ("md5" is DVC's own for files)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def write_history(path: str | Path, history: dict[str, list[float]], every: int = 1, unit: str = "epoch") -> None:
    """Write the values after every so many epochs, metric name to list, as CSV.

    Args:
        every: what the first column, which counts the epochs, begins with.
        unit: what that column counts, its name: "epoch", or "step".

    Raises:
        SystemExit: with one line, if a value is not finite.
    """
    check_history(history, path, every, unit)
    rows = [",".join([unit, *history])]
    for number, values in enumerate(zip(*history.values(), strict=True), start=1):
        rows.append(",".join([str(every * number), *(f"{value:.6g}" for value in values)]))
    with placed(path) as temporary:
        temporary.write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")


def check_history(history: dict[str, list[float]], where: str | Path, every: int = 1, unit: str = "epoch") -> None:
    """End the program with one line, `where` first, if a value in a training's history is not finite."""
    for name, values in history.items():
        for number, value in enumerate(values, start=1):
            if not math.isfinite(value):
                raise SystemExit(
                    f"{where}: {name} is {value} after {unit} {every * number}: the training diverged; "
                    "try a lower learning rate"
                )


def read_history(path: str | Path) -> dict[str, list[float]]:
    """Read what `write_history` wrote: metric name to its values, first epoch or step first."""
    header, *rows = (line.split(",") for line in Path(path).read_text(encoding="utf-8").splitlines())
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {name: [float(value) for value in columns[name]] for name in header[1:]}
