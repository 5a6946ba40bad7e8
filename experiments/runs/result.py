"""How a run ended: the content of result.json."""

import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cifar_core.memory import out_of_memory
from experiments.cli import GuardStop, UserError, one_line
from experiments.files import read_json, write_json

DONE = ("finished", "pruned")  # a run that is not gone on with
ANALYSING = "analysing"  # its figures stand, its pictures are being drawn or were when it was killed

log = logging.getLogger(__name__)


@dataclass
class Result:
    """Status, figures and costs of a run."""

    status: str = "finished"  # finished, pruned, analysing, failed, killed
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # train, analysis, total
    epochs: int = 0
    run_id: str | None = None  # in the tracker
    protocol: str = ""  # validation, test_each_epoch, test_once; empty before the data is there
    remarks: list[str] = field(default_factory=list)  # what the accuracy hides, in sentences
    error: str = ""
    cause: str = ""  # of a failure: memory or failed, by itself; of a trial also killed, vanished, timeout
    analysis_error: str = ""
    log: list[str] = field(default_factory=list)  # the last lines of a trial that failed

    @property
    def done(self) -> bool:
        """Whether the run needs nothing more."""
        return self.status in DONE

    @property
    def value(self) -> float | None:
        """The figure that runs are chosen by: the best val/acc; without a validation split the test's."""
        return self.metrics.get("val/acc_best", self.metrics.get("test/acc"))

    @property
    def spent(self) -> float:
        """Seconds of the run so far, with those of earlier attempts."""
        return self.seconds.get("total", 0.0)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the result in a run folder; None where the run has not ended.

        Raises OSError for a damaged file.
        """
        content = read_json(folder / "result.json")
        if not content:
            return None
        kinds = {key: type(value) for key, value in vars(cls(run_id="")).items()}
        known = {key: value for key, value in content.items() if key in kinds and value is not None}
        if wrong := [key for key, value in known.items() if not isinstance(value, kinds[key])]:
            raise OSError(f"{folder / 'result.json'} is damaged: {', '.join(wrong)}")
        result = cls(**known)
        unknown = {key: math.nan for key, value in result.metrics.items() if value is None}
        result.metrics |= unknown  # JSON has no NaN, so that of a diverged run is null there
        return result

    def write(self, folder: Path) -> None:
        """Write result.json, whole or not at all; what is not known is left out."""
        always = ("status", "metrics", "seconds", "epochs", "run_id")
        content = {key: value for key, value in vars(self).items() if value or key in always}
        write_json(folder / "result.json", content)


@contextmanager
def recorded(folder: Path) -> Iterator[Result]:
    """Yield the run's result and write it, with the way the run ended, to result.json in ``folder``.

    Figures of an earlier attempt stay there until they come again: what is left of that run is its analysis.
    Seconds in all are those of all attempts.
    """
    earlier, began = Result.read(folder), time.perf_counter()
    before = earlier.spent if earlier else 0.0
    if earlier and earlier.metrics:
        kept = {name: getattr(earlier, name) for name in ("metrics", "remarks", "epochs", "protocol")}
        result = Result(**kept)
        dataclasses.replace(earlier, status=ANALYSING, error="", cause="").write(folder)
    else:
        result = Result()
        (folder / "result.json").unlink(missing_ok=True)
    result.seconds["total"] = before
    try:
        yield result
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        explained = isinstance(error, (UserError, GuardStop, OSError, MemoryError)) and not _has_defect(error)
        result.seconds["total"] = before + time.perf_counter() - began
        result.status, result.error = "killed" if stopped else "failed", one_line(error)
        if not stopped:
            result.cause = "memory" if out_of_memory(error) else "failed"
        log.error("%s: %s", result.status, result.error, exc_info=not stopped and not explained)
        with suppress(OSError):  # a full disk is perhaps what ended the run
            result.write(folder)
        raise
    result.write(folder)


def _has_defect(error: BaseException) -> bool:
    """Tell whether a guard has found that the network itself raises an error, whose place is worth a look."""
    return isinstance(error, GuardStop) and error.__cause__ is not None and bool(error.__cause__.__cause__)
