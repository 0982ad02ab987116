"""MLflow's store in a checkout that was moved or copied: `python -m stages.common.store` gives it the new addresses.

MLflow keeps absolute addresses of artifacts. It would go on to write to the old place, and show what lies there.
"""

import contextlib
import sqlite3
import sys
from pathlib import Path

from stages.common.params import main_root

STORE, ARTIFACTS = "mlflow.db", "mlartifacts"
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
        for name, old in store.execute("SELECT name, artifact_location FROM experiments").fetchall():
            new = (root / ARTIFACTS / name).as_uri()
            moved = old.startswith("file:") and old.endswith(f"/{ARTIFACTS}/{name}") and old != new
            if not moved or not (root / ARTIFACTS / name).is_dir():
                continue
            for table, column in ADDRESSES:
                if table not in tables:  # in a store of an older MLflow
                    continue
                store.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )


if __name__ == "__main__":
    try:
        follow_the_folder(main_root())
    except sqlite3.Error as error:
        sys.exit(f"{STORE}: {error}")
