"""Run every chapter with the book's own recipe, as one DVC experiment called "book": `python -m stages.book [--all]`.

The experiment runs in a temporary copy of the repository, so that the workspace keeps its own results. Out: the book's
numbers beside the default ones, in metrics/book/chNN.json (by variant where a chapter has several), the times that a
chapter measures in metrics/book/timings/chNN.json, and metrics/book/lock.yaml, the experiment's dvc.lock, which tells
what code and parameters they belong to; of a chapter that only `--all` runs, the last such experiment's.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import yaml

from stages.common.files import placed, write_json
from stages.common.params import PARAMS_FILE, PIPELINE_FILE, Yaml12Loader, read_yaml
from stages.params_schema import main as check_parameters
from stages.repro import in_git, use_this_python

NAME = "book"
# With the book's recipe it trains 54 million weights for 18,000 steps, more than an hour on two cores: `--all` runs it,
# too. Without it the numbers of an earlier run stay, with their part of the lock, and a test tells when they are not of
# the present code: then run it again, or remove them.
LONG = {"ch09"}
RESULTS = Path("metrics/book")
LOCK = RESULTS / "lock.yaml"


def chapters_with_recipes(parameters: dict) -> list[str]:
    """Return the chapters that have a choice of recipes, such as "ch06"."""
    return [name for name, section in parameters.items() if isinstance(section, dict) and "recipe" in section]


def git(*arguments: str) -> str:
    """Return what a git command prints.

    Raises:
        SystemExit: with one line, git's reason, if it fails.
    """
    done = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"error: git {' '.join(arguments)}: {' '.join(done.stderr.split())}")
    return done.stdout


def shown(revision: str, path: str) -> str:
    """Return a file's text at `revision`; the path is from this folder, which may lie within a larger repository."""
    return git("show", f"{revision}:./{path}")


def experiment_reference(name: str, head: str) -> str:
    """Return the git reference by which DVC keeps the experiment `name` that started from the commit `head`."""
    return f"refs/exps/{head[:2]}/{head[2:]}/{name}"


def experiment_revision(name: str, head: str) -> str:
    """Return the commit of the experiment `name` that started from the commit `head`."""
    lines = git("for-each-ref", "--format=%(objectname)", experiment_reference(name, head)).split()
    if not lines:
        raise SystemExit(f"there is no experiment {name} of {head[:7]}")
    return lines[0]


def collected_metrics(revision: str, chapter: str) -> dict:
    """Return the metrics of `chapter` at `revision`: of its file, or of each variant's."""
    paths = git("ls-tree", "-r", "--name-only", revision, "metrics").splitlines()
    single = f"metrics/{chapter}.json"
    if single in paths:
        return json.loads(shown(revision, single))
    variants = [path for path in paths if Path(path).parent == Path(f"metrics/{chapter}")]
    return {Path(path).stem: json.loads(shown(revision, path)) for path in variants}


def collected_timings(revision: str, chapters: list[str]) -> dict[str, dict]:
    """Return chapter to the times that it took at `revision`, of the chapters that take times."""
    paths = git("ls-tree", "--name-only", revision, "metrics/timings/").splitlines()
    return {
        chapter: json.loads(shown(revision, path))
        for chapter in chapters
        for path in paths
        if Path(path).stem == chapter
    }


def stages_of(chapters: set[str], stages: dict[str, dict]) -> dict[str, dict]:
    """Return those of the stages, by name, that belong to the chapters."""
    return {name: entry for name, entry in stages.items() if name.split("_")[0] in chapters}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--all", action="store_true", help="the chapters that take an hour, too")
    left_out = set() if parser.parse_args().all else LONG
    if status := check_parameters():
        return status
    chapters = [name for name in chapters_with_recipes(read_yaml(PARAMS_FILE)) if name not in left_out]
    settings = [argument for chapter in chapters for argument in ("-S", f"{chapter}.recipe=book")]
    cache = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True).stdout.strip()
    if not cache.isascii():  # DVC writes its path into the settings of the temporary copy, as ASCII
        print(
            f"error: DVC's cache is {cache}, and it makes temporary copies only where that path has no other letters "
            "than English ones: name another, as in dvc cache dir --local /srv/dvc-cache",
            file=sys.stderr,
        )
        return 1
    if not in_git(Path.cwd()):
        print("error: DVC makes experiments in a git repository alone: clone the project with git", file=sys.stderr)
        return 1
    top = Path(git("rev-parse", "--show-toplevel").rstrip("\n"))
    copied = {  # DVC copies them, as ASCII; each with what to do
        top / ".git/config": "your name can stand in git config --global user.name: take it out here, "
        "git config --unset user.name",
        Path(".dvc/config.local"): "what is named there can stand in DVC's settings for all projects: "
        "dvc config --global",
    }
    for own, way_out in copied.items():
        if own.is_file() and not own.read_bytes().isascii():
            print(
                f"error: {own} has other letters than English ones, and DVC makes temporary copies only where it has "
                f"none; {way_out}",
                file=sys.stderr,
            )
            return 1
    head = git("rev-parse", "HEAD").strip()  # while the experiment runs, the workspace may go on
    if unknown := git("ls-files", "--others", "--exclude-standard", "stages/*.py").splitlines():
        print(f"error: the copy has what git knows, and it doesn't know {unknown[0]}: git add it", file=sys.stderr)
        return 1
    use_this_python()
    dvc = [sys.executable, "-m", "dvc", "exp"]
    # An experiment of this name from an earlier commit stays, which `dvc exp remove` would take if there is but one; of
    # this commit, it is made anew. Stages that ran with the same code, data and parameters before come from DVC's run
    # cache, as everywhere.
    git("update-ref", "-d", experiment_reference(NAME, head))
    # Named, because the others would be run, too, by the recipes that they have.
    stages = list(stages_of(set(chapters), read_yaml(PIPELINE_FILE)["stages"]))
    status = subprocess.run([*dvc, "run", "--temp", "-n", NAME, *settings, *stages])
    if status.returncode:
        return status.returncode
    revision = experiment_revision(NAME, head)
    for chapter in chapters:
        write_json(RESULTS / f"{chapter}.json", collected_metrics(revision, chapter))
    for chapter, times in collected_timings(revision, chapters).items():
        write_json(RESULTS / f"timings/{chapter}.json", times)
    lock = yaml.load(shown(revision, "dvc.lock"), Yaml12Loader)
    if LOCK.exists():
        earlier = read_yaml(LOCK)["stages"]
        kept = {chapter for chapter in left_out if (RESULTS / f"{chapter}.json").exists()}
        lock["stages"].update(stages_of(kept, earlier))
    with placed(LOCK) as path:
        path.write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8", newline="\n")
    print(f"The book's numbers are in {RESULTS}: {', '.join(chapters)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
