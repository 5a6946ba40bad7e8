"""Explains a trained run: the analysis folder, and what the tracker gets of it."""

import logging
import time
from typing import Any

from torch import Tensor

from cifar_core.memory import out_of_memory
from cifar_core.report.analyse import analyse
from experiments.cli import one_line
from experiments.config.compose import differences
from experiments.runs import console
from experiments.runs.job import Job
from experiments.runs.result import Result
from experiments.tracking.tracker import Tracker

SHEETS = ("contact_sheet", "correct_sheet", "augmentations")  # pictures in the tracker's image grid
RECORDS = (
    "config.yaml",
    "overrides.yaml",
    "environment.json",
    "metrics.csv",
)  # beside the analysis

log = logging.getLogger(__name__)


def explain(job: Job, logits: dict[str, Tensor], tracker: Tracker, result: Result) -> None:
    """Write the analysis folder and hand the run's files to the tracker; a failure in it is a warning.

    ``logits`` (N, K) are those of the best weights, by split.
    """
    began = time.perf_counter()
    try:
        if job.settings.analysis.level != "none":  # what its report tells would be looked up for nothing
            _analyse(job, logits, result)
    except Exception as error:  # the training is done and good, whatever its pictures do
        told = out_of_memory(error) or isinstance(error, OSError)  # of the machine: a traceback says no more
        log.warning("the analysis failed: %s", one_line(error), exc_info=not told)
        result.analysis_error = one_line(error)
    for sheet in SHEETS:
        if (path := job.folder.analysis / f"{sheet}.png").exists():
            tracker.log_image(path, key=sheet, step=0)  # the same in all runs: side by side
    analysed = [path for path in sorted(job.folder.analysis.glob("*")) if path.stem not in SHEETS]
    for path in (*analysed, *(job.folder.path / name for name in RECORDS)):
        if path.exists():
            tracker.log_artifacts(path)
    tracker.set_note(
        console.note(
            job.folder, result, job.cfg, tested=len(job.data.test), command=job.environment["command_line"]
        )
    )
    result.seconds["analysis"] = time.perf_counter() - began


def _analyse(job: Job, logits: dict[str, Tensor], result: Result) -> None:
    analyse(
        job.state.best_model,
        job.data,
        job.explained,
        logits[job.explained].cpu(),
        settings=job.settings.analysis,
        cam_layer=job.cfg.model.get("cam_layer", ""),
        augment=job.augment,
        history=job.history,
        out_dir=job.folder.analysis,
        val_logits=logits["val"].cpu() if "val" in logits else None,
        facts=_facts(job, result),
    )


def _facts(job: Job, result: Result) -> dict[str, Any]:
    """Return what the report says of the run beside its figures."""
    return {
        "name": job.environment["name"],
        "command": job.environment["command_line"],
        "environment": job.environment,
        "config": job.values,
        "differences": differences(job.cfg),
        "seconds": result.seconds,
        "protocol": result.protocol,
        "expected": job.values.get("expected"),
    }
