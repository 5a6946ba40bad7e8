"""What runs in the processes forked from the warm server: trials, and the jobs that need torch."""

import faulthandler
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def run_trial(
    overrides: Sequence[str],
    files: dict[str, str | None],
    folder: Path,
    label: str,
    gpu: str | None,
    threads: int,
) -> None:
    """Run one trial in this process, its output in `trial.log`; the exit code says how it went.

    ``gpu`` is what CUDA_VISIBLE_DEVICES becomes, None to leave it; ``threads`` 0 leaves torch's choice.
    """
    import torch

    from experiments.cli import exit_codes, signals, user_mistakes
    from experiments.config.compose import compose
    from experiments.runs.story import run

    os.setsid()  # Ctrl-C is the controller's, and what the trial starts ends with it
    _log_to(folder / "trial.log")
    faulthandler.enable()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if threads:
        torch.set_num_threads(threads)
    signals.catch()
    with exit_codes():
        with user_mistakes():
            cfg = compose(overrides, **files)
        run(cfg, folder, overrides=overrides, name=label)


def overtime(seconds: float) -> str:
    """Return why a trial was ended after so many seconds."""
    return f"sweep.timeout: longer than {seconds:g} s"


def _log_to(path: Path) -> None:
    with path.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def gpu_count() -> int:
    """Return the number of GPUs that torch sees."""
    import torch

    return torch.cuda.device_count()


def test_trial(folder: Path) -> dict[str, float]:
    """Read the test set with the best weights of a finished run and add the figures to its records."""
    from cifar_core.data.sources import load_data
    from cifar_core.train import checkpoint
    from cifar_core.train.numerics import numerics
    from cifar_core.train.predict import evaluate, tta_acc
    from experiments.config import build
    from experiments.config.compose import compose_saved
    from experiments.config.values import settings
    from experiments.runs.folder import RunFolder
    from experiments.tracking.spool import Spool

    cfg = compose_saved(folder, [])
    options = settings(cfg)
    where = numerics(options["trainer"])
    data = load_data(options["data"]).to(where.device)
    model = where.place(build.model(cfg, num_classes=data.num_classes))
    best = checkpoint.load(folder / "best.pt")
    model.load_state_dict(best["model"])
    trainer = options["trainer"]
    metrics = evaluate(model, data, "test", where, batch_size=trainer.eval_batch_size)
    metrics |= tta_acc(model, data, "test", where, trainer)

    run_folder = RunFolder(folder)
    result = run_folder.result() or {}
    run_folder.write_json("result.json", result | {"metrics": result["metrics"] | metrics})
    if (spool := Spool(folder)).path.exists():
        spool.append("metrics", step=best["epoch"], data=metrics)
    return metrics


def track_sweep(
    folder: Path, tracking: dict[str, Any], metrics: dict[str, float], note: str, files: Sequence[Path]
) -> tuple[str | None, str | None]:
    """Enter the sweep itself as a run of kind `sweep`; return its id and the page of all its trials."""
    from hydra.utils import instantiate

    from experiments.tracking.mlflow_store import tagged_runs_page

    tags = {"sweep": folder.name, "kind": "sweep", "run_folder": str(folder)}
    with instantiate(tracking, out_dir=folder, run_name=f"sweep {folder.name}", tags=tags) as tracker:
        if note:
            tracker.set_note(note)
        if metrics:
            tracker.log_metrics(metrics, step=0)
        for file in files:
            tracker.log_artifacts(file)
    page = tagged_runs_page(tracker.url, "sweep", folder.name) if tracker.url else None
    return tracker.run_id, page


def sync_trials(folder: Path) -> bool:
    """Deliver what the trials could not, close the runs of those that died; return whether all is there."""
    from experiments import sync

    with redirect_stdout(io.StringIO()):
        return sync.main([str(folder)]) == 0
