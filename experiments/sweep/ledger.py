"""The ledger of a sweep: one Optuna study in a journal file, which the controller alone writes."""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from cifar_core.files import FORMAT, check_format
from experiments.config.settings import SweepSettings
from experiments.sweep.space import Value

STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
POINT = "point"  # user attribute that holds the point's id


class Journal(BaseJournalBackend):
    """An append-only file of one JSON object a line, for one writer; Optuna's waits for a dead one's lock."""

    def __init__(self, path: Path) -> None:
        """Name the file, which `mend` has made sure of."""
        self._path = path
        self._known = (0, 0)  # records read so far, and the byte behind them

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the records from this number on."""
        number, offset = self._known if log_number_from >= self._known[0] else (0, 0)
        with self._path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written
                number, offset = number + 1, offset + len(line)
                self._known = (number, offset)
                if number > log_number_from:
                    yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write records to the disk, all or none."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._path.open("ab") as file:
            before = file.tell()
            try:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self._path, before)
                raise


def mend(path: Path) -> None:
    """Make sure of a journal: cut off a torn end; set it aside where it is broken before that."""
    path.touch()
    whole = _whole_bytes(path)
    if whole is None:
        path.replace(path.with_suffix(".broken"))
        path.touch()
    else:
        os.truncate(path, whole)


def _whole_bytes(path: Path) -> int | None:
    """Return the length up to the last whole line; None where an earlier line is no record."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict) or not line.endswith(b"\n"):
                return None if file.read(1) else end
            end += len(line)
    return end


class Ledger:
    """The trials of a sweep as Optuna knows them, by number."""

    def __init__(self, path: Path, settings: SweepSettings, *, epochs: int) -> None:
        """Open or create the study; ``epochs`` is the length of a full trial."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        mend(path)
        storage = JournalStorage(Journal(path))
        self._study = optuna.create_study(
            storage=storage, study_name="sweep", direction="maximize", load_if_exists=True
        )
        check_format(path, self._study.user_attrs.get("format"))
        started = len(self.trials())
        if not started:
            self._study.set_user_attr("format", FORMAT)
        self._study.sampler = _sampler(settings, started)
        self._study.pruner = _pruner(settings, epochs)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials in the order of their numbers, not to be changed."""
        return self._study.get_trials(deepcopy=False)

    def latest(self) -> dict[str, FrozenTrial]:
        """Return the last trial of each point by the point's id; one without a point by its number."""
        return {trial.user_attrs.get(POINT, f"#{trial.number}"): trial for trial in self.trials()}

    def ask(self, space: dict[str, BaseDistribution]) -> tuple[int, dict[str, Value]]:
        """Start a trial at a point the sampler chooses; return its number and its values."""
        trial = self._study.ask(space)
        return trial.number, dict(trial.params)

    def name(self, number: int, point: str) -> None:
        """Note which point a trial stands for."""
        self._trial(number).set_user_attr(POINT, point)

    def add(
        self,
        values: dict[str, Value],
        space: dict[str, BaseDistribution],
        point: str,
        *,
        status: str = "running",
        value: float | None = None,
        history: Sequence[float] = (),
    ) -> int:
        """Enter a trial at given values, running or ended as ``status`` says, and return its number."""
        state = STATES.get(status, TrialState.RUNNING)
        self._study.add_trial(
            create_trial(
                state=state,
                value=value if state == TrialState.COMPLETE else None,
                params=values,
                distributions=space,
                user_attrs={POINT: point},
                intermediate_values=dict(enumerate(history, 1)),
            )
        )
        return self.trials()[-1].number

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Enter an epoch's figure; return whether the trial should end here."""
        trial = self._trial(number)
        if epoch not in self.trials()[number].intermediate_values:
            trial.report(value, epoch)
        return trial.should_prune()

    def tell(self, number: int, status: str, value: float | None = None) -> None:
        """End a trial as finished, pruned or failed."""
        state = STATES[status]
        self._study.tell(number, value if state == TrialState.COMPLETE else None, state)

    def _trial(self, number: int) -> Trial:
        return Trial(self._study, self.trials()[number]._trial_id)


def _sampler(settings: SweepSettings, started: int) -> BaseSampler:
    seed = settings.sampler_seed
    fresh = seed + started  # a resumed sampler must not draw the same numbers again
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if settings.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=fresh)
        if settings.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=fresh)
        if settings.sampler == "qmc":  # counts its points in the study, so its seed stays
            return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
    return optuna.samplers.RandomSampler(seed=fresh)  # a grid asks it for nothing


def _pruner(settings: SweepSettings, epochs: int) -> BasePruner:
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=4,
            n_warmup_steps=settings.prune_after,
            n_min_trials=4,  # that reported the epoch: of a point's seeds only the first does
        )
    if settings.pruner == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=settings.prune_after, reduction_factor=3)
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=settings.prune_after, max_resource=epochs, reduction_factor=3
        )
    return optuna.pruners.NopPruner()


def saved_study(path: Path) -> optuna.Study:
    """Return the study of a ledger, for reading; its controller may go on.

    Raises KeyError, OSError or ValueError where it is absent or damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    study = optuna.load_study(study_name="sweep", storage=JournalStorage(Journal(path)))
    check_format(path, study.user_attrs.get("format"))
    return study
