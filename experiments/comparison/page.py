"""How a comparison looks: one HTML file that needs nothing but the runs that it links to."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from cifar_core.report.charts import Line, curves
from cifar_core.report.embed import thumbnail
from cifar_core.report.keys import Axis, bars, parallel, slices
from cifar_core.report.markup import Cell, address, percent, render
from experiments.comparison.groups import Comparison, Configuration
from experiments.comparison.pictures import Gallery
from experiments.comparison.read import BEST, TEST, Run
from experiments.comparison.tables import tables
from experiments.comparison.verdict import verdict, warnings
from experiments.runs.names import rounded, starts

TEMPLATE = Path(__file__).parent / "templates" / "comparison.html"
KEYS = 8  # that differ, up to which each has a column and an axis; of more there is a table
CURVES = ("val/acc", "test/acc", "train/loss")
THUMBS = {"contact_sheet": "The surest errors", "confusion_matrix": "Confusions"}
ROWS = 200  # of a table; the CSV files have all
LISTED = ("pairs.csv", "classes.csv", "differences.csv")  # tables that stand as they are


@dataclass(frozen=True)
class Extras:
    """What the page of a sweep has beside the comparison of its runs."""

    title: str = ""
    state: str = ""  # how far a sweep is that is not over
    reload: int = 0  # seconds
    importances: Mapping[str, float] = field(default_factory=dict)
    commands: Sequence[tuple[str, str]] = ()  # what for, and the line to paste
    hides_tests: bool = False  # of all but the best, so that nobody chooses by them


def page(
    comparison: Comparison, home: Path, *, gallery: Gallery | None = None, extras: Extras | None = None
) -> str:
    """Return the page as it lies in the folder ``home``, from which its links go to the runs."""
    extras = extras or Extras()
    members = list(_members(comparison))
    values = _values_of(comparison)
    keys = _short(values)
    devices = {run.device for _, run in members if run.device}
    listed = [one for one in tables(comparison) if one.file in LISTED]
    if extras.hides_tests and comparison.has_val and comparison.are_tested:
        listed = [one for one in listed if one.file == "differences.csv"]
    return render(
        TEMPLATE,
        scripts=("page.js", "charts.js", *(("pictures.js",) if gallery else ())),
        reload=extras.reload,
        title=extras.title or f"{len(members)} runs in {len(comparison.configurations)} configurations",
        verdict=verdict(comparison),
        warnings=warnings(comparison),
        comparison=comparison,
        extras=extras,
        tiles=list(_tiles(comparison, len(members))),
        members=members,
        repeated=any(len(c.runs) > 1 for c in comparison.configurations),
        keys=keys,
        values=values,
        devices=sorted(devices),
        curves=list(_curves(comparison)),
        matters=list(_matters(comparison, keys, values, extras.importances)),
        thumbs=list(_thumbs(comparison.best, home)),
        gallery=gallery,
        tables=[one for one in listed if one.file != "differences.csv" or comparison.keys != list(keys)],
        limit=ROWS,
        links={run.folder: list(_links(run, home)) for _, run in members},
        clock=clock,
        rounded=rounded,
        sorted_by_number=lambda rows: [[_cell(text) for text in row] for row in rows],
    )


def _cell(shown: str) -> Cell | str:
    """Return a figure so that it sorts as one."""
    try:
        return Cell(shown, float(shown.replace(",", "").removesuffix(" %")))
    except ValueError:
        return shown


def _members(comparison: Comparison) -> Iterator[tuple[Configuration | None, Run]]:
    """Yield each run with its configuration, if it has any."""
    for c in comparison.configurations:
        yield from ((c, run) for run in (*c.runs, *c.others))
    yield from ((None, run) for run in comparison.damaged)


def _values_of(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Return the keys that have a column, each with its value by configuration; none where they are many.

    They are what was asked for, where that tells all apart: `aug=cutout` says more than its settings do.
    """
    asked = {c.letter: _asked(c) for c in comparison.configurations}
    values = {
        key: {letter: words.get(key, "default") for letter, words in asked.items()}
        for key in dict.fromkeys(key for words in asked.values() for key in words)
    }
    values = {key: by_letter for key, by_letter in values.items() if len(set(by_letter.values())) > 1}
    if len({tuple(v[letter] for v in values.values()) for letter in asked}) < len(asked):
        values = {
            key: {c.letter: c.params[key] for c in comparison.configurations} for key in comparison.keys
        }
    return values if len(values) <= KEYS else {}


def _asked(c: Configuration) -> Mapping[str, str]:
    """Return what a configuration was asked for, by key: the point of a sweep, or words of a command line."""
    run = (c.runs or c.others)[0]
    if run.point is not None:
        return c.params
    pairs = (word.partition("=") for word in run.words)
    return {key: text if sign else "left out" for key, sign, text in pairs}


