"""Which runs are one configuration over several seeds, and which configuration is best."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from cifar_core.explain.statistics import (
    Agreement,
    McNemar,
    Missed,
    Spread,
    agreement,
    holm,
    mcnemar,
    missed_by_all,
    recalls,
    spread,
)
from experiments.comparison.read import BEST, VALIDATION, Pictures, Run
from experiments.runs.names import label

DECODED = {"data.image_size", "data.background", "data.white"}
DATA = "the runs used different data (fingerprints)"
TIE = 1e-9  # means that differ by less are equal: a picture is more
PAIRS = 5_000  # tested at most, each against each
LETTERS = 8  # of configurations, named in a sentence


@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs that differ by their seed alone."""

    letter: str
    label: str
    runs: list[Run]  # finished
    others: list[Run]  # pruned, failed, killed, running: what has no figure to count
    params: dict[str, str]  # its values of the keys in which configurations differ

    @property
    def seeds(self) -> int:
        """How many seeds it is to have: as many as were asked for, and at least those that there are."""
        each = [*self.runs, *self.others]
        return max(len({run.seed for run in each}), *(run.asked for run in each))

    @property
    def is_whole(self) -> bool:
        """Whether each seed has a finished run: a mean over those that were not pruned is unfair."""
        return len({run.seed for run in self.runs}) >= self.seeds

    @property
    def protocol(self) -> str:
        """What the figures of its runs stand for."""
        return (self.runs or self.others)[0].protocol

    @property
    def standing(self) -> str:
        """Whether it is `ranked`, only `partial`, or stands `apart`, as nothing was chosen by validation."""
        if self.runs and self.protocol != VALIDATION:
            return "apart"
        return "ranked" if self.is_whole and not math.isnan(self.mean) else "partial"

    @cached_property
    def mean(self) -> float:
        """The figure to rank by: the mean over the seeds of the best validation accuracy."""
        accs = [run.metrics.get(BEST, math.nan) for run in self.runs]
        return math.fsum(accs) / len(accs) if accs else math.nan

    def spread(self, metric: str) -> Spread:
        """Return mean and spread of a metric over the runs that have it."""
        return spread([run.metrics[metric] for run in self.runs if metric in run.metrics])

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """Return (epoch, mean over the runs) of a column of metrics.csv, of others where none is finished.

        It ends with the shortest run: a mean over those that are left jumps where one of them ends.
        """
        each = [
            {row["epoch"]: row[metric] for row in run.history if metric in row}
            for run in self.runs or self.others
        ]
        each = [values for values in each if values]
        epochs = sorted(set.intersection(*map(set, each))) if each else []
        return [(epoch, statistics.fmean(values[epoch] for values in each)) for epoch in epochs]

    @property
    def seconds(self) -> float:
        """Seconds of training, the mean over the runs."""
        return statistics.fmean(run.seconds for run in self.runs) if self.runs else math.nan

    @property
    def state(self) -> str:
        """What its seeds have come to: `2 finished, 1 failed`."""
        counts = Counter(run.status for run in (*self.runs, *self.others))
        missing = self.seeds - len({run.seed for run in (*self.runs, *self.others)})
        if counts["pruned"] and not self.runs:  # by the first seed, which the others follow, begun or not
            counts, missing = Counter({"pruned": 1, "stopped with it": counts["pruned"] - 1 + missing}), 0
        counts["not begun"] = missing
        return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


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


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs in groups; all else follows from them."""

    ranked: list[Configuration]  # whole, the best mean validation accuracy first; equals in the order given
    partial: list[Configuration]  # never ranked: they lack a seed
    apart: list[Configuration]  # never ranked: without validation; in the order of their words
    damaged: list[Run]  # of no configuration
    keys: list[str]  # in which configurations differ

    @property
    def configurations(self) -> list[Configuration]:
        """All of them: the ranked, those that lack a seed, those apart."""
        return self.ranked + self.partial + self.apart

    @property
    def others(self) -> list[Run]:
        """The runs that are not finished."""
        return [run for c in self.configurations for run in c.others] + self.damaged

    @cached_property
    def has_val(self) -> bool:
        """Whether any has a validation split, finished or not."""
        return any(c.protocol == VALIDATION for c in self.ranked + self.partial)

    @cached_property
    def unfair(self) -> list[str]:
        """Why the accuracies of those ranked cannot be compared, one sentence each."""
        lines = [if_several(DATA, self.fingerprints(self.ranked))]
        if self._of_data:
            splits = [(c.letter, _split(c.runs)) for c in self.ranked]
            lines.append(if_several("validation accuracies are not of the same pictures", splits))
        return [line for line in lines if line]

    @property
    def _of_data(self) -> set[str]:
        """What differs and may make other pictures."""
        keys = {key.lstrip("+") for key in self.keys}
        return {key for key in keys if key.startswith(("data", "experiment"))}

    def fingerprints(self, configurations: Iterable[Configuration]) -> list[tuple[str, str]]:
        """Return letter and fingerprint of the data of each run.

        None of a sweep over how one set of pictures is decoded, which other fingerprints make no other set.
        """
        runs = [(c.letter, run) for c in configurations for run in c.runs]
        if self._of_data and self._of_data <= DECODED and all(run.point is not None for _, run in runs):
            return []
        return [(letter, run.data) for letter, run in runs]

    @cached_property
    def best(self) -> Configuration | None:
        """The first of those ranked; None where they cannot be compared."""
        return self.ranked[0] if self.ranked and not self.unfair else None

    @cached_property
    def tied(self) -> list[Configuration]:
        """Those with the mean of the best."""
        return [c for c in self.ranked[1:] if self.best and self.best.mean - c.mean < TIE]

    @cached_property
    def near(self) -> list[Configuration]:
        """Those not clearly worse than the best: their intervals overlap with its, or are unknown."""
        if self.best is None:
            return []
        low = self.best.spread(BEST).low
        return [c for c in self.ranked[1 + len(self.tied) :] if not c.spread(BEST).high < low]

    @cached_property
    def paired(self) -> list[Analysed]:
        """The runs on the set of pictures that most runs were analysed on."""
        analysed = [
            Analysed(c, run, run.pictures) for c in self.configurations for run in c.runs if run.pictures
        ]
        stamps = Counter(one.pictures.stamp for one in analysed)
        return [one for one in analysed if one.pictures.stamp == stamps.most_common(1)[0][0]]

    @property
    def are_tested(self) -> bool:
        """Whether the pictures of the `paired` runs are those of the test set."""
        return any(one.pictures.split == "test" for one in self.paired)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Pairs of `paired` runs of different configurations, the clearest difference first.

        Of more than PAIRS only those with a run of the first configuration: what is best against the rest.
        """
        chosen = [(a, b) for a, b in combinations(self.paired, 2) if a.configuration is not b.configuration]
        if len(chosen) > PAIRS:
            chosen = [(a, b) for a, b in chosen if a.configuration is self.paired[0].configuration]
        tests = [mcnemar(a.pictures.hits, b.pictures.hits) for a, b in chosen]
        adjusted = holm([test.p for test in tests])
        pairs = [Pair(a, b, test, p) for (a, b), test, p in zip(chosen, tests, adjusted, strict=True)]
        return sorted(pairs, key=lambda pair: pair.test.p)

    @cached_property
    def agreement(self) -> Agreement | None:
        """How the `paired` runs agree; None where there is but one."""
        return agreement(self._labels, self._preds) if len(self.paired) > 1 else None

    @cached_property
    def missed(self) -> Missed | None:
        """The pictures that all `paired` runs have wrong; None where there is but one."""
        return missed_by_all(self._labels, self._preds) if len(self.paired) > 1 else None

    @property
    def _labels(self) -> np.ndarray:
        return self.paired[0].pictures.labels

    @property
    def _preds(self) -> np.ndarray:
        return np.stack([one.pictures.preds for one in self.paired])

    def class_recalls(self) -> dict[str, np.ndarray]:
        """Return mean recall (K,) by configuration's letter, of the `paired` runs."""
        runs: dict[str, list[np.ndarray]] = {}
        for one in self.paired:
            pictures = one.pictures
            rows = runs.setdefault(one.configuration.letter, [])
            rows.append(recalls(pictures.labels, pictures.preds, len(pictures.classes)))
        return {letter: np.mean(rows, axis=0) for letter, rows in runs.items()}

    @cached_property
    def failures(self) -> dict[str, list[Run]]:
        """The failed runs by their cause: errors that differ in figures alone are one."""
        causes: dict[str, list[Run]] = {}
        for run in self.others:
            if run.status == "failed":
                causes.setdefault(re.sub(r"\d[\w.+-]*", "#", run.error), []).append(run)
        return {runs[0].error: runs for runs in causes.values()}

    @cached_property
    def cost(self) -> dict[str, float]:
        """The number of runs by status, and the epochs and seconds that they took."""
        runs = [run for c in self.configurations for run in c.runs] + self.others
        seconds = round(sum(run.seconds for run in runs), 1)
        counts: dict[str, float] = {**Counter(run.status for run in runs)}
        return counts | {"epochs": sum(run.epochs for run in runs), "training seconds": seconds}


