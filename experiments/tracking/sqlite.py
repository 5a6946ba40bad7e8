"""Creates and opens the local database of MLflow."""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from cifar_core.files import lock
from experiments.files import PROJECT
from experiments.tracking.moved import ARTIFACTS, follow

HEADER = b"SQLite format 3\0"


def database_of(uri: str) -> Path | None:
    """Return the file of an absolute sqlite URI; None for another kind of store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite") else None


def artifact_root(uri: str) -> Path:
    """Return the folder for the artifacts of a store without a server."""
    return (path.parent if (path := database_of(uri)) else PROJECT) / ARTIFACTS


def open_database(path: Path) -> tuple[int, int]:
    """Create the database if there is none and return which file it is, as (device, inode).

    Nobody ever sees a schema that is half made. Raises FileNotFoundError where its folder is not there, and
    ValueError for a file that is something else.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {path.parent}, and a store is made only in one that is there"
        )
    with tempfile.TemporaryFile(dir=path.parent):
        pass  # in a folder that cannot be written, MLflow would take minutes to find out
    if not _is_there(path):
        with open(f"{path}.lock", "wb") as file:
            lock(file, wait=True)
            if not _is_there(path):
                _write_schema(path)
    follow(path)
    return identity(path)


def identity(path: Path) -> tuple[int, int]:
    """Return device and inode of a file; zeros where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _is_there(path: Path) -> bool:
    """Tell whether the file holds a database, raising ValueError if it holds anything else."""
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return False
    if not path.is_file():
        raise ValueError(f"{path} is no file: a store is one, as in sqlite:///mlflow.db")
    with path.open("rb") as file:
        if file.read(len(HEADER)) != HEADER:
            raise ValueError(f"{path} is no sqlite database: give the store a file of its own")
    with closing(sqlite3.connect(path, timeout=60)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "experiments" not in tables:
        raise ValueError(f"{path} is a database of something else: give the store a file of its own")
    return bool(tables)


def _write_schema(path: Path) -> None:
    # here, for MLflow reads its environment at its import
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = Path(f"{path}.new")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed here
    folder.mkdir()
    store = SqlAlchemyStore(f"sqlite:///{folder / path.name}", (path.parent / ARTIFACTS).as_uri())
    store.engine.dispose()
    with closing(sqlite3.connect(folder / path.name)) as database:
        database.execute("PRAGMA journal_mode=WAL")  # kept in the file; halves the time of a commit
    for left in ("-wal", "-shm"):  # of a database that was removed
        Path(f"{path}{left}").unlink(missing_ok=True)
    (folder / path.name).replace(path)
    shutil.rmtree(folder)
