"""How a run ended."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from experiments.cli import GuardStop, UserError, one_line
from experiments.runs.folder import RunFolder

log = logging.getLogger(__name__)


@contextmanager
def recorded(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Yield the run's result and write it, with the way the run ended, to result.json."""
    result: dict[str, Any] = {"status": "finished", "metrics": {}, "seconds": {}, "epochs": 0, "run_id": None}
    try:
        yield result
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        told = isinstance(error, (UserError, GuardStop, OSError, MemoryError))
        result |= {"status": "killed" if stopped else "failed", "error": one_line(error)}
        log.error("%s: %s", result["status"], result["error"], exc_info=not stopped and not told)
        with suppress(OSError):  # a full disk is perhaps what ended the run
            folder.write_json("result.json", result)
        if isinstance(error, (UserError, OSError)):
            folder.discard()
        raise
    folder.write_json("result.json", result)
