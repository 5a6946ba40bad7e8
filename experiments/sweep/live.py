"""Has the page of a sweep written while it runs: now and then, beside the trials, never in their way."""

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from experiments.sweep.server import TROUBLE, Call, Server
from experiments.sweep.trials import Trial

SECONDS = 30.0  # between the starts of two pages at least
SHARE = 0.05  # of one core: what pages may take
PATIENCE = 300.0  # seconds after which a page that is not done is given up


class Live:
    """The page of a sweep that runs; at most one process writes it."""

    def __init__(self, server: Server, folder: Path) -> None:
        """Name the sweep's folder."""
        self._server = server
        self._folder = folder
        self._call: Call | None = None
        self._began = self._next = 0.0
        self._shown: object = None  # what the last page was written of
        self._told: set[str] = set()

    def look(self, running: Iterable[Trial], ended: int, total: int) -> str:
        """Begin a page where it is time and something is new, or see what has become of it; never wait.

        Returns what the user is to be told, each thing once: where the page is, what keeps it from being
        written.
        """
        now = time.monotonic()
        if self._call is not None:
            if self._call.is_over or now - self._began > PATIENCE:
                return self._finish(self._call, now - self._began)
        elif now >= self._next and (new := (ended, [*map(_epochs, running)])) != self._shown:
            self._shown, self._began = new, now
            try:
                self._call = self._server.ask("write_live", self._folder, total)
            except TROUBLE as error:
                return self._fail(error, 0.0)
        return ""

    def end(self) -> None:
        """End what is under way: the last page is another's to write."""
        if self._call is not None:
            number = self._call.end()
            self._call = None
            for path in self._folder.glob(f".*.{number}"):
                with suppress(OSError):
                    path.unlink()

    def _finish(self, call: Call, seconds: float) -> str:
        if not call.is_over:
            self.end()
            return self._fail(TimeoutError(f"not done after {seconds:.0f} s"), seconds)
        self._call = None
        try:
            self._put_off(call.answer())
        except TROUBLE as error:
            return self._fail(error, seconds)
        return self._once("page", f"page          {self._folder / 'report.html'}")

    def _fail(self, error: BaseException, seconds: float) -> str:
        self._shown = None  # to be tried again
        self._put_off(seconds)
        return self._once("failure", f"the page is not written: {error}; it is tried again")

    def _put_off(self, seconds: float) -> None:
        """Let time pass before the next page, so that pages like this one take their share and no more."""
        self._next = self._began + max(SECONDS, seconds / SHARE)

    def _once(self, what: str, line: str) -> str:
        if what in self._told:
            return ""
        self._told.add(what)
        return line


def _epochs(trial: Trial) -> tuple[int, float]:
    """Return what changes when a trial has a further epoch."""
    try:
        return trial.number, (trial.folder / "metrics.csv").stat().st_mtime
    except OSError:
        return trial.number, 0.0
