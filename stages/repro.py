"""Check params.yaml, then do `dvc repro`: `python -m stages.repro [ARGUMENT …]`, with any arguments of `dvc repro`.

DVC parses params.yaml anew for every stage, and walks through all of it for every parameter that a stage declares: in
this project, two fifths of the time in which it finds that nothing has changed. Here it parses the file once, as long
as the file stays as it is, and goes straight to a parameter. What it does with the values is the same.
"""

import gc
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from stages import configured_instructions
from stages.params_schema import main as check_parameters


def kept(load: Callable) -> Callable:
    """Return `load`, DVC's reader of a file of parameters, with the last version of each file kept."""
    from dvc.fs import LocalFileSystem

    files: dict[str, tuple[tuple[int, int, int], dict]] = {}

    def load_kept(path: str, fs=None, **options) -> dict:
        if options or not isinstance(fs, LocalFileSystem):  # a file of another commit has the same path
            return load(path, fs, **options)
        found = os.stat(path)
        version = (found.st_mtime_ns, found.st_size, found.st_ino)
        if path not in files or files[path][0] != version:
            files[path] = (version, load(path, fs))
        return files[path][1]

    return load_kept


def straight(get: Callable) -> Callable:
    """Return `get`, dpath's lookup of a dotted name that may hold wildcards, with a shorter way for plain names."""

    def get_straight(values: dict, name: str, separator: str = "/"):
        found = values
        for key in name.split(separator):
            if not isinstance(found, dict) or key not in found:
                return get(values, name, separator=separator)
            found = found[key]
        return found

    return get_straight


def read_parameters_once() -> None:
    """Give DVC's module of parameters the two functions above; where it has changed, leave it as it is."""
    from dvc.dependency import param

    if hasattr(param, "load_path") and hasattr(getattr(param, "dpath", None), "get"):
        param.load_path = kept(param.load_path)
        # A namespace of its own, since the rest of DVC uses the library, too; `search` and `merge` stay dpath's.
        param.dpath = SimpleNamespace(**{**vars(param.dpath), "get": straight(param.dpath.get)})


def in_git(folder: Path) -> bool:
    return any((parent / ".git").exists() for parent in (folder, *folder.parents))


def works_in(folder: Path) -> bool:
    """Return whether DVC will: in a git repository, or where its settings say that it does without."""
    from dvc.config import Config

    return in_git(folder) or bool(Config.from_cwd()["core"].get("no_scm"))


def lacks_avx2(described: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this is Linux on an x86-64 processor that says it has no AVX2."""
    if platform.machine() != "x86_64" or not described.is_file():
        return False
    flags = re.search(r"^flags\s*:(.*)$", described.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return flags is not None and "avx2" not in flags[1].split()


def use_this_python() -> None:
    """Let the stages' `python` be this one, also where the environment isn't activated."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def main() -> int:
    gc.disable()  # there is next to no garbage, and looking for it takes a seventh of the time
    if status := check_parameters():
        return status
    if lacks_avx2() and configured_instructions() == "avx2":
        # Here, because with these instructions NumPy itself would end without a word, at its import.
        print(
            "instructions: this processor has no AVX2; set native in params.yaml: it does without, and gives other "
            "bytes",
            file=sys.stderr,
        )
        return 2
    if not works_in(Path.cwd()):
        print(
            "there is no git repository here: clone the project with git; or let DVC do without, and without its "
            "experiments: dvc config --local core.no_scm true",
            file=sys.stderr,
        )
        return 1
    use_this_python()

    from dvc.cli import main as dvc

    read_parameters_once()
    return dvc(["repro", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
