"""What a comparison comes to, in sentences."""

from experiments.comparison.groups import DATA, Comparison, if_several, several
from experiments.comparison.read import BEST, TEST


def verdict(comparison: Comparison) -> str:
    """Return which configuration is best by validation and how sure that is, or why none is."""
    if comparison.unfair:
        return f"Not comparable: {' '.join(map(_sentence, comparison.unfair))}"
    best = comparison.best
    if best is None:
        return f"None is best by validation: {why_none(comparison)}."
    figure, test = best.spread(BEST), best.spread(TEST)
    text = f"Best by validation: {best.letter} ({best.label}), val/acc {figure}"
    if figure.count > 1:
        text += f" (95 %: {figure.interval}, n={figure.count})"
    text += f"; its test accuracy: {test}." if test.count else "."
    if comparison.tied:
        text += f" Tied with {several([c.letter for c in comparison.tied])}."
    if figure.count < 2 and len(comparison.ranked) > 1:
        return f"{text} With one seed, nobody knows how far seeds alone differ."
    if comparison.near:
        near = several([c.letter for c in comparison.near])
        text += f" Not clearly worse, by intervals that overlap or are unknown: {near}."
    return text


def why_none(comparison: Comparison) -> str:
    """Return why no configuration is ranked."""
    if not any(c.runs for c in comparison.configurations):
        return "no run has finished"
    if not comparison.partial:
        return "there is no validation split (data.val_size=0)"
    return "none has a finished run for each of its seeds"


def warnings(comparison: Comparison) -> list[str]:
    """Return what else keeps these runs from being compared without a second thought, one sentence each."""
    runs = [(c.letter, run) for c in comparison.configurations for run in c.runs]
    lines = [
        if_several(DATA, comparison.fingerprints(comparison.configurations)),
        if_several("the runs follow different protocols", [(letter, run.protocol) for letter, run in runs]),
        if_several("the code was of different commits", [(letter, run.commit) for letter, run in runs]),
        if_several("times cannot be compared, for the devices differ", [(x, run.device) for x, run in runs]),
        _left_out(comparison),
        _damaged(comparison),
    ]
    if again := [c.letter for c in comparison.configurations if len({r.seed for r in c.runs}) < len(c.runs)]:
        lines.append(
            f"{several(again)}: there are several runs with the same seed, not independent, so the spread is "
            "too small."
        )
    if partial := [c.letter for c in comparison.partial if c.runs]:
        lines.append(
            f"{several(partial)}: not all seeds have finished, so these are not ranked: their mean is over "
            "those that have, which need not be like the others."
        )
    if apart := [c.letter for c in comparison.apart]:
        lines.append(
            f"{several(apart)}: there was no validation split (data.val_size=0), so these figures are listed "
            "apart and never ranked."
        )
    return [_sentence(line) for line in lines if line and line not in comparison.unfair]


def _sentence(line: str) -> str:
    return line[0].upper() + line[1:]


def _left_out(comparison: Comparison) -> str:
    folders = {one.run.folder for one in comparison.paired}
    runs = [
        f"{c.letter} seed {run.seed} ({'other pictures' if run.pictures else 'no analysis'})"
        for c in comparison.configurations
        for run in c.runs
        if run.folder not in folders
    ]
    return f"left out of everything picture by picture: {several(runs)}." if runs else ""


def _damaged(comparison: Comparison) -> str:
    runs = [
        f"{c.letter} seed {run.seed} ({run.damages()[0]})"
        for c in comparison.configurations
        for run in (*c.runs, *c.others)
        if run.damages()
    ]
    runs += [f"{run.name} ({run.error})" for run in comparison.damaged]
    return f"damaged, so not all of it is told: {several(runs)}." if runs else ""
