"""Where trials run: what the controller asks of a backend."""

from typing import Protocol

from experiments.sweep.trials import Trial


class Backend(Protocol):
    """Where trials run."""

    slots: int

    @property
    def has_room(self) -> bool:
        """Whether another trial may be started."""

    def start(self, trial: Trial, overrides: list[str]) -> None:
        """Start a trial."""

    def adopt(self, trial: Trial) -> bool:
        """Take charge of a trial that runs already; False where it does not."""

    def ended(self, trial: Trial) -> bool:
        """Tell whether a trial is over."""

    def cause(self, trial: Trial) -> str:
        """Say how an ended trial ended."""

    def interrupt(self, trial: Trial) -> None:
        """Ask a trial to save its last epoch and end."""

    def kill(self, trial: Trial) -> None:
        """End a trial at once."""

    def wait(self) -> None:
        """Wait until a trial ends, or for a moment."""
