"""MLflow's store: in a checkout that was moved or copied, and with the tables of another MLflow."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import alembic.command
import mlflow
import pytest
from alembic.script import ScriptDirectory
from filelock import Timeout
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from sqlalchemy import create_engine

from stages.common import store as store_module
from stages.common.store import follow_the_folder, make_ready, opened_alone
from tests.conftest import ROOT


def addresses(root: Path) -> list[str]:
    """Return where the store in `root` looks for the artifacts of its one experiment, and of its one run."""
    with closing(sqlite3.connect(root / "mlflow.db")) as store:
        tables = {"experiments": "artifact_location", "runs": "artifact_uri"}
        where = "WHERE experiment_id = (SELECT experiment_id FROM experiments WHERE name = 'ch06')"
        return [
            store.execute(f"SELECT {column} FROM {table} {where}").fetchone()[0] for table, column in tables.items()
        ]


def program(root: Path, **variables: str) -> subprocess.Popen:
    """Start the program that makes the store in `root` ready, with these variables for MLflow and no others."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"DVC_ROOT": str(root), **variables}
    command = [sys.executable, "-m", "stages.common.store"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def make(tmp_path, empty_store):
    """A function that makes a checkout with a store, whose artifacts lie in the folder given."""

    def checkout(artifacts: Path) -> Path:
        root = tmp_path / "old place"
        root.mkdir()
        shutil.copy(empty_store, root)
        client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
        run = client.create_run(client.create_experiment("ch06", artifact_location=artifacts.as_uri()))
        (artifacts / run.info.run_id).mkdir(parents=True)
        return root

    return checkout


def test_a_moved_store_has_its_artifacts_with_it(make, tmp_path):
    root = make(tmp_path / "old place/mlartifacts/ch06").rename(tmp_path / "new place")
    before = addresses(root)
    follow_the_folder(root)
    assert addresses(root) == [address.replace("old%20place", "new%20place") for address in before] != before
    follow_the_folder(root)
    assert addresses(root)[0] == (root / "mlartifacts/ch06").as_uri()


def test_a_moved_store_whose_experiment_has_another_name_by_now(make, tmp_path):
    root = make(tmp_path / "old place/mlartifacts/глава 6")
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("ch06").experiment_id
    client.rename_experiment(experiment, "Мои опыты")
    client.rename_experiment(client.create_experiment("ch04", artifact_location="file:///elsewhere"), "глава 6")
    root = root.rename(tmp_path / "new place")
    follow_the_folder(root)
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    assert client.get_experiment(experiment).artifact_location == (root / "mlartifacts/глава 6").as_uri()


@pytest.mark.parametrize("place", ["elsewhere/ch06", "class/mlartifacts/ch06", "class/mlartifacts"])
def test_artifacts_that_a_user_has_put_elsewhere_stay_there(make, tmp_path, place):
    root = make(tmp_path / place)
    (root / "mlartifacts/ch04").mkdir(parents=True)
    before = addresses(root)
    follow_the_folder(root)
    assert addresses(root) == before


def test_a_store_that_was_brought_without_its_artifacts_still_finds_them(make, tmp_path):
    root = make(tmp_path / "old place/mlartifacts/ch06")
    (tmp_path / "clone").mkdir()
    shutil.copy(root / "mlflow.db", tmp_path / "clone")
    follow_the_folder(tmp_path / "clone")
    assert addresses(tmp_path / "clone") == addresses(root)


@pytest.mark.parametrize("present", [False, True], ids=["missing", "empty"])
def test_the_ui_finds_a_store_that_nobody_else_is_making(tmp_path, monkeypatch, present):
    if present:
        (tmp_path / "mlflow.db").touch()
    opened, client = [], mlflow.MlflowClient

    def open_store(uri: str) -> mlflow.MlflowClient:
        opened.append(uri)
        with pytest.raises(Timeout):  # of the others
            opened_alone(tmp_path).acquire(timeout=0)
        return client(uri)

    monkeypatch.setattr(mlflow, "MlflowClient", open_store)
    make_ready(tmp_path)
    assert len(opened) == 1
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        assert store.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    make_ready(tmp_path)
    assert len(opened) == 1  # it is there


def revisions() -> list[str]:
    """Return those of MLflow's tables, the newest first."""
    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return [script.revision for script in scripts.walk_revisions()]


def store_of(root: Path, revision: str) -> None:
    """Make a store in `root` with MLflow's tables as they were at a revision, and an experiment in it."""
    config = _get_alembic_config(f"sqlite:///{root.as_posix()}/mlflow.db")
    engine = create_engine(config.get_main_option("sqlalchemy.url"))
    with engine.begin() as connection:
        InitialBase.metadata.create_all(connection)
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)
        connection.exec_driver_sql(
            "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES ('ch06', 'elsewhere', 'active')"
        )
    engine.dispose()


