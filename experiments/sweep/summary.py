"""What has a sweep come to? Plain rows: trials, points over their seeds, agreement, cost."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifar_core.explain.statistics import Agreement, agreement, missed_by_all, spread
from experiments.comparison.groups import ranked
from experiments.files import read_json
from experiments.runs.read import predictions
from experiments.sweep.space import bare
from experiments.sweep.trials import Look, Trial
from experiments.sweep.winner import by_point, winner

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
    def accs(self) -> list[float]:
        """The accuracies that points are ranked by: the test's where there is no validation split."""
        return self.figures["val/acc_best"] or self.figures["test/acc"]


def points(trials: Iterable[Trial]) -> list[PointRow]:
    """Return a row for each point, the best mean first; points that lack a seed come after all others."""
    rows = []
    for group in by_point(trials):
        looks = [trial.look() for trial in group]
        finished = [look.metrics for look in looks if look.status == "finished"]
        figures = {name: [m[name] for m in finished if name in m] for name in FIGURES}
        statuses = [_status(look) for look in looks]
        rows.append(
            PointRow(_without_seed(group[0]), group, statuses, figures, max(len(group), group[0].seeds))
        )
    return sorted(ranked(rows, lambda row: row.accs), key=lambda row: not row.is_whole)


def _status(look: Look) -> str:
    return look.result.status if look.result else "unfinished"


def _without_seed(trial: Trial) -> str:
    """Return a trial's label without its seed's word, which stands where the seed does in the point."""
    word, keys = f"s{trial.point.get('seed')}", list(trial.point)
    if keys[:1] == ["seed"]:
        return trial.label.removeprefix(word).lstrip() or "all"
    if keys[-1:] == ["seed"]:
        return trial.label.removesuffix(word).rstrip()
    return trial.label.replace(f" {word} ", " ", 1)


def shown(values: Sequence[float]) -> str:
    """Return accuracies as `mean ± std (95 %: low to high)` in percent."""
    if not values:
        return ""
    acc = spread(values)
    if math.isnan(acc.std):
        return f"{acc.mean:.2%}"
    return f"{acc.mean:.2%} ± {100 * acc.std:.2f} (95 %: {acc.low:.2%} to {acc.high:.2%})"


def best(trials: Iterable[Trial]) -> PointRow | None:
    """Return the winner by validation; None where there is none."""
    won = winner(trials)
    return points(won)[0] if won else None


def table(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Return one flat row a trial, the best validation accuracy first; what varies has a column each."""
    rows = []
    for trial in trials:
        look = trial.look()
        rows.append(
            {
                "trial": trial.number,
                "status": _status(look),
                "name": trial.label,
                **trial.point,
                **{name: look.metrics.get(name) for name in FIGURES},
                "epochs": len(look.history),
                "seconds": round(sum(row["seconds"] for row in look.history), 1),
                "gpu": trial.gpu or "",
                "run_id": (look.result and look.result.run_id) or run_id(trial.folder) or "",
                "folder": str(trial.folder),
                "error": look.error,
            }
        )
    return sorted(rows, key=lambda row: (-(row["val/acc_best"] or row["test/acc"] or -1), row["trial"]))


def commits(trials: Iterable[Trial]) -> dict[str, int]:
    """Return how many trials ran with the code of each commit, as far as they say."""
    found: Counter[str] = Counter()
    for trial in trials:
        try:
            git = read_json(trial.folder / "environment.json").get("git") or {}
        except OSError:
            continue
        if "commit" in git:
            found[git["commit"][:10]] += 1
    return dict(found)


def run_id(folder: Path) -> str | None:
    """Return the run's id in the tracker, as far as the tracker's own state knows it."""
    try:
        states = json.loads((folder / "tracking.offset").read_text(encoding="utf-8"))
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
    arrays = [p for trial in trials if (p := _predictions(trial.folder)) is not None]
    arrays = [p for p in arrays if np.array_equal(p["index"], arrays[0]["index"])]
    if len(arrays) < 2:
        return None
    index, labels, classes = (arrays[0][name] for name in ("index", "labels", "classes"))
    preds = np.stack([p["logits"].argmax(1) for p in arrays])  # (trials, pictures)
    missed = missed_by_all(labels, preds)
    rows = zip(missed.rows, missed.answers, missed.shares, strict=True)
    return Answers(
        len(arrays),
        len(labels),
        agreement(labels, preds),
        [(int(index[i]), str(classes[labels[i]]), str(classes[k]), float(share)) for i, k, share in rows],
    )


def _predictions(folder: Path) -> dict[str, np.ndarray] | None:
    try:
        return predictions(folder)
    except OSError:  # damaged: the other trials have something to tell
        return None


def numbers(trials: Sequence[Trial], key: str) -> list[float] | None:
    """Return what each trial has for a key as numbers; None where one is not a number."""
    try:
        return [float(bare(trial.point)[key]) for trial in trials]
    except (ValueError, KeyError):
        return None
