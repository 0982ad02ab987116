"""MLflow's store before something is recorded or shown: `python -m stages.common.store` makes it ready for the UI.

MLflow keeps absolute addresses of artifacts. In a checkout that was moved or copied it would go on to write to the old
place, and show what lies there. And two programs that make the tables of a new store at the same time crash, or break
it, so that one at a time opens it.
"""

import contextlib
import logging
import os
import re
import sqlite3
import sys
from pathlib import Path
from urllib.parse import unquote

from filelock import FileLock

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


def opened_alone(root: Path) -> FileLock:
    """Return a lock, to be held while the store in `root` is opened."""
    return FileLock(root / ".mlflow.lock")


def make_ready(root: Path) -> None:
    """Make the store in `root` if there is none yet, and give it the present addresses.

    Raises:
        sqlite3.Error: as `follow_the_folder`.
    """
    with opened_alone(root):
        follow_the_folder(root)
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