def revision_of(file: Path) -> str:
    with closing(sqlite3.connect(file)) as store:
        return store.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def dump_of(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as store:
        return list(store.iterdump())


@pytest.mark.parametrize("back", [1, 20])
def test_a_store_of_an_earlier_mlflow_is_brought_up_to_date_and_kept(tmp_path, capsys, back):
    root = tmp_path / "50 % глава"
    root.mkdir()
    newest, earlier = revisions()[0], revisions()[back]
    for name in (f"mlflow.db.{earlier}", f"mlflow.db.{earlier}.2"):
        store_of(root, earlier)
        before = dump_of(root / "mlflow.db")
        make_ready(root)
        assert revision_of(root / "mlflow.db") == newest
        assert dump_of(root / name) == before
        assert capsys.readouterr().err.endswith(f" {name}\n")
        client = mlflow.MlflowClient(f"sqlite:///{root.as_posix()}/mlflow.db")
        assert client.get_experiment_by_name("ch06") is not None
        make_ready(root)
        assert capsys.readouterr().err == ""
        (root / "mlflow.db").unlink()
    assert {path.name for path in root.iterdir()} == {".mlflow.lock", f"mlflow.db.{earlier}", f"mlflow.db.{earlier}.2"}


def test_two_programs_bring_a_store_up_to_date_once(tmp_path):
    store_of(tmp_path, revisions()[3])
    both = [program(tmp_path) for _ in range(2)]
    told = [one.communicate(timeout=120)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sorted(map(len, told))[0] == 0 < sorted(map(len, told))[1]
    assert len(list(tmp_path.glob("mlflow.db*"))) == 2 and revision_of(tmp_path / "mlflow.db") == revisions()[0]


def test_a_store_of_a_later_mlflow_is_refused_and_stays(tmp_path):
    store_of(tmp_path, "heads")
    (tmp_path / "mlartifacts/ch06").mkdir(parents=True)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        store.execute("UPDATE experiments SET artifact_location = 'file:///old/mlartifacts/ch06'")
        store.execute("UPDATE alembic_version SET version_num = 'later'")
    before = dump_of(tmp_path / "mlflow.db")
    with pytest.raises(sqlite3.NotSupportedError, match="a later MLflow than the one installed"):
        make_ready(tmp_path)
    assert dump_of(tmp_path / "mlflow.db") == before and len(list(tmp_path.glob("*mlflow.db*"))) == 1


def test_an_upgrade_that_fails_changes_nothing(tmp_path):
    store_of(tmp_path, "heads")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    (tmp_path / "mlflow.db").unlink()
    store_of(tmp_path, revisions()[20])
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        tables -= {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        store.execute(f"CREATE TABLE {max(tables)} (number INTEGER)")  # one that is to be made on the way
    before = dump_of(tmp_path / "mlflow.db")
    for _ in range(2):
        with pytest.raises(sqlite3.DatabaseError, match=f"left it as it was: .*table {max(tables)} already exists"):
            make_ready(tmp_path)
        assert dump_of(tmp_path / "mlflow.db") == before
        assert {path.name for path in tmp_path.iterdir()} == {".mlflow.lock", "mlflow.db"}


def test_what_is_written_meanwhile_is_not_lost(tmp_path, monkeypatch):
    store_of(tmp_path, revisions()[1])

    def upgrade(file: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
            store.execute("UPDATE experiments SET name = 'written meanwhile'")

    monkeypatch.setattr(store_module, "_upgrade", upgrade)
    with pytest.raises(sqlite3.OperationalError, match="another program has written to it"):
        make_ready(tmp_path)
    assert any("written meanwhile" in line for line in dump_of(tmp_path / "mlflow.db"))
    assert revision_of(tmp_path / "mlflow.db") == revisions()[1]


def test_a_store_elsewhere_needs_none_here(tmp_path):
    assert program(tmp_path, MLFLOW_TRACKING_URI="sqlite:///class.db").wait(timeout=60) == 0
    assert list(tmp_path.iterdir()) == []


def test_without_a_store_nothing_is_made_and_a_broken_one_is_one_line(tmp_path):
    follow_the_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.db").touch()
    follow_the_folder(tmp_path)
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    broken = program(tmp_path)
    assert broken.communicate(timeout=60)[1] == "mlflow.db: file is not a database\n"
    assert broken.returncode == 1
