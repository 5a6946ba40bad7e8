"""Finds a store, and the files it points to, after the folder around them was moved or copied."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

log = logging.getLogger(__name__)

ARTIFACTS = "mlartifacts"  # folder beside a database, for the files of its runs
FILES = (  # where MLflow's tables name a place of files: table, column, its table's key
    ("experiments", "artifact_location", "experiment_id"),
    ("runs", "artifact_uri", "run_uuid"),
    ("logged_models", "artifact_location", "model_id"),
    ("model_versions", "source", "rowid"),
    ("model_versions", "storage_location", "rowid"),
)


def carried(path: Path, was: Path, now: Path) -> Path | None:
    """Return where ``path`` lies if it was moved with a folder from ``was`` to ``now``; None if it was not.

    What the two places end with alike was moved as a whole, so ``path`` counts if it lay in or beside that.
    """
    while was != now and was.name == now.name:
        was, now = was.parent, now.parent
    if was in (now, was.parent) or not path.is_relative_to(was):
        return None
    return now / path.relative_to(was)


def follow(database: Path) -> None:
    """Have a database that was moved or copied with its `mlartifacts` look for files beside itself again.

    MLflow keeps absolute addresses. One is rewritten if the new place holds the file or the old place is
    gone; a file that stayed where it was keeps its address. All is done in one transaction or not at all.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        if not list(_moved(connection, database.parent, FILES[0])):
            return
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            roots: dict[str, set[Path]] = {table: set() for table, _, _ in FILES}
            for place in FILES:
                table, column, key = place
                for number, root, new in list(_moved(connection, database.parent, place)):
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (new, number))
                    roots[table].add(root)
            for root in roots["runs"]:
                _follow_folders(connection, root, database.parent)
    for root in roots["runs"]:
        log.warning("tracking: %s was in %s: its files are looked for beside it now", database, root)


def _moved(
    connection: sqlite3.Connection, here: Path, place: tuple[str, str, str]
) -> Iterator[tuple[object, Path, str]]:
    """Yield key, old root and new address of each row whose files are to be looked for in ``here``."""
    table, column, key = place
    known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    if column not in known:  # of another version of MLflow
        return
    pattern = f"%/{ARTIFACTS}/%"
    query = f"SELECT {key}, {column} FROM {table} WHERE {column} LIKE ?"
    for number, address in connection.execute(query, (pattern,)):
        root = _root(address)
        if root is None or root == here or (root.exists() and root.samefile(here)):
            continue
        old = _path(address)
        new = here / old.relative_to(root)
        if not old.exists() or (new.exists() and not new.samefile(old)):
            yield number, root, new.as_uri() if address.startswith("file:") else str(new)


def _follow_folders(connection: sqlite3.Connection, was: Path, now: Path) -> None:
    """Have runs whose folder was moved along name its new place."""
    query = "SELECT run_uuid, value FROM tags WHERE key = 'run_folder'"
    for run, folder in list(connection.execute(query)):
        if Path(folder).is_relative_to(was) and (new := now / Path(folder).relative_to(was)).exists():
            update = "UPDATE tags SET value = ? WHERE key = 'run_folder' AND run_uuid = ?"
            connection.execute(update, (str(new), run))


def _path(address: str) -> Path:
    return Path(unquote(urlparse(address).path)) if address.startswith("file:") else Path(address)


def _root(address: str) -> Path | None:
    """Return the folder that the `mlartifacts` of a local address lies in."""
    if "://" in address and not address.startswith("file:"):
        return None
    path = _path(address)
    inner = [parent for parent in path.parents if parent.name == ARTIFACTS]
    return inner[-1].parent if inner and path.is_absolute() else None
