"""What does a sweep say at its end? What it has come to, and what to paste next."""

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cifar_core.explain.statistics import spread
from experiments.sweep.summary import PointRow, best, commits
from experiments.sweep.trials import Trial

LONGEST = 200  # characters of a cause


def closing(trials: Sequence[Trial], *, again: bool) -> list[str]:
    """Return the lines that end a sweep; ``again`` where the same command does what is left."""
    lines = []
    won = best(trials)
    if won is not None:
        lines.append(f"best          {won.label}  {_figures(won)}  {won.trials[0].folder}")
    elif any(trial.look().status == "finished" for trial in trials):
        lines.append("best          none: no point has all its seeds finished with a validation split")
    for cause, failed in _failures(trials).items():
        count = f"{len(failed)} trials" if len(failed) > 1 else failed[0].label
        lines.append(f"failed        {count}: {cause}  ({failed[0].folder / 'trial.log'})")
    if len(versions := commits(trials)) > 1:
        words = ", ".join(f"{commit} ({count})" for commit, count in versions.items())
        lines.append(f"commits       trials ran with the code of different ones: {words}")
    if again:
        lines.append(f"go on         {command()}")
    return lines


def command() -> str:
    """Return the command of this process, to be pasted."""
    module = Path(sys.argv[0]).stem
    return shlex.join(["python", "-m", f"experiments.{module}", *sys.argv[1:]])


def _figures(won: PointRow) -> str:
    figures = {"val/acc": won.figures["val/acc_best"], "test/acc": won.figures["test/acc"]}
    words = [f"{name} {_mean(accs)}" for name, accs in figures.items() if accs]
    return f"{', '.join(words)} (n={len(won.trials)})"


def _mean(accs: Sequence[float]) -> str:
    acc = spread(accs)
    return f"{acc.mean:.2%}" if math.isnan(acc.std) else f"{acc.mean:.2%} +- {100 * acc.std:.2f}"


def _failures(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Return the failed trials by their cause."""
    causes: dict[str, list[Trial]] = {}
    for trial in trials:
        look = trial.look()
        if look.status == "failed":
            causes.setdefault(look.error[:LONGEST], []).append(trial)
    return causes
