"""Which runs has a sweep made? Its trials, as a comparison reads them and as a CSV file has them."""

from collections.abc import Iterable
from typing import Any

from experiments.comparison.read import BEST, TEST, Run
from experiments.runs.result import Result
from experiments.sweep.space import bare
from experiments.sweep.trials import Look, Trial


def runs_of(trials: Iterable[Trial]) -> list[Run]:
    """Return the runs of trials by their numbers; a point without its seed is a configuration."""
    return [run_of(trial, trial.look()) for trial in sorted(trials, key=lambda trial: trial.number)]


def run_of(trial: Trial, look: Look) -> Run:
    """Return the run of a trial that was looked at."""
    result = look.result or Result(status="running" if trial.runs() else "unfinished")
    return Run(
        trial.folder,
        result,
        name=trial.label,
        label=_without_seed(trial),
        point=trial.point,
        asked=trial.seeds,
        gpu=trial.gpu or "",
    )


def table(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Return one flat row a trial, the best validation accuracy first; what varies has a column each."""
    rows = []
    for trial in trials:
        run = run_of(trial, trial.look())
        rows.append(
            {
                "trial": trial.number,
                "status": run.status,
                "name": run.name,
                **trial.point,
                **{name: run.metrics.get(name) for name in (BEST, TEST)},
                "epochs": len(run.history),
                "seconds": round(run.seconds, 1),
                "gpu": run.gpu,
                "run_id": run.run_id,
                "folder": str(run.folder),
                "error": run.error,
            }
        )
    return sorted(rows, key=lambda row: (-(row[BEST] or row[TEST] or -1), row["trial"]))


def _without_seed(trial: Trial) -> str:
    """Return a trial's label without its seed's word, which stands where the seed does in the point."""
    if not bare(trial.point):
        return ""
    word, keys = f"s{trial.point.get('seed')}", list(trial.point)
    if keys[0] == "seed":
        return trial.label.removeprefix(word).lstrip()
    if keys[-1] == "seed":
        return trial.label.removesuffix(word).rstrip()
    return trial.label.replace(f" {word} ", " ", 1)
