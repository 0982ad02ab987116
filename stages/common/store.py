"""MLflow's store before something is recorded or shown: `python -m stages.common.store` makes it ready for the UI.

MLflow keeps absolute addresses of artifacts. In a checkout that was moved or copied it would go on to write to the old
place, and show what lies there. Two programs that make the tables of a new store at the same time crash, or break it,
so that one at a time opens it. And a store of an earlier MLflow gets new tables, with which that one can't read it any
more: a copy stays.
"""

import contextlib
import importlib.util
import logging
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

from filelock import FileLock

from stages.common.files import placed
from stages.common.params import main_root

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
    """Give the store in `root`, if an earlier MLflow made it, the tables of the one installed; keep a copy beside it.

    Raises:
        sqlite3.Error: if the store is no SQLite database, can't be written, or was made by a later MLflow.
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
        copy = root / f"{STORE}.{revision}"
        with placed(copy) as path, contextlib.closing(sqlite3.connect(path)) as target:
            store.backup(target)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{(root / STORE).as_posix()}"]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **os.environ}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=environment)
    if done.returncode:
        raise sqlite3.DatabaseError(f"{' '.join(command[1:5])}: {' '.join(done.stderr.split())[-500:]}")
    print(f"{STORE} has the tables of the MLflow installed now; as it was, it is in {copy.name}", file=sys.stderr)


def prepare(root: Path) -> None:
    """Have the store in `root`, if there is one, follow its folder, and bring it up to date; hold the lock meanwhile.

    Raises:
        sqlite3.Error: as `follow_the_folder` and `bring_up_to_date`.
    """
    follow_the_folder(root)
    bring_up_to_date(root)


def opened_alone(root: Path) -> FileLock:
    """Return a lock, to be held while the store in `root` is opened."""
    return FileLock(root / ".mlflow.lock")


def make_ready(root: Path) -> None:
    """Make the store in `root` if there is none yet, and give it the present addresses.

    Raises:
        sqlite3.Error: as `prepare`.
    """
    with opened_alone(root):
        prepare(root)
        if not (root / STORE).exists() or not (root / STORE).stat().st_size:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import that would start it

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