def _short(keys: Iterable[str]) -> dict[str, str]:
    """Return a short name for each key: `lr` for `optimizer.lr`, `model` for a group."""
    return {key: start.removesuffix("=") or key for key, start in starts(keys).items()}


def clock(seconds: float) -> str:
    """Return a time as people say it: `34 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _tiles(comparison: Comparison, runs: int) -> Iterator[tuple[str, str, str]]:
    """Yield label, figure and note of each headline number."""
    if best := comparison.best:
        figure, test = best.spread(BEST), best.spread(TEST)
        yield "Best val/acc", percent(figure.mean, 2), f"{best.letter}, n = {figure.count}"
        if test.count:
            yield "Its test/acc", percent(test.mean, 2), f"n = {test.count}; it chose nothing"
    counts = dict(comparison.cost)
    seconds, epochs = counts.pop("training seconds"), counts.pop("epochs")
    yield "Runs", f"{runs:,}", ", ".join(f"{n:g} {status}" for status, n in counts.items())
    ranked = "not comparable" if comparison.unfair else f"{len(comparison.ranked):,} ranked"
    yield "Configurations", f"{len(comparison.configurations):,}", ranked
    yield "Training", clock(seconds), f"{epochs:,g} epochs in all"
    if alike := comparison.agreement:
        pictures, runs = len(comparison.paired[0].pictures.labels), len(comparison.paired)
        yield "Missed by all", percent(alike.all_wrong), f"of {pictures:,} pictures, {runs} runs"


def _links(run: Run, home: Path) -> Iterator[tuple[str, str]]:
    """Yield name and address of what there is of a run."""
    folder = Path(os.path.relpath(run.folder, home))
    if (run.folder / "analysis" / "report.html").exists():
        yield "report", address(folder / "analysis" / "report.html")
    if run.folder.exists():
        yield "folder", f"{address(folder)}/"
    if run.page.startswith(("http://", "https://")):
        yield "MLflow", run.page


def _curves(comparison: Comparison) -> Iterator[Markup]:
    """Yield a chart of each metric: the mean of each configuration, or each run of a single one."""
    for metric in CURVES:
        if lines := [line for line in _lines(comparison, metric) if line.points]:
            yield curves(metric, lines)


def _lines(comparison: Comparison, metric: str) -> Iterator[Line]:
    if len(comparison.configurations) == 1:
        (only,) = comparison.configurations
        for run in (*only.runs, *only.others):
            points = [(row["epoch"], row[metric]) for row in run.history if metric in row]
            yield Line(f"s{run.seed}", f"seed {run.seed}", points, _kind(run.status))
        return
    for c in comparison.configurations:
        kind = "best" if c is comparison.best else "" if c.runs else _kind(c.others[0].status)
        yield Line(c.letter, f"{c.letter} {c.label}", c.curve(metric), kind)


def _kind(status: str) -> str:
    return status if status in ("pruned", "failed") else ""


def _matters(
    comparison: Comparison,
    keys: Mapping[str, str],
    values: Mapping[str, Mapping[str, str]],
    shares: Mapping[str, float],
) -> Iterator[Markup]:
    """Yield charts that show which of the keys make a difference."""
    if comparison.unfair:
        return
    metric = BEST if comparison.has_val else TEST
    shown = [c for c in comparison.configurations if c.spread(metric).count]
    axes = [Axis(name, _values([values[key][c.letter] for c in shown])) for key, name in keys.items()]
    axes = [axis for axis in axes if len(set(axis.values)) > 1]
    name = metric.removesuffix("_best")
    if shares:
        named = {keys.get(key, key): share for key, share in shares.items()}
        yield bars(f"Share of the variance of {name} (fANOVA)", named)
    if not axes:
        return
    result = Axis(name, [c.spread(metric).mean for c in shown])
    ids = [c.letter for c in shown]
    yield slices(axes, result, ids)
    if len(axes) > 1:
        yield parallel("All parameters together", axes, result, ids)


def _values(texts: Sequence[str]) -> list[float | str | None]:
    """Return values of a key as numbers, where all that are there are numbers."""
    try:
        return [float(text) if text else None for text in texts]
    except ValueError:
        return [text or None for text in texts]


def _thumbs(best: Configuration | None, home: Path) -> Iterator[tuple[str, str, str]]:
    """Yield title, small picture and address of sheets of the best configuration's first run."""
    if best is None:
        return
    for name, title in THUMBS.items():
        file = best.runs[0].folder / "analysis" / f"{name}.png"
        if picture := thumbnail(file):
            yield title, picture, address(os.path.relpath(file, home))
