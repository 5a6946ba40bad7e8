"""Creates the local database of MLflow."""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from cifar_core.files import lock
from experiments.files import PROJECT


def artifact_root(uri: str) -> Path:
    """Return the folder that `mlartifacts/` of a store without a server lies in."""
    return Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite") else PROJECT


def create_database(path: Path) -> None:
    """Create the database if there is none; nobody ever sees a schema that is half made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass  # in a folder that cannot be written, MLflow would take minutes to find out
    if path.exists() and path.stat().st_size:
        return
    with open(f"{path}.lock", "w") as file:
        lock(file, wait=True)
        if not (path.exists() and path.stat().st_size):
            _write_schema(path)


def _write_schema(path: Path) -> None:
    # here, for MLflow reads its environment at its import
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = Path(f"{path}.new")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed here
    folder.mkdir()
    store = SqlAlchemyStore(f"sqlite:///{folder / path.name}", (path.parent / "mlartifacts").as_uri())
    store.engine.dispose()
    with closing(sqlite3.connect(folder / path.name)) as database:
        database.execute("PRAGMA journal_mode=WAL")  # kept in the file; halves the time of a commit
    (folder / path.name).replace(path)
    shutil.rmtree(folder)
