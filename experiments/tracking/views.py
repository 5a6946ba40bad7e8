"""What does MLflow's page of many runs show? A view that is prepared, as its "Share view" would keep it.

MLflow keeps the state of a shared view in a tag of the experiment and opens it by its key in the address. The
fields are those that MLflow 3.17 reads; one that reads others shows its own page, with the same runs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

TAG = "mlflow.sharedViewState."  # and the view's key
SWEEP_VIEW_TAG = "sweep.view"  # of a sweep's own run: its `SweepView`
OURS = "tags.seed LIKE '%'"  # which each run has and a sweep's own has not; `!=` finds only what has the tag
VALIDATION, TEST = "val/acc_best", "test/acc"
KEYS = ("model", "aug", "optimizer", "optimizer.lr", "scheduler")  # that a table of all runs tells apart by
PICTURES = ("contact_sheet", "correct_sheet")
WATCHED = "watch"  # a picture for each share of the training in percent, with a slider
SWEPT, SCATTERS = 30, 6  # keys, and charts of one, at most: MLflow takes tags of 20,000 characters
WIDTH = 120  # pixels of a column

State = dict[str, Any]


@dataclass(frozen=True)
class SweepView:
    """What the view of a sweep depends on; a tag of its own run says it."""

    keys: Sequence[str]  # that are swept, the seed left out
    judged: str = VALIDATION  # the figure it selects on
    tested: bool = True  # whether the test set is read
    watched: bool = False  # whether the trials draw pictures as they learn

    @classmethod
    def read(cls, tags: Mapping[str, str]) -> "SweepView":
        """Return what the tags of a sweep's own run say; of an earlier version they do not."""
        try:
            return cls(**json.loads(tags[SWEEP_VIEW_TAG]))
        except (KeyError, TypeError, ValueError):
            return cls(())

    def text(self) -> str:
        """Return it as the tag's value."""
        return json.dumps(asdict(self))


def view_of(tags: Mapping[str, str]) -> tuple[str, State]:
    """Return key and state of the view that a run with these tags belongs to: its sweep's, or all runs'."""
    if tags.get("kind") == "sweep":
        return f"sweep-{tags['sweep']}", _sweep(tags["sweep"], SweepView.read(tags))
    return "runs", _runs()


def query(tags: Mapping[str, str], key: str) -> str:
    """Return what follows `runs?` in a view's address: its ``key``, or its filter where none is kept ("")."""
    start = "workflowType=machine_learning&"  # without it the UI opens in its GenAI mode
    if key:
        return f"{start}viewStateShareKey={quote(key, safe='')}"
    return f"{start}searchFilter={quote(view_of(tags)[1]['searchFilter'], safe='')}"


def charts(page: str) -> str | None:
    """Return the address of the charts of a page of many runs; None for another tracker's page."""
    return f"{page}&compareRunsMode=CHART" if "/runs?workflowType=" in page else None


def _sweep(name: str, view: SweepView) -> State:
    keys = view.keys[:SWEPT]
    figures = [view.judged, *([TEST] if view.tested and view.judged != TEST else [])]
    curve = view.judged.removesuffix("_best")
    mark = '"' if "'" in name else "'"
    return {
        "searchFilter": f"tags.sweep = {mark}{name}{mark} AND {OURS}",
        "orderByKey": f"metrics.`{view.judged}`",
        "orderByAsc": False,
        "runsHiddenMode": "SHOW_ALL",
        "runListHidden": True,  # of the charts, which get its width; a button brings it back
        **_columns(figures, [*keys, "seed", "trainer.epochs"]),
        **_charts(
            {
                "Accuracy": [_line(curve)],
                "Training": [_line("train/loss"), _line("lr")],
                "Swept": list(_swept(keys, view.judged)),
                "Pictures": list(_pictures(watched=view.watched)),
            }
        ),
    }


def _runs() -> State:
    return {
        "searchFilter": OURS,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "runsHiddenMode": "FIRST_20_RUNS",
        "runListHidden": True,
        **_columns([VALIDATION, TEST], [*KEYS, "seed", "trainer.epochs"]),
        **_charts(
            {
                "Accuracy": [_line("val/acc")],
                "Training": [_line("train/loss"), _line("lr")],
                "Pictures": list(_pictures(watched=True)),
            }
        ),
    }


def _columns(metrics: Sequence[str], params: Sequence[str]) -> State:
    """Return which columns the table has, in this order."""
    names = dict.fromkeys([*(f"metrics.`{m}`" for m in metrics), *(f"params.`{p}`" for p in params)])
    columns = [*names, "attributes.`Duration`"]
    return {"selectedColumns": columns, "columnOrder": columns, "columnWidths": dict.fromkeys(columns, WIDTH)}


def _swept(keys: Sequence[str], judged: str) -> Iterator[State]:
    """Yield each swept parameter against the result, all of them in one chart where there are several."""
    if len(keys) > 1:
        params, metrics = list(keys), [judged]
        yield {
            "type": "PARALLEL",
            "selectedParams": params,
            "selectedMetrics": metrics,
            "showAllRuns": True,
            "runsCountToCompare": 1000,
        }
    result = {"key": judged, "type": "METRIC"}
    for key in keys[:SCATTERS]:
        place = {"key": key, "type": "PARAM"}
        yield {"type": "SCATTER", "xaxis": place, "yaxis": result, "runsCountToCompare": 1000}


def _line(metric: str) -> State:
    shape = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0}
    names = {"metricKey": metric, "selectedMetricKeys": [metric], "displayName": metric}
    return {"type": "LINE", **names, **shape, "runsCountToCompare": 1000}


def _pictures(*, watched: bool) -> Iterator[State]:
    for key in PICTURES:
        yield _image(key)
    if watched:
        yield _image(WATCHED, 100)


def _image(key: str, step: int = 0) -> State:
    """Return a grid with the picture of each run; its parameters as text would push it out of sight."""
    return {"type": "IMAGE", "imageKeys": [key], "step": step, "showRunParams": False, "displayName": key}


def _charts(sections: Mapping[str, Sequence[State]]) -> State:
    """Return sections with their charts, in this order; pictures get the width of the page."""
    heads, charts = [], []
    for title, cards in sections.items():
        if not cards:
            continue
        head: State = {"uuid": title, "name": title, "display": True, "isReordered": True}
        height = {"cardHeight": 500} if cards[0]["type"] == "IMAGE" else {}
        heads.append(head | height | {"columns": 1 if height or len(cards) == 1 else 2})
        for number, card in enumerate(cards):
            place = {"uuid": f"{title} {number}", "metricSectionId": title, "deleted": False}
            charts.append(card | place | {"isGenerated": False})
    return {"compareRunSections": heads, "compareRunCharts": charts, "isAccordionReordered": True}
