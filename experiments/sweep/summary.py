"""What a sweep has come to, as plain rows: trials, points over their seeds, failures, agreement, cost."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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

    @property
    def mean(self) -> float:
        """The mean that points are ranked by, minus infinity where nothing finished."""
        values = self.figures["val/acc_best"] or self.figures["test/acc"]
        return sum(values) / len(values) if values else -math.inf


def points(trials: Iterable[Trial]) -> list[PointRow]:
    """Return a row for each point, the best mean first."""
    rows = []
    for group in by_point(trials):
        results = [trial.result for trial in group]
        finished = [r["metrics"] for r in results if r.get("status") == "finished"]
        figures = {name: [m[name] for m in finished if name in m] for name in FIGURES}
        statuses = [r.get("status", "unfinished") for r in results]
        rows.append(PointRow(_without_seed(group[0]), group, statuses, figures))
    return sorted(rows, key=lambda row: -row.mean)


def _without_seed(trial: Trial) -> str:
    seed = trial.point.get("seed")
    words = trial.label.split(" ")
    return " ".join(word for word in words if word != f"s{seed}") or "all"


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, standard deviation and half the 95 % interval of the mean (Student's t).

    The last two are NaN for fewer than two values.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    from scipy.stats import t

    std = float(np.std(values, ddof=1))
    return mean, std, float(t.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))


def shown(values: Sequence[float]) -> str:
    """Return accuracies as `mean ± std (95 %: low to high)` in percent."""
    if not values:
        return ""
    mean, std, half = spread(values)
    if math.isnan(std):
        return f"{mean:.2%}"
    return f"{mean:.2%} ± {100 * std:.2f} (95 %: {mean - half:.2%} to {mean + half:.2%})"


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
class Agreement:
    """How often the trials of a sweep are right about the same pictures."""

    trials: int
    pictures: int
    all_right: float  # share of pictures
    all_wrong: float
    same_answer: float  # mean share of pictures over all pairs of trials
    hardest: list[tuple[int, str, str, float]]  # index, label, most frequent answer, share of trials right


def agreement(trials: Iterable[Trial], *, hardest: int = 20) -> Agreement | None:
    """Compare the trials' predictions picture by picture; None unless two analysed the same pictures."""
    found = [p for trial in trials if (p := _predictions(trial.folder)) is not None]
    found = [p for p in found if np.array_equal(p["index"], found[0]["index"])]
    if len(found) < 2:
        return None
    preds = np.stack([p["logits"].argmax(1) for p in found])  # (trials, pictures)
    labels, classes = found[0]["labels"], [str(name) for name in found[0]["classes"]]
    right = (preds == labels).mean(0)
    counts = np.stack([(preds == k).sum(0) for k in range(len(classes))])  # (classes, pictures)
    pairs = len(found) * (len(found) - 1)
    same = ((counts * (counts - 1)).sum(0) / pairs).mean()
    rows = np.argsort(right, kind="stable")[:hardest]
    return Agreement(
        len(found),
        len(labels),
        float((right == 1).mean()),
        float((right == 0).mean()),
        float(same),
        [
            (int(found[0]["index"][i]), classes[labels[i]], classes[counts[:, i].argmax()], float(right[i]))
            for i in rows
        ],
    )


def _predictions(folder: Path) -> dict[str, np.ndarray] | None:
    path = folder / "analysis" / "predictions.npz"
    if not path.exists():
        return None
    with np.load(path) as file:
        return {name: file[name] for name in ("index", "labels", "logits", "classes")}


def numbers(trials: Sequence[Trial], key: str) -> list[float] | None:
    """Return what each trial has for a key as numbers; None where one is not a number."""
    try:
        return [float(bare(trial.point)[key]) for trial in trials]
    except (ValueError, KeyError):
        return None
