"""Which tables a comparison has, as raw values and as a person sees them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from cifar_core.report.markup import percent
from experiments.comparison.groups import Comparison, Configuration
from experiments.comparison.read import BEST, TEST, Run

COMPARED = 8  # configurations whose classes are shown side by side

TableRow = Mapping[str, Any]
Columns = dict[str, Callable[[TableRow], str]]


@dataclass(frozen=True)
class Table:
    """Rows of raw values and how a person sees them."""

    title: str
    hint: str
    rows: Sequence[TableRow]
    columns: Columns
    file: str  # the CSV file that has all rows
    numbers: bool = True  # whether the columns after the first are figures

    def cells(self, limit: int) -> list[list[str]]:
        """Return the first ``limit`` rows as a person sees them."""
        return [[show(row) for show in self.columns.values()] for row in self.rows[:limit]]

    def note(self, limit: int) -> str:
        """Return the hint, with where the rest is to be had if there is more than ``limit``."""
        more = f" The first {limit} of {len(self.rows):,}; experiments.compare writes all to {self.file}."
        return self.hint + (more if len(self.rows) > limit else "")


def tables(comparison: Comparison) -> list[Table]:
    """Return all tables of a comparison that have something to tell."""
    each = [
        *configurations(comparison),
        _pairs(comparison),
        _classes(comparison),
        _missed(comparison),
        _differences(comparison),
        _others(comparison),
        _runs(comparison),
    ]
    return [table for table in each if table is not None]


def configurations(comparison: Comparison, *, tested: bool = True) -> list[Table]:
    """Return the configurations: those ranked, those that lack a seed, those without validation.

    With ``tested`` false those of which validation can tell have no test figures.
    """
    each = [
        _configurations(
            comparison.ranked,
            "Not comparable" if comparison.unfair else "Ranked by validation accuracy",
            "Mean ± standard deviation over seeds, and the 95 % interval of the mean (Student's t). Each "
            "run's best epoch was chosen by validation; its test accuracy was read once and ranks nothing.",
            tested=tested,
        ),
        _configurations(
            comparison.partial,
            "Not ranked: seeds are missing",
            "A mean is over the seeds that have finished, and those need not be like the others.",
            tested=tested,
        ),
        _configurations(
            comparison.apart,
            "Apart: without a validation split",
            "Not ranked. Protocol test_each_epoch: every choice was made in sight of the test pictures; "
            "test_once: they were read at the end alone, and nothing was chosen.",
        ),
    ]
    return [table for table in each if table is not None]


def _configurations(
    configurations: Sequence[Configuration], title: str, hint: str, *, tested: bool = True
) -> Table | None:
    columns: Columns = {
        "configuration": lambda row: f"{row['letter']}: {row['configuration']}",
        "runs": lambda row: str(row["runs"]),
        "state": lambda row: row["state"],
        "val/acc": lambda row: str(row["val"]),
        "val 95 %": lambda row: row["val"].interval,
        "test/acc": lambda row: str(row["test"]),
        "test 95 %": lambda row: row["test"].interval,
        "seconds": lambda row: "-" if math.isnan(row["seconds"]) else f"{row['seconds']:,.1f}",
        "pictures/s": lambda row: _number(row["images_per_second"]),
    }
    if all(c.state == f"{len(c.runs)} finished" for c in configurations):
        del columns["state"]
    if not tested:
        del columns["test/acc"], columns["test 95 %"]
    if not any(BEST in run.metrics for c in configurations for run in c.runs):
        del columns["val/acc"], columns["val 95 %"]
    rows = [configuration_row(c) | {"val": c.spread(BEST), "test": c.spread(TEST)} for c in configurations]
    return Table(title, hint, rows, columns, "configurations.csv") if rows else None


def configuration_row(c: Configuration) -> dict[str, Any]:
    """Return the figures of a configuration as a flat row."""
    row: dict[str, Any] = {"letter": c.letter, "configuration": c.label, "protocol": c.protocol}
    row["runs"] = len(c.runs)
    for metric in (BEST, TEST):
        figure = c.spread(metric)
        row |= {f"{metric} {part}": getattr(figure, part) for part in ("mean", "std", "low", "high")}
    row["seconds"] = c.seconds
    paces = [run.images_per_second for run in c.runs if run.images_per_second is not None]
    row["images_per_second"] = sum(paces) / len(paces) if paces else None
    return row | {"seeds": c.seeds, "state": c.state}


def _split(comparison: Comparison) -> str:
    """Say on which pictures the paired figures are made."""
    one = comparison.paired[0].pictures
    if one.split == "test":
        return f"{len(one.labels):,} test pictures"
    return f"{len(one.labels):,} validation pictures (the best epochs were chosen on them)"


def _pairs(comparison: Comparison) -> Table | None:
    if not comparison.pairs:
        return None
    rows = [
        {
            "a": pair.a.configuration.letter,
            "a_seed": pair.a.run.seed,
            "b": pair.b.configuration.letter,
            "b_seed": pair.b.run.seed,
            "only_a_right": pair.test.only_a,
            "only_b_right": pair.test.only_b,
            "p": pair.test.p,
            "p_holm": pair.p_holm,
            "a_folder": str(pair.a.run.folder),
            "b_folder": str(pair.b.run.folder),
        }
        for pair in comparison.pairs
    ]
    columns: Columns = {
        "a / b": lambda row: f"{row['a']} seed {row['a_seed']} / {row['b']} seed {row['b_seed']}",
        "only a right": lambda row: f"{row['only_a_right']:,}",
        "only b right": lambda row: f"{row['only_b_right']:,}",
        "p": lambda row: f"{row['p']:.2g}",
        "p (Holm)": lambda row: f"{row['p_holm']:.2g}",
    }
    hint = (
        f"McNemar's exact test on the same {_split(comparison)}, for two trained networks, not for two "
        "recipes: another seed may say otherwise."
    )
    if len(rows) > 1:
        hint += f" Holm's correction is for all {len(rows):,} pairs."
    if len(comparison.class_recalls()) > 2 and len({row["a"] for row in rows}) == 1:
        hint += f" There are many runs, so each is compared with those of {rows[0]['a']} alone."
    return Table("Pairs of runs", hint, rows, columns, "pairs.csv")


def _classes(comparison: Comparison) -> Table | None:
    recalls = comparison.class_recalls()
    if len(recalls) < 2:
        return None
    first, *rest = list(recalls)[:COMPARED]
    names = comparison.paired[0].pictures.classes
    rows: list[TableRow] = [
        {"class": name} | {letter: float(values[k]) for letter, values in recalls.items()}
        for k, name in enumerate(names)
    ]
    rows.sort(key=lambda row: -max((abs(row[x] - row[first]) for x in rest), default=0))
    rows.sort(key=lambda row: math.isnan(row[first]))
    columns: Columns = {"class": lambda row: row["class"]}
    columns[first] = lambda row: _percent(row[first])
    columns |= {f"{letter} - {first}": _difference(letter, first) for letter in rest}
    hint = (
        f"Recall of each class on the same {_split(comparison)}, mean over seeds, and the others' difference "
        f"from {first} in percentage points; the largest difference first."
    )
    if len(recalls) > COMPARED:
        hint += f" The first {COMPARED} configurations; all {len(recalls):,} are in classes.csv."
    return Table("Classes", hint, rows, columns, "classes.csv")


def _difference(letter: str, first: str) -> Callable[[TableRow], str]:
    return lambda row: _points(row[letter] - row[first])


def _missed(comparison: Comparison) -> Table | None:
    alike, missed = comparison.agreement, comparison.missed
    if alike is None or missed is None:
        return None
    one = comparison.paired[0].pictures
    rows: list[TableRow] = [
        {
            "index": int(one.index[row]),
            "file": one.names[row] if one.names else "",
            "label": one.classes[one.labels[row]],
            "most_frequent_answer": one.classes[answer],
            "runs_with_that_answer": float(share),
        }
        for row, answer, share in zip(missed.rows, missed.answers, missed.shares, strict=True)
    ]
    columns: Columns = {
        "index": lambda row: str(row["index"]),
        "file": lambda row: row["file"],
        "label": lambda row: row["label"],
        "most frequent answer": lambda row: row["most_frequent_answer"],
        "runs that give it": lambda row: f"{row['runs_with_that_answer']:.0%}",
    }
    if not one.names:
        del columns["file"]
    hint = (
        f"{len(comparison.paired)} runs on the same {_split(comparison)}: all are right on "
        f"{_percent(alike.all_right)}, all wrong on {_percent(alike.all_wrong)}; two give the same answer on "
        f"{_percent(alike.same_answer)}. A picture that all miss is hard or mislabelled: the more runs agree "
        "on another class, the likelier the label is wrong."
    )
    return Table("Pictures that all runs miss", hint, rows, columns, "missed.csv", numbers=False)


def _differences(comparison: Comparison) -> Table | None:
    letters = [c.letter for c in comparison.configurations]
    rows = [
        {"key": key} | {c.letter: c.params[key] for c in comparison.configurations} for key in comparison.keys
    ]
    columns: Columns = {"key": lambda row: row["key"]}
    columns |= {letter: itemgetter(letter) for letter in letters}
    hint = "An empty cell: the key is not there."
    return Table("What differs", hint, rows, columns, "differences.csv") if rows else None


def _others(comparison: Comparison) -> Table | None:
    columns: Columns = {
        "run": lambda row: f"{row['configuration']} {row['folder']}".lstrip(),
        "status": lambda row: row["status"],
        "epochs": lambda row: str(row["epochs"]),
        "best val/acc so far": lambda row: _percent(row[BEST]),
        "why": lambda row: row["error"],
    }
    rows = [run_row(run, letter) for letter, run in unfinished(comparison)]
    return (
        Table("Not finished, so not ranked", "", rows, columns, "runs.csv", numbers=False) if rows else None
    )


def unfinished(comparison: Comparison) -> list[tuple[str, Run]]:
    """Return the runs that are not finished, each with its configuration's letter."""
    each = [(c.letter, run) for c in comparison.configurations for run in c.others]
    return each + [("", run) for run in comparison.damaged]


