"""How a run ended: the content of result.json."""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

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

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the result in a run folder; None where the run has not ended.

        Raises OSError for a damaged file.
        """
        content = read_json(folder / "result.json")
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in content.items() if key in known}) if content else None

    def write(self, folder: Path) -> None:
        """Write result.json, whole or not at all; what is not known is left out."""
        always = ("status", "metrics", "seconds", "epochs", "run_id")
        content = {key: value for key, value in vars(self).items() if value or key in always}
        write_json(folder / "result.json", content)


@contextmanager
def recorded(folder: Path) -> Iterator[Result]:
    """Yield the run's result and write it, with the way the run ended, to result.json in ``folder``.

    Figures of an earlier attempt stay there until they come again: what is left of that run is its analysis.
    """
    earlier = Result.read(folder)
    if earlier and earlier.metrics:
        kept = {name: getattr(earlier, name) for name in ("metrics", "remarks", "epochs", "protocol")}
        result = Result(**kept)
        dataclasses.replace(earlier, status=ANALYSING, error="").write(folder)
    else:
        result = Result()
        (folder / "result.json").unlink(missing_ok=True)
    try:
        yield result
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        explained = isinstance(error, (UserError, GuardStop, OSError, MemoryError))
        result.status, result.error = "killed" if stopped else "failed", one_line(error)
        log.error("%s: %s", result.status, result.error, exc_info=not stopped and not explained)
        with suppress(OSError):  # a full disk is perhaps what ended the run
            result.write(folder)
        raise
    result.write(folder)
