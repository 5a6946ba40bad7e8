"""What a sweep shows: on a terminal a live table, in a log file a line for each trial that ends."""

import shutil
import sys
import time
from collections.abc import Iterable, Sequence

from experiments.comparison.groups import compare
from experiments.comparison.read import BEST, Run
from experiments.sweep.runs import run_of
from experiments.sweep.trials import METRIC, Look, Trial

REDRAW_SECONDS = 1.0
ROWS = 16  # running trials shown


class Screen:
    """Counts what ended and says how far the sweep is."""

    def __init__(self, total: int) -> None:
        """Start the clock for ``total`` trials."""
        self._total = total
        self._live = sys.stderr.isatty()
        self._drawn = 0  # lines of the table that is on the terminal
        self._next = 0.0
        self._began = time.monotonic()
        self._before = 0  # trials that were done before this start
        self.counts = {"finished": 0, "pruned": 0, "failed": 0}
        self._runs: list[Run] = []  # that have ended
        self._best: str | None = ""  # point so far; None where it is to be found anew

    def count(self, trial: Trial, look: Look) -> None:
        """Count a trial that was done before this start."""
        self._before += 1
        self._add(trial, look)

    def leave_out(self) -> None:
        """Expect one trial less."""
        self._total -= 1

    def ended(self, trial: Trial, look: Look, reason: str = "") -> None:
        """Show a trial that has ended."""
        self._add(trial, look)
        figure = "" if look.value is None else f"{_name(look.metrics)} {look.value:.2%}"
        self.say(f"[{self._done}/{self._total}] {look.status:<8}  {trial.label}  {reason or figure}")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._erase()
        print(line, file=sys.stderr, flush=True)

    def show(self, running: Sequence[Trial], slots: int) -> None:
        """Draw the table anew, at most once a second and on a terminal only."""
        if not self._live or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REDRAW_SECONDS
        rows = [self._summary(len(running), slots), *map(_row, running[:ROWS])]
        if len(running) > ROWS:
            rows.append(f"  ... and {len(running) - ROWS} more")
        self._erase()
        width = shutil.get_terminal_size().columns - 1  # a wrapped line could not be erased
        print("\n".join(row[:width] for row in rows), file=sys.stderr, flush=True)
        self._drawn = len(rows)

    def _add(self, trial: Trial, look: Look) -> None:
        self.counts[look.status] += 1
        self._runs.append(run_of(trial, look))
        self._best = None

    @property
    def _done(self) -> int:
        return sum(self.counts.values())

    def _summary(self, running: int, slots: int) -> str:
        parts = [f"{count} {status}" for status, count in self.counts.items() if count]
        parts.append(f"{running} of {slots} running")
        if self._best is None:
            best = compare(self._runs).best
            self._best = f"best {best.spread(BEST)} {best.label}" if best else ""
        if self._best:
            parts.append(self._best)
        now = self._done - self._before
        if now:
            spent = time.monotonic() - self._began
            parts.append(f"about {_clock((self._total - self._done) * spent / now)} left")
        return f"{self._done}/{self._total}  {', '.join(parts)}"

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="", file=sys.stderr)
            self._drawn = 0


def _row(trial: Trial) -> str:
    history = trial.look().history
    if not history:
        return f"  {trial.label:<40} starting"
    name = _name(history[-1])
    accs = [row.get(name, 0.0) for row in history]
    best = f"  best {max(accs):.2%}" if name == METRIC else ""  # nothing chooses by the test pictures
    return f"  {trial.label:<40} epoch {len(history):>3}  {name} {accs[-1]:.2%}{best}"


def _name(metrics: Iterable[str]) -> str:
    """Return which accuracy a run is judged by: without a validation split it is the test's."""
    return METRIC if {METRIC, f"{METRIC}_best"}.intersection(metrics) else "test/acc"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
