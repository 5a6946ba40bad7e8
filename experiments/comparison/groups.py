"""Which runs are one configuration over several seeds, and which configuration is best."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TypeVar

import numpy as np

from cifar_core.explain.statistics import McNemar, Spread, holm, mcnemar, recalls, spread
from experiments.comparison.read import VALIDATION, Pictures, Run

T = TypeVar("T")


def ranked(groups: Iterable[T], accs: Callable[[T], Sequence[float]]) -> list[T]:
    """Return groups by the mean over their seeds of ``accs``, the best first; equals keep their order."""
    return sorted(groups, key=lambda group: -rank(accs(group)))


def rank(accs: Sequence[float]) -> float:
    """Return the mean over seeds, the figure to rank by; minus infinity where there is none."""
    mean = math.fsum(accs) / len(accs) if accs else math.nan
    return -math.inf if math.isnan(mean) else mean


@dataclass(frozen=True)
class Configuration:
    """Finished runs that differ by their seed alone."""

    letter: str
    label: str
    runs: list[Run]

    def spread(self, metric: str) -> Spread:
        """Return mean and spread of a metric over the runs that have it."""
        return spread(_values(self.runs, metric))

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """Return (epoch, mean over the runs) of a column of metrics.csv."""
        values: dict[float, list[float]] = {}
        for run in self.runs:
            for row in run.history:
                if metric in row:
                    values.setdefault(row["epoch"], []).append(row[metric])
        return [(epoch, statistics.fmean(ys)) for epoch, ys in sorted(values.items())]


@dataclass(frozen=True)
class Analysed:
    """A run, its configuration, and what it predicted."""

    configuration: Configuration
    run: Run
    pictures: Pictures


@dataclass(frozen=True)
class Pair:
    """Two runs of different configurations on the same pictures."""

    a: Analysed
    b: Analysed
    test: McNemar
    p_holm: float  # among all pairs of the comparison


@dataclass(frozen=True)
class Comparison:
    """Runs in groups; all else follows from them."""

    ranked: list[Configuration]  # the best mean validation accuracy first
    apart: list[Configuration]  # without validation, so never ranked; in the order of their words
    others: list[Run]  # not finished

    @property
    def configurations(self) -> list[Configuration]:
        """The ranked ones, then those apart."""
        return self.ranked + self.apart

    @cached_property
    def paired(self) -> list[Analysed]:
        """The runs on the set of pictures that most runs were analysed on."""
        analysed = [
            Analysed(c, run, run.pictures) for c in self.configurations for run in c.runs if run.pictures
        ]
        stamps = Counter(one.pictures.stamp for one in analysed)
        return [one for one in analysed if one.pictures.stamp == stamps.most_common(1)[0][0]]

    @cached_property
    def pairs(self) -> list[Pair]:
        """All pairs of `paired` runs of different configurations, the clearest difference first."""
        chosen = [(a, b) for a, b in combinations(self.paired, 2) if a.configuration is not b.configuration]
        tests = [mcnemar(a.pictures.hits, b.pictures.hits) for a, b in chosen]
        adjusted = holm([test.p for test in tests])
        pairs = [Pair(a, b, test, p) for (a, b), test, p in zip(chosen, tests, adjusted, strict=True)]
        return sorted(pairs, key=lambda pair: pair.test.p)

    def class_recalls(self) -> dict[str, np.ndarray]:
        """Return mean recall (K,) by configuration's letter, of the `paired` runs."""
        runs: dict[str, list[np.ndarray]] = {}
        for one in self.paired:
            pictures = one.pictures
            rows = runs.setdefault(one.configuration.letter, [])
            rows.append(recalls(pictures.labels, pictures.preds, len(pictures.classes)))
        return {letter: np.mean(rows, axis=0) for letter, rows in runs.items()}

    def differences(self) -> dict[str, list[str]]:
        """Return the configuration keys that are not the same in all configurations, with their values."""
        configs = [c.runs[0].config for c in self.configurations]
        keys = dict.fromkeys(key for config in configs for key in config)
        values = {key: [config.get(key, "") for config in configs] for key in keys}
        return {key: each for key, each in values.items() if len(set(each)) > 1}


