"""MLflow's store before something is recorded or shown: `python -m stages.common.store` makes it ready for the UI.

MLflow keeps absolute addresses of artifacts. In a checkout that was moved or copied it would go on to write to the old
place, and show what lies there. Two programs that make the tables of a new store at the same time crash, or break it,
so that one at a time opens it. And a store of an earlier MLflow gets new tables, with which that one can't read it any
more: a copy stays.
"""

import contextlib
import importlib.util
import itertools
import logging
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

from filelock import FileLock

from stages.common.params import main_root

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before MLflow's import, which would start it

STORE, ARTIFACTS = "mlflow.db", "mlartifacts"
OF_THE_STORE = {"mlflow", "requests", "sqlalchemy", "sqlite3"}  # packages whose errors say what is wrong with a store
ADDRESSES = [
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
]  # tables and columns in which addresses of artifacts stand


def follow_the_folder(root: Path) -> None:
    """Give the store in `root` the present addresses of the artifacts that lie there.

    Those that don't lie there, because a user has put them elsewhere or brought the store without them, keep theirs.

    Raises:
        sqlite3.Error: if the store is no SQLite database, or can't be written.
    """
    if not (root / STORE).exists():
        return
    with contextlib.closing(sqlite3.connect(root / STORE, timeout=60)) as store, store:
        tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in tables:  # MLflow hasn't made them yet
            return
        for (old,) in store.execute("SELECT artifact_location FROM experiments").fetchall():
            # By the folder's name: an experiment may bear another by now.
            found = re.fullmatch(rf"file:.*/{ARTIFACTS}/([^/]+)", old)
            folder = root / ARTIFACTS / unquote(found[1]) if found else None
            if folder is None or not folder.is_dir() or folder.as_uri() == old:
                continue
            new = folder.as_uri()
            for table, column in ADDRESSES:
                if table not in tables:  # in a store of an older MLflow
                    continue
                store.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )


def bring_up_to_date(root: Path) -> None:
    """Give the store in `root`, if an earlier MLflow made it, the tables of the one installed; a copy stays beside it.

    Raises:
        sqlite3.Error: if the store is no SQLite database, can't be written, is used by another program meanwhile, is a
            later MLflow's, or if MLflow can't change its tables. It is as it was then.
        OSError: if there is no room for the copies, or no right to write them.
    """
    if not (root / STORE).exists():
        return
    with contextlib.closing(sqlite3.connect(root / STORE, timeout=60)) as store:
        if not store.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return
        (revision,) = store.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)

        from alembic.script import ScriptDirectory

        (package,) = importlib.util.find_spec("mlflow").submodule_search_locations
        known = ScriptDirectory(str(Path(package) / "store" / "db_migrations"))
        if revision in ("", known.get_current_head()):
            return
        if revision not in {script.revision for script in known.walk_revisions()}:
            raise sqlite3.NotSupportedError(
                "a later MLflow than the one installed has used it, and this one can't read it: install the later one, "
                f"or put a copy from before, {STORE}.REVISION, in its place"
            )
        # Changes of tables can't be undone half-way: they are made in a copy, which then replaces all at once.
        version = store.execute("PRAGMA data_version").fetchone()  # another one, once another program has written
        with tempfile.TemporaryDirectory(prefix=f".{STORE}.", dir=root) as folder:
            before, after = Path(folder) / "before.db", Path(folder) / "after.db"
            for path in (before, after):
                with contextlib.closing(sqlite3.connect(path)) as target:
                    store.backup(target)
            _upgrade(after)
            if store.execute("PRAGMA data_version").fetchone() != version:
                raise sqlite3.OperationalError(
                    "another program has written to it meanwhile: try again when none uses it"
                )
            ends = itertools.chain([""], (f".{number}" for number in itertools.count(2)))
            copies = (root / f"{STORE}.{revision}{end}" for end in ends)
            copy = next(path for path in copies if not path.exists())
            os.replace(before, copy)
            with contextlib.closing(sqlite3.connect(after)) as source:
                source.backup(store)
    print(f"{STORE} has the tables of the MLflow installed now; as it was, it is in {copy.name}", file=sys.stderr)


def _upgrade(file: Path) -> None:
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{file.as_posix()}"]
    # Without an input: the recorder's is its questions.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        reasons = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        raise sqlite3.DatabaseError(
            f"MLflow can't give it its new tables, and left it as it was: {[*lines, *reasons][-1]}"
        )


def prepare(root: Path) -> None:
    """Bring the store in `root`, if there is one, up to date, and have it follow its folder; the caller holds the lock.

    Raises:
        sqlite3.Error, OSError: as `bring_up_to_date` and `follow_the_folder`.
    """
    bring_up_to_date(root)
    follow_the_folder(root)


def opened_alone(root: Path) -> FileLock:
    """Return a lock, to be held while the store in `root` is opened."""
    return FileLock(root / ".mlflow.lock")


def make_ready(root: Path) -> None:
    """Make the store in `root` if there is none yet; bring it up to date, and give it the present addresses.

    Raises:
        sqlite3.Error, OSError: as `prepare`.
    """
    with opened_alone(root):
        prepare(root)
        if not (root / STORE).exists() or not (root / STORE).stat().st_size:
            import mlflow

            for name in ("alembic", "mlflow"):  # they tell of every table
                logging.getLogger(name).setLevel(logging.WARNING)
            mlflow.MlflowClient(f"sqlite:///{(root / STORE).as_posix()}").search_experiments(max_results=1)


if __name__ == "__main__":
    try:
        if os.environ.get("MLFLOW_TRACKING_URI", "") in ("", f"sqlite:///{STORE}"):  # else the runs are elsewhere
            make_ready(main_root())
    except Exception as error:
        if type(error).__module__.split(".")[0] not in OF_THE_STORE and not isinstance(error, OSError):
            raise
        sys.exit(f"{STORE}: {' '.join(str(error).split())}")
