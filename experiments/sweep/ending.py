"""What follows the trials of a sweep: the winner's test, its refit, the report, the tracker's record."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.cli import user_mistakes
from experiments.config.compose import ALLOWED
from experiments.sweep.backends.backend import Backend, Cause
from experiments.sweep.live import Live
from experiments.sweep.server import TROUBLE, Server
from experiments.sweep.space import Space
from experiments.sweep.trials import Trial
from experiments.tracking.views import SweepView, charts


def test(won: Sequence[Trial], server: Server, cfg: DictConfig) -> None:
    """Read the test set with the winner's weights, once for each seed.

    ``cfg`` says which code of the user's own is allowed, and the device: the trials know it by another name.
    """
    allowed = f"{ALLOWED}=[{','.join(cfg.security.allowed_targets)}]"
    for trial in won:
        if "test/acc" not in trial.look().metrics:
            with user_mistakes():
                words = [allowed, f"trainer.device={cfg.trainer.device}"]
                metrics = server.call("test_trial", trial.folder, words)
            say(f"winner        {trial.label}  test/acc {metrics['test/acc']:.2%}")


def refit(
    won: Sequence[Trial],
    space: Space,
    backend: Backend,
    home: Path,
    *,
    ready: Callable[[], None],
    meanwhile: Callable[[], None],
) -> None:
    """Train the winner again on train + val for all of `trainer.epochs` and test that; in `refit/<name>`.

    ``ready`` is called before each start, ``meanwhile`` again and again. Nothing is chosen there: the weights
    are those of the last epoch. Raises OSError where it fails.
    """
    for trial in won:
        again = _again(trial, home / "refit" / trial.folder.name)
        look = again.look()
        if not look.done:
            more = ["data.val_size=0", "trainer.early_stop=0", "trainer.test=true", "trainer.evaluate=end"]
            more += [f"sweep.name={home.name}"]
            ready()
            cause = _run(again, [*space.overrides(trial.point), *more], backend, meanwhile)
            look = again.look()
            if not look.done:
                reason = look.error or " ".join([cause.message, *again.log_tail()[-1:]])
                raise OSError(f"the refit in {again.folder} has failed: {reason}")
        acc = look.metrics["test/acc"]
        say(f"refit         {trial.label}  test/acc {acc:.2%}  {again.folder}")


def _again(trial: Trial, folder: Path) -> Trial:
    """Return the trial of a refit, as an earlier controller left it or new."""
    with suppress(OSError):  # damaged, or not there
        return Trial.read(folder / "trial.json")
    return Trial(trial.number, trial.point, trial.values, f"refit {trial.label}", folder)


def _run(trial: Trial, overrides: list[str], backend: Backend, meanwhile: Callable[[], None]) -> Cause:
    """Run one trial to its end and return how it ended; after a signal it saves its last epoch."""
    if not backend.adopt(trial):
        trial.begin()
        backend.start(trial, overrides)
    try:
        while not backend.ended(trial):
            meanwhile()
            backend.wait()
    except KeyboardInterrupt:
        backend.interrupt(trial)
        while not backend.ended(trial):
            backend.wait()
        raise
    return backend.cause(trial)


class Record:
    """The sweep's report, and its own run in the tracker where there is one."""

    def __init__(
        self, server: Server, folder: Path, tracking: dict[str, Any] | None, view: SweepView
    ) -> None:
        """Name the sweep's folder, the tracker's settings, and what the tracker's page of it shows."""
        self.live = Live(server, folder)
        self._server = server
        self._folder = folder
        self._tracking = tracking
        self._view = view.text()

    def open(self) -> dict[str, str]:
        """Make sure of the tracker's store and say where to look; return the tags of the trials' runs."""
        if self._tracking is None:
            return {}
        run_id, page = self._track({}, "", [])
        if page:
            say(f"MLflow        {page}")
        nested = {"mlflow.parentRunId": run_id} if run_id and self._tracking.get("nested") else {}
        return {"sweep": self._folder.name, **nested}

    def close(self, trials: Sequence[Trial], total: int) -> None:
        """Write the report and hand it to the tracker, together with what trials could not deliver."""
        self.live.end()
        if not any(trial.folder.exists() for trial in trials):
            return
        try:
            paths = self._server.call("write", self._folder, total=total)
        except TROUBLE as error:  # a report is never worth a sweep
            say(f"no report: {error}")
            return
        say(f"report        {paths[0]}")
        if self._tracking is not None:
            statuses = [trial.look().status for trial in trials]
            counts = {f"trials/{s}": float(statuses.count(s)) for s in ("finished", "pruned", "failed")}
            _, page = self._track(counts, paths[1].read_text(encoding="utf-8"), paths)
            self._deliver()
            if page:
                say(f"MLflow        {page}")
                if address := charts(page):
                    say(f"charts        {address}")

    def _track(
        self, metrics: dict[str, float], note: str, files: Sequence[Path]
    ) -> tuple[str | None, str | None]:
        try:
            return self._server.call(
                "track_sweep", self._folder, self._tracking, self._view, metrics, note, files
            )
        except TROUBLE as error:
            say(f"the sweep itself is not tracked: {error}")
            return None, None

    def _deliver(self) -> None:
        try:
            is_complete = self._server.call("sync_trials", self._folder)
        except TROUBLE:
            is_complete = False
        if not is_complete:
            say(f"not everything reached MLflow; later: python -m experiments.sync {self._folder}")


def say(line: str) -> None:
    """Print a line for the user."""
    print(line, file=sys.stderr, flush=True)
