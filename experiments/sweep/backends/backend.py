"""Where trials run, and how one ended there: what the controller asks of a backend."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self

from experiments.runs.result import Result
from experiments.sweep.trials import Trial


class End(Enum):
    """How a trial that is not done came to its end."""

    KILLED = "killed"  # by a signal, or by the batch system
    VANISHED = "vanished"  # nobody saw how
    MEMORY = "memory"  # there was too little
    TIMEOUT = "timeout"  # it took longer than it may
    FAILED = "failed"  # by itself: it would again


@dataclass(frozen=True)
class Cause:
    """How a trial ended, and the words for it."""

    end: End
    message: str

    @classmethod
    def told(cls, result: Result) -> Self:
        """Return what a failed run itself has recorded."""
        kinds = {end.value: end for end in End}
        cause = result.cause or ("memory" if "out of memory" in result.error.lower() else "failed")
        return cls(kinds.get(cause, End.FAILED), result.error)  # an earlier version recorded words alone


def overtime(seconds: float) -> str:
    """Return why a trial was ended after so many seconds."""
    return f"sweep.timeout: longer than {seconds:g} s"


class Backend(Protocol):
    """Where trials run."""

    @property
    def slots(self) -> int:
        """How many trials run at a time."""

    @property
    def has_room(self) -> bool:
        """Whether another trial may be started."""

    def start(self, trial: Trial, overrides: list[str]) -> None:
        """Start a trial."""

    def adopt(self, trial: Trial) -> bool:
        """Take charge of a trial that runs already; False where it does not."""

    def ended(self, trial: Trial) -> bool:
        """Tell whether a trial is over."""

    def cause(self, trial: Trial) -> Cause:
        """Say how an ended trial ended, once."""

    def interrupt(self, trial: Trial) -> None:
        """Ask a trial to save its last epoch and end."""

    def kill(self, trial: Trial) -> None:
        """End a trial at once."""

    def wait(self) -> None:
        """Wait until a trial ends, or for a moment."""
