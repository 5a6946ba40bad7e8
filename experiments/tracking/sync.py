"""Delivers to MLflow what runs could not."""

import os
from pathlib import Path

from experiments.tracking.delivery import Delivery
from experiments.tracking.mlflow_store import HOST_TAG, PROCESS_TAG
from experiments.tracking.processes import is_dead
from experiments.tracking.spool import Spool
from experiments.tracking.uri import one_line, public_uri


def run_folders(folder: Path) -> list[Path]:
    """Return the folders with a spool in and below ``folder``; FileNotFoundError where there is none."""
    found = sorted(spool.parent for spool in folder.rglob("tracking.jsonl"))
    if not found:
        raise FileNotFoundError(f"{folder} holds no tracking.jsonl")
    return found


def sync(folder: Path, override: str | None, unreachable: dict[str, str]) -> int:
    """Deliver one folder; a store found `unreachable` is not tried again for the next one."""
    try:
        outcome = _deliver(folder, override, unreachable)
    except BlockingIOError:
        outcome = "still running: its own process delivers"
    except Exception as error:  # whatever MLflow, its database or the network raise: the next folder may do
        print(f"{folder}: failed: {one_line(error)}")
        return 1
    print(f"{folder}: {outcome}")
    return 0


def _deliver(folder: Path, override: str | None, unreachable: dict[str, str]) -> str:
    spool = Spool(folder)
    start = spool.last("start")
    if start is None:
        raise ValueError("tracking.jsonl holds no readable start record")
    uri = override or _with_password(start["uri"])
    delivery = Delivery(folder, uri)
    try:
        delivery.lock()
        _close_if_dead(spool)
        if delivery.is_complete:
            return f"nothing new, {delivery.url}"
        if ":***@" in uri:
            raise ValueError(f"the password of {uri} is not saved: give --uri or MLFLOW_TRACKING_URI")
        if uri in unreachable:
            raise ConnectionError(unreachable[uri])
        delivery.deliver()
    except Exception as error:
        if not (
            delivery.is_open or isinstance(error, (BlockingIOError, ValueError))
        ):  # those are this folder's
            unreachable[uri] = one_line(error)
        raise
    finally:
        delivery.close()
    if delivery.state.missed:
        raise OSError(f"{len(delivery.state.missed)} files were not uploaded, {delivery.url}")
    return f"delivered, {delivery.url}"


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