def compare(runs: Iterable[Run]) -> Comparison:
    """Group runs by configuration and rank those that are whole, by validation accuracy alone."""
    groups: dict[Hashable, list[Run]] = {}
    damaged = []
    for run in runs:
        if run.status == "damaged":
            damaged.append(run)
        else:
            groups.setdefault(run.group, []).append(run)
    firsts = [group[0] for group in groups.values()]
    names = dict.fromkeys(key for first in firsts for key in first.params)
    keys = [key for key in names if len({first.params.get(key, "") for first in firsts}) > 1]
    standings: dict[str, list[Configuration]] = {"ranked": [], "partial": [], "apart": []}
    for group, called in zip(groups.values(), _labels(firsts), strict=True):
        finished = [run for run in group if run.status == "finished"]
        others = [run for run in group if run.status != "finished"]
        params = {key: group[0].params.get(key, "") for key in keys}
        c = Configuration("", called, finished, others, params)
        standings[c.standing].append(c)
    apart = sorted(standings["apart"], key=lambda c: c.label)
    ordered = _ranked(standings["ranked"]) + standings["partial"] + apart
    named = iter([replace(c, letter=_letter(number)) for number, c in enumerate(ordered)])
    ranked, partial, apart = ([next(named) for _ in standings[name]] for name in standings)
    return Comparison(ranked, partial, apart, damaged, keys)