def _runs(comparison: Comparison) -> Table | None:
    columns: Columns = {
        "run": lambda row: f"{row['configuration']} seed {row['seed']}: {row['folder']}",
        "val/acc": lambda row: _percent(row[BEST]),
        "test/acc": lambda row: _percent(row[TEST]),
        "epochs": lambda row: str(row["epochs"]),
        "seconds": lambda row: f"{row['seconds']:,.1f}",
        "pictures/s": lambda row: _number(row["images_per_second"]),
    }
    rows = [run_row(run, c.letter) for c in comparison.configurations for run in c.runs]
    return Table("Runs", "", rows, columns, "runs.csv") if rows else None


def run_row(run: Run, letter: str = "") -> dict[str, Any]:
    """Return the figures of a run as a flat row."""
    accs = [row["val/acc"] for row in run.history if "val/acc" in row]
    return {
        "configuration": letter,
        "seed": run.seed,
        "status": run.status,
        "protocol": run.protocol,
        BEST: run.metrics.get(BEST, max(accs, default=None)),
        TEST: run.metrics.get(TEST),
        "epochs": len(run.history),
        "seconds": run.seconds,
        "images_per_second": run.images_per_second,
        "device": run.device,
        "data": run.data,
        "error": run.error,
        "folder": str(run.folder),
    }


def _percent(value: float | None) -> str:
    return percent(value, 2, space=" ")


def _points(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:+.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
