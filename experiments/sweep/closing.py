"""What does a sweep say at its end? What it has come to, and what to paste next."""

from collections import Counter
from collections.abc import Sequence

from experiments.cli import this_command
from experiments.comparison.groups import Comparison, compare, several
from experiments.comparison.read import BEST, TEST
from experiments.comparison.verdict import why_none
from experiments.sweep.runs import runs_of
from experiments.sweep.trials import Trial

LONGEST = 200  # characters of a cause


def closing(trials: Sequence[Trial], *, again: bool) -> list[str]:
    """Return the lines that end a sweep; ``again`` where the same command does what is left."""
    runs = runs_of(trials)
    comparison = compare(runs)
    lines = _best(comparison)
    for cause, failed in comparison.failures.items():
        count = f"{len(failed)} trials" if len(failed) > 1 else failed[0].name
        lines.append(f"failed        {count}: {cause[:LONGEST]}  ({failed[0].folder / 'trial.log'})")
    if len(commits := Counter(run.commit for run in runs if run.commit)) > 1:
        words = ", ".join(f"{commit} ({count})" for commit, count in commits.items())
        lines.append(f"commits       trials ran with the code of different ones: {words}")
    if again:
        lines.append(f"go on         {this_command()}")
    return lines


def _best(comparison: Comparison) -> list[str]:
    if comparison.unfair:
        return [f"best          none: {' '.join(comparison.unfair)}"]
    best = comparison.best
    if best is None:
        done = any(c.runs for c in comparison.configurations)
        return [f"best          none: {why_none(comparison)}"] if done else []
    figures = [f"{name} {best.spread(key)}" for name, key in (("val/acc", BEST), ("test/acc", TEST))]
    if not best.spread(TEST).count:
        figures.pop()
    lines = [f"best          {best.label}  {', '.join(figures)} (n={len(best.runs)})  {best.runs[0].folder}"]
    if comparison.tied:
        equals = several([c.label for c in comparison.tied])
        lines.append(f"tied          {equals}: the same mean; the first of them all counts as the best")
    return lines
