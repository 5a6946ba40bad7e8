"""How is a sweep told? As a comparison of its trials, written from its folder alone: HTML, Markdown, CSV."""

import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from experiments.cli import one_line
from experiments.comparison.groups import compare
from experiments.comparison.markdown import note
from experiments.comparison.page import Extras, page
from experiments.comparison.pictures import gallery
from experiments.comparison.read import Run
from experiments.files import csv_text, write_text
from experiments.runs.result import Result
from experiments.sweep.commands import extended, repeated, state
from experiments.sweep.home import Home
from experiments.sweep.ledger import saved_study
from experiments.sweep.runs import runs_of, table
from experiments.sweep.trials import Trial

RELOAD_SECONDS = 30


def write(folder: Path, *, live: bool = False, total: int = 0) -> list[Path]:
    """Write report.html, report.md and trials.csv into a sweep's folder; return their paths.

    A page of a sweep that runs (``live``) says how far it is, of ``total`` trials (0: nobody knows), reloads
    itself, and leaves what is told picture by picture to the last one. Raises FileNotFoundError where the
    folder holds no trial.
    """
    home = Home(folder)
    trials = list(home.trials().values())
    if not trials:
        raise FileNotFoundError(f"{folder} is not the folder of a sweep: it has no <trial>/trial.json")
    comparison = compare([*runs_of(trials), *_damaged(home)])
    extras = Extras(
        title=f"Sweep {folder.name}",
        state=state(home, trials, live=live, total=total)
        + (time.strftime(" As of %H:%M:%S.") if live else ""),
        reload=RELOAD_SECONDS if live else 0,
        importances={} if live else _importances(home),
        commands=list(_commands(home, trials)),
        hides_tests=True,
    )
    paths = [folder / "report.html", folder / "report.md", folder / "trials.csv"]
    pictures = None if live else gallery(comparison)
    write_text(paths[0], page(comparison, folder, gallery=pictures, extras=extras))
    write_text(paths[1], note(extras.title, comparison))
    write_text(paths[2], csv_text(table(trials), end="\r\n"))
    return paths


def _damaged(home: Home) -> Iterator[Run]:
    """Yield a run for each trial whose own record cannot be read."""
    for path in sorted(home.path.glob("*/trial.json")):
        try:
            Trial.read(path)
        except OSError as error:
            yield Run(path.parent, Result(status="damaged", error=one_line(error)), path.parent.name)


def _commands(home: Home, trials: Sequence[Trial]) -> Iterator[tuple[str, str]]:
    """Yield what a command is for, and the command, as far as it is known."""
    if home.command and not home.is_over:
        yield "Go on with it", home.command
    if line := repeated(home):
        yield "Repeat it in another folder", line
    if line := extended(home, trials):
        yield "Extend it", line


def _importances(home: Home) -> dict[str, float]:
    """Return fANOVA's importance of each parameter, empty where there are too few finished trials."""
    try:
        study = saved_study(home.ledger)
    except (KeyError, OSError, ValueError):
        return {}
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    varied = {key for t in finished for key in t.params if t.params[key] != finished[0].params.get(key)}
    if len(finished) < 4 or len(varied) < 2 or len({trial.value for trial in finished}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters with one value
        return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