def several(names: Sequence[str]) -> str:
    """Return names in a row, only the first of many."""
    more = len(names) - LETTERS
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:LETTERS])} and {more} more"


def if_several(what: str, traits: Sequence[tuple[str, str]]) -> str:
    """Say which letters have which trait, where there is more than one."""
    letters: dict[str, dict[str, None]] = {}
    for letter, trait in traits:
        letters.setdefault(trait or "unknown", {})[letter] = None
    if len(letters) < 2:
        return ""
    each = "; ".join(f"{several(list(those))}: {trait}" for trait, those in letters.items())
    return f"{what}: {each}."


def _ranked(configurations: Sequence[Configuration]) -> list[Configuration]:
    """Return them by their mean, the best first; those tied with the best keep their order."""
    best = max((c.mean for c in configurations), default=math.nan)
    return sorted(configurations, key=lambda c: -best if best - c.mean < TIE else -c.mean)


def _labels(runs: Sequence[Run]) -> list[str]:
    """Return a label for each run: its own, or else the words it was started with that not all share.

    Those that few share come first: where a label is cut, what is left tells more.
    """
    unnamed = [run for run in runs if not run.label]
    count = Counter(word for run in unnamed for word in {*run.words})
    told = [
        sorted((word for word in run.words if not count[word] == len(unnamed) > 1), key=lambda w: count[w])
        for run in runs
    ]
    return [run.label or label(words) for run, words in zip(runs, told, strict=True)]


def _letter(number: int) -> str:
    """Count as spreadsheets do: A to Z, AA, AB, ..."""
    first, last = divmod(number, 26)
    return (_letter(first - 1) if first else "") + chr(ord("A") + last)


def _split(runs: Sequence[Run]) -> str:
    """Return by what the validation pictures of runs were chosen."""
    keys = ("data.val_size", "data.split_seed")
    each = {" ".join(f"{key}={run.config.get(key, '')}" for key in keys) for run in runs}
    return " and ".join(sorted(each))