def compare(runs: Iterable[Run]) -> Comparison:
    """Group finished runs by configuration and order the groups, by validation accuracy alone."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    others = []
    for run in runs:
        if run.status == "finished":
            groups.setdefault((run.protocol, *sorted(run.config.items())), []).append(run)
        else:
            others.append(run)
    shared = set.intersection(*(set(group[0].words) for group in groups.values())) if groups else set()
    labelled = [(_label(group[0], shared if len(groups) > 1 else set()), group) for group in groups.values()]
    fair = [pair for pair in labelled if pair[1][0].protocol == VALIDATION]
    fair = ranked(fair, lambda pair: _values(pair[1], "val/acc_best"))
    apart = sorted((pair for pair in labelled if pair[1][0].protocol != VALIDATION), key=lambda pair: pair[0])
    lettered = [Configuration(_letter(n), *pair) for n, pair in enumerate(fair + apart)]
    return Comparison(lettered[: len(fair)], lettered[len(fair) :], others)


def _values(runs: Iterable[Run], metric: str) -> list[float]:
    return [run.metrics[metric] for run in runs if metric in run.metrics]


def _label(run: Run, shared: set[str]) -> str:
    """Return the words a run was started with, those left out that all configurations share."""
    return " ".join(word for word in run.words if word not in shared) or "defaults"


def _letter(number: int) -> str:
    """Count as spreadsheets do: A to Z, AA, AB, ..."""
    first, last = divmod(number, 26)
    return (_letter(first - 1) if first else "") + chr(ord("A") + last)


def warnings(comparison: Comparison) -> list[str]:
    """Return what keeps these runs from being compared without a second thought, one sentence each."""
    runs = [(c, run) for c in comparison.configurations for run in c.runs]
    lines = [
        _if_several("The runs used different data (fingerprints)", runs, lambda run: run.data or "unknown"),
        _if_several("The runs follow different protocols", runs, lambda run: run.protocol),
        _if_several(
            "Validation accuracies are not of the same pictures",
            [(c, run) for c in comparison.ranked for run in c.runs],
            lambda run: " ".join(
                f"{key}={run.config.get(key, '')}" for key in ("data.val_size", "data.split_seed")
            ),
        ),
        _if_several("Times cannot be compared, for the devices differ", runs, lambda run: run.device),
        _other_pictures(comparison, runs),
    ]
    for c in comparison.configurations:
        seeds = Counter(run.seed for run in c.runs)
        lines += [
            f"{c.letter} has {count} runs with seed {seed}, not independent, so its spread is too small."
            for seed, count in seeds.items()
            if count > 1
        ]
    if comparison.apart:
        letters = ", ".join(c.letter for c in comparison.apart)
        lines.append(
            f"{letters}: there was no validation split (data.val_size=0), so these figures are listed apart "
            "and never ranked."
        )
    return [line for line in lines if line]


def _if_several(what: str, runs: Sequence[tuple[Configuration, Run]], trait: Callable[[Run], str]) -> str:
    letters: dict[str, dict[str, None]] = {}
    for c, run in runs:
        letters.setdefault(trait(run), {})[c.letter] = None
    if len(letters) < 2:
        return ""
    each = "; ".join(f"{', '.join(those)}: {value}" for value, those in letters.items())
    return f"{what}: {each}."


def _other_pictures(comparison: Comparison, runs: Sequence[tuple[Configuration, Run]]) -> str:
    folders = {one.run.folder for one in comparison.paired}
    left_out = [
        f"{c.letter} seed {run.seed} ({'other pictures' if run.pictures else 'no analysis'})"
        for c, run in runs
        if run.folder not in folders
    ]
    if not left_out:
        return ""
    return f"Left out of everything picture by picture: {', '.join(left_out)}."
