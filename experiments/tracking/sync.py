"""Delivers to their stores what runs could not."""

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.tracking.delivery import Delivery
from experiments.tracking.mlflow_store import MlflowStore
from experiments.tracking.moved import carried
from experiments.tracking.processes import HOST_TAG, PROCESS_TAG, is_dead
from experiments.tracking.spool import Record, Spool
from experiments.tracking.sqlite import database_of
from experiments.tracking.store import Deleted, Store
from experiments.tracking.uri import brief, public_uri, tracking_uri


@dataclass(frozen=True)
class Outcome:
    """What became of one run folder."""

    folder: Path
    text: str
    failed: bool = False


def store_at(uri: str) -> Store:
    """Return the store that a spool calls ``uri``; a further kind of store goes by a scheme of its own."""
    return MlflowStore(uri)


def sync(paths: Sequence[Path], uri: str | None) -> Iterator[Outcome]:
    """Deliver all run folders in and below ``paths``, to the store each was meant for or to ``uri``.

    Raises FileNotFoundError for a path without any and ValueError for a wrong URI before it begins.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # seconds; here nobody's training waits
    folders = [folder for path in paths for folder in _run_folders(path)]
    return _sync(folders, tracking_uri(uri) if uri else None)


def _run_folders(path: Path) -> list[Path]:
    folders = sorted(spool.parent for spool in path.rglob("tracking.jsonl"))
    if not folders:
        raise FileNotFoundError(f"{path} holds no tracking.jsonl")
    return folders


def _sync(folders: Sequence[Path], override: str | None) -> Iterator[Outcome]:
    unreachable: dict[str, str] = {}  # store -> why it is not tried again for the next folder
    for folder in folders:
        try:
            yield Outcome(folder, _deliver(folder, override, unreachable))
        except BlockingIOError:
            yield Outcome(folder, "still running: its own process delivers")
        except Deleted as deleted:  # on purpose
            yield Outcome(folder, f"left alone: {deleted}")
        except Exception as error:  # whatever a store, its database or the network raise: the next may do
            yield Outcome(folder, f"failed: {brief(error)}", failed=True)


def _deliver(folder: Path, override: str | None, unreachable: dict[str, str]) -> str:
    spool = Spool(folder)
    start = spool.last("start")
    if start is None:
        raise ValueError("tracking.jsonl holds no readable start record")
    uri = override or _with_password(_store_of(folder, start))
    delivery = Delivery(folder, store_at(uri))
    try:
        delivery.lock()
        _close_if_dead(spool)
        if "***" in uri:
            raise ValueError(f"the password of {uri} is not saved: give --uri or MLFLOW_TRACKING_URI")
        if uri in unreachable:
            raise ConnectionError(unreachable[uri])
        delivery.deliver()
    except Exception as error:
        of_this_folder = isinstance(error, (BlockingIOError, Deleted, ValueError))
        if not (delivery.is_open or of_this_folder):
            unreachable[uri] = brief(error)
        raise
    finally:
        delivery.close()
    if delivery.state.missed:
        raise OSError(f"{len(delivery.state.missed)} files were not uploaded, {delivery.url}")
    if not delivery.has_sent:
        return f"nothing new, {delivery.url}"
    place = "" if uri in (override, start["uri"]) else f" to {delivery.store.uri}"
    return f"delivered{place}, {delivery.url}"


def _store_of(folder: Path, start: Record) -> str:
    """Return the store that a run was meant for, at its new place if it was moved together with the run.

    Raises FileNotFoundError where an sqlite store is nowhere and the run was made elsewhere: a new one might
    not be the one that is meant.
    """
    uri, path = start["uri"], database_of(start["uri"])
    if path is None:
        return uri
    was, now = Path(start["tags"].get("run_folder", folder.resolve())), folder.resolve()
    moved = carried(path, was, now)
    if moved is not None and moved.is_file():
        return f"sqlite:///{moved}"
    here = now == was and start["tags"].get(HOST_TAG) == socket.gethostname()
    if not path.exists() and not (here and path.parent.is_dir()):
        raise FileNotFoundError(f"its store {uri} is not there: name the one to deliver to by --uri")
    return uri


def _close_if_dead(spool: Spool) -> None:
    """End a run whose process was killed: the last thing it logged is its end."""
    last = spool.last("start", "status")
    if last and last["kind"] == "start" and is_dead(last["tags"][HOST_TAG], last["tags"][PROCESS_TAG]):
        ended = max(record["t"] for record, _ in spool.read())
        spool.append("status", status="KILLED", t=ended)


def _with_password(uri: str) -> str:
    """Return the environment's URI where it differs from the saved one by the password alone."""
    from_environment = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    return from_environment if public_uri(from_environment) == uri else uri
