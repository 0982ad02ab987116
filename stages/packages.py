"""The versions of packages that results depend on: `python -m stages.packages` writes them down, one file a package.

In: requirements.lock, and dvc.yaml, whose stages name the files that they want. Out: packages/NAME.txt, the lines of
requirements.lock for the package NAME without hashes. Stages depend on these files and not on requirements.lock, so
that a new version of one package runs those again that use it, and no others.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from stages.common.files import placed
from stages.common.params import PIPELINE_FILE, ParametersError, read_yaml, report

FOLDER = Path("packages")


def check_installed() -> None:
    """Compare the packages of this environment with the files in FOLDER, where there are any.

    A build for another processor, such as 2.15.0+cpu, counts as the version that it is a build of.

    Raises:
        ParametersError: if one is of another version, whose results DVC would take for those of the version written;
            or if a file isn't made of requirements.
    """
    for path in sorted(FOLDER.glob("*.txt")):
        try:
            versions = [Requirement(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (InvalidRequirement, UnicodeDecodeError) as error:
            raise ParametersError(" ".join(str(error).split()), path.as_posix()) from None
        for wanted in versions:
            if wanted.marker is not None and not wanted.marker.evaluate():
                continue  # for another Python, or another system
            try:
                here = version(wanted.name)
            except PackageNotFoundError:
                here = "missing"
            if here == "missing" or not wanted.specifier.contains(here, prereleases=True):
                raise ParametersError(
                    f"{wanted.name} {str(wanted.specifier).removeprefix('==')} is wanted and here it is {here}: "
                    "python setup_environment.py installs, and python -m stages.packages writes down, what "
                    "requirements.lock has",
                    path.as_posix(),
                )


def names_in_pipeline() -> list[str]:
    """Return the names of the packages whose versions stages depend on."""
    entries = read_yaml(PIPELINE_FILE)["stages"].values()
    paths = {Path(path) for entry in entries for path in entry.get("deps", [])}
    return sorted(path.stem for path in paths if path.parent == FOLDER)


def locked_versions(name: str) -> str:
    """Return what the file of a package says: a line for each version, with the Pythons and systems that it is for."""
    from setup_environment import locked  # which loads what a check of each stage has no use for

    pins = (pin.splitlines()[0].rstrip("\\ ") for pin in locked(name))
    return "".join(f"{pin}\n" for pin in pins)


def main() -> int:
    try:
        texts = {FOLDER / f"{name}.txt": locked_versions(name) for name in names_in_pipeline()}
    except ParametersError as error:
        return report(error)
    for path in set(FOLDER.glob("*.txt")) - set(texts):
        path.unlink()
    for path, text in texts.items():
        with placed(path) as file:
            file.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
