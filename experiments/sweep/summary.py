"""What a sweep has come to, as plain rows: trials, points over their seeds, failures, agreement, cost."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifar_core.explain.statistics import Agreement, agreement, missed_by_all, spread
from experiments.runs import read
from experiments.sweep.trials import Trial
from experiments.sweep.winner import bare, by_point, winner

FIGURES = ("val/acc_best", "test/acc")


@dataclass(frozen=True)
class PointRow:
    """One point over its seeds."""

    label: str
    trials: list[Trial]
    statuses: list[str]
    figures: dict[str, list[float]]  # of the finished trials, by metric
    seeds: int  # that the point was to have

    @property
    def finished(self) -> int:
        """The number of seeds that ran to their end."""
        return self.statuses.count("finished")

    @property
    def is_whole(self) -> bool:
        """Whether all seeds finished: a mean over those that a pruner or a failure left is no fair one."""
        return self.finished == self.seeds

    @property
    def mean(self) -> float:
        """The mean that points are ranked by, minus infinity where nothing finished."""
        values = self.figures["val/acc_best"] or self.figures["test/acc"]
        return sum(values) / len(values) if values else -math.inf


def points(trials: Iterable[Trial]) -> list[PointRow]:
    """Return a row for each point, the best mean first; points that lack a seed come after all others."""
    rows = []
    for group in by_point(trials):
        results = [trial.result for trial in group]
        finished = [r["metrics"] for r in results if r.get("status") == "finished"]
        figures = {name: [m[name] for m in finished if name in m] for name in FIGURES}
        statuses = [r.get("status", "unfinished") for r in results]
        rows.append(
            PointRow(_without_seed(group[0]), group, statuses, figures, max(len(group), group[0].seeds))
        )
    return sorted(rows, key=lambda row: (not row.is_whole, -row.mean))


def _without_seed(trial: Trial) -> str:
    seed = trial.point.get("seed")
    words = trial.label.split(" ")
    return " ".join(word for word in words if word != f"s{seed}") or "all"


def shown(values: Sequence[float]) -> str:
    """Return accuracies as `mean ± std (95 %: low to high)` in percent."""
    if not values:
        return ""
    of = spread(values)
    if math.isnan(of.std):
        return f"{of.mean:.2%}"
    return f"{of.mean:.2%} ± {100 * of.std:.2f} (95 %: {of.low:.2%} to {of.high:.2%})"


def best(trials: Iterable[Trial]) -> PointRow | None:
    """Return the winner by validation; None where there is none."""
    won = winner(trials)
    return points(won)[0] if won else None


def table(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Return one flat row a trial, the best validation accuracy first; what varies has a column each."""
    rows = []
    for trial in trials:
        result = trial.result
        metrics = result.get("metrics", {})
        rows.append(
            {
                "trial": trial.number,
                "status": result.get("status", "unfinished"),
                "name": trial.label,
                **trial.point,
                **{name: metrics.get(name) for name in FIGURES},
                "epochs": len(trial.history()),
                "seconds": round(sum(row["seconds"] for row in trial.history()), 1),
                "run_id": result.get("run_id") or run_id(trial.folder) or "",
                "folder": str(trial.folder),
                "error": result.get("error", ""),
            }
        )
    return sorted(rows, key=lambda row: (-(row["val/acc_best"] or row["test/acc"] or -1), row["trial"]))


def run_id(folder: Path) -> str | None:
    """Return the run's id in the tracker, as far as the tracker's own state knows it."""
    try:
        states = json.loads((folder / "tracking.offset").read_text())
    except (OSError, ValueError):
        return None
    return next((state["run_id"] for state in states.values()), None)


def cost(trials: Iterable[Trial]) -> dict[str, float]:
    """Return trainings by status, and the epochs and seconds they took."""
    rows = table(trials)
    counts: dict[str, float] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    return counts | {
        "epochs": sum(r["epochs"] for r in rows),
        "training seconds": round(sum(r["seconds"] for r in rows), 1),
    }


@dataclass(frozen=True)
class Answers:
    """What the trials of a sweep answer for the same pictures."""

    trials: int
    pictures: int
    agreement: Agreement
    missed: list[tuple[int, str, str, float]]  # by all trials: index, label, main answer, share that gives it


def answers(trials: Iterable[Trial]) -> Answers | None:
    """Compare the trials' predictions picture by picture; None unless two analysed the same pictures."""
    found = [p for trial in trials if (p := _predictions(trial.folder)) is not None]
    found = [p for p in found if np.array_equal(p["index"], found[0]["index"])]
    if len(found) < 2:
        return None
    index, labels, classes = (found[0][name] for name in ("index", "labels", "classes"))
    preds = np.stack([p["logits"].argmax(1) for p in found])  # (trials, pictures)
    missed = missed_by_all(labels, preds)
    rows = zip(missed.rows, missed.answers, missed.shares, strict=True)
    return Answers(
        len(found),
        len(labels),
        agreement(labels, preds),
        [(int(index[i]), str(classes[labels[i]]), str(classes[k]), float(share)) for i, k, share in rows],
    )


def _predictions(folder: Path) -> dict[str, np.ndarray] | None:
    try:
        return read.predictions(folder)
    except OSError:  # damaged: the other trials have something to tell
        return None


def numbers(trials: Sequence[Trial], key: str) -> list[float] | None:
    """Return what each trial has for a key as numbers; None where one is not a number."""
    try:
        return [float(bare(trial.point)[key]) for trial in trials]
    except (ValueError, KeyError):
        return None
