"""What runs in the processes forked from the warm server: trials, and the jobs that need torch."""

import faulthandler
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from cifar_core.data.sources import load_data
from cifar_core.processes import end_with_parent
from cifar_core.train.numerics import set_up
from cifar_core.train.predict import evaluate, tta_acc
from experiments.cli import UserError, command, exit_codes, one_line, signals, user_mistakes
from experiments.config.compose import compose_saved, composing_from, differences
from experiments.config.settings import SweepSettings
from experiments.config.values import settings
from experiments.files import read_json
from experiments.runs import story
from experiments.runs.names import dated
from experiments.runs.result import Result
from experiments.runs.weights import trained_model
from experiments.sweep.checks import check_space
from experiments.sweep.compared import composed, composed_chosen, conflict, edited
from experiments.sweep.gpus import MPS, listed, names
from experiments.sweep.needs import Needs
from experiments.sweep.origin import unpacked
from experiments.sweep.report import write
from experiments.sweep.space import Files, Space, watches
from experiments.tracking.spool import Spool
from experiments.tracking.sync import sync
from experiments.tracking.views import SWEEP_VIEW_TAG

OF_SWEEPS = ("sweep.", "sweep=")  # words that do nothing in a single run


def run_trial(
    overrides: Sequence[str],
    files: Files,
    folder: Path,
    label: str,
    gpu: str | None,
    threads: int,
) -> None:
    """Run one trial in this process, its output in `trial.log`; the exit code says how it went.

    ``gpu`` is what CUDA_VISIBLE_DEVICES becomes, empty without a GPU, None to leave it; the trial then sees
    one device at most, and `trainer.device=cuda:1` is `cuda` to it. ``threads`` 0 leaves torch's choice.
    """
    os.setsid()  # Ctrl-C is the controller's, and what the trial starts ends with it
    _log_to(folder / "trial.log")
    faulthandler.enable()
    if gpu not in (None, MPS):
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if threads:
        torch.set_num_threads(threads)
    signals.catch()
    with exit_codes():
        with user_mistakes(), unpacked(files) as here, composing_from(here.get("conf")):
            cfg, choices = composed_chosen(overrides, here)
            if gpu and cfg.trainer.device.startswith("cuda:"):
                cfg.trainer.device = "cuda"
            if not watches(overrides):
                cfg.analysis.watch = 0
            differences(cfg)  # reads the default run while it is there, for report and tracker of this one
        with composing_from(here.get("conf")):
            alone = by_itself(overrides, files)
            named = dated(label)
            story.run(cfg, folder, overrides=overrides, name=named, command=alone, choices=choices)


def by_itself(overrides: Sequence[str], files: Files) -> str:
    """Return the command that repeats a trial as a run of its own."""
    named, folder = files["config_name"], files["config_dir"]
    flags = [f"--config-name={named}"] if named != "config" else []
    flags += [f"--config-dir={folder}"] if folder else []
    return command("run", *flags, *(word for word in overrides if not word.lstrip("+").startswith(OF_SWEEPS)))


def _log_to(path: Path) -> None:
    with path.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def check_points(space: Space, options: SweepSettings, files: Files) -> None:
    """Check all points of a new sweep, and then all that they read, which is decoded here once.

    Raises ValueError or FileNotFoundError for a mistake, OSError for what the machine lacks.
    """
    needs = Needs()
    with unpacked(files) as here:
        check_space(space, options, here, see=needs.add)
    needs.check(elsewhere=options.backend != "local")


def check_again(
    space: Space, options: SweepSettings, files: Files, now: Files, trial: tuple[list[str], Path] | None
) -> tuple[str, Exception | None]:
    """Check a sweep that has begun: return what is to be told of it, and why no trial may start, if so.

    ``now`` is what a new sweep would be composed from, ``trial`` the arguments and the folder of one of this.
    Nothing is wrong with a sweep that is over where its pictures are gone. Raises ValueError for points that
    are not in order.
    """
    needs = Needs()
    with unpacked(files) as here:
        check_space(space, options, here, see=needs.add)
        cfg = composed(trial[0], here) if trial else None
    against: Exception | None = None
    try:
        needs.check(elsewhere=options.backend != "local")
        if trial and cfg and (reason := conflict(trial[1], cfg)):
            against = UserError(reason)
    except (ValueError, FileNotFoundError) as error:
        against = UserError(one_line(error))
    except (OSError, MemoryError) as error:
        against = OSError(one_line(error))
    return edited(space, files, now), against


def gpu_names() -> list[str]:
    """Return the names of the GPUs that trials can be given."""
    count = torch.cuda.device_count()
    if not count and torch.backends.mps.is_available():
        return [MPS]
    return names(count, os.environ.get("CUDA_VISIBLE_DEVICES"), listed() if count else "")


def test_trial(folder: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Read the test set with the best weights of a finished run and add the figures to its records.

    Raises FileNotFoundError for weights that are not there, ValueError for other pictures than the run's.
    """
    cfg = compose_saved(folder, overrides)
    options = settings(cfg)
    trainer = options.trainer
    numerics = set_up(trainer)
    data = load_data(options.data).to(numerics.device)
    trained_on = read_json(folder / "environment.json").get("data", data.fingerprint)
    if data.fingerprint != trained_on:
        raise ValueError(
            f"the pictures are no longer those that {folder} was trained on: "
            f"fingerprint {trained_on}, got {data.fingerprint}"
        )
    model, epoch = trained_model(folder, cfg, num_classes=data.num_classes, checkpoint="best")
    model = numerics.place(model)
    metrics = evaluate(model, data, "test", numerics, batch_size=trainer.eval_batch_size)
    metrics |= tta_acc(model, data, "test", numerics, trainer)

    result = Result.read(folder)
    if result is None:
        raise FileNotFoundError(f"{folder} holds no run that has ended")
    result.metrics |= metrics
    result.write(folder)
    if (spool := Spool(folder)).path.exists():
        spool.append("metrics", step=epoch, data=metrics)
    return metrics


def track_sweep(
    folder: Path,
    tracking: dict[str, Any],
    view: str,
    metrics: dict[str, float],
    note: str,
    files: Sequence[Path],
) -> tuple[str | None, str | None]:
    """Enter the sweep itself as a run of kind `sweep`; return its id and the page of all its trials.

    ``view`` is the text of a `SweepView`.
    """
    tags = {"sweep": folder.name, "kind": "sweep", "run_folder": str(folder), SWEEP_VIEW_TAG: view}
    tags |= {"mlflow.source.name": "experiments.run", "mlflow.source.type": "LOCAL"}
    options = {
        key: value for key, value in tracking.items() if key != "system_metrics"
    }  # of its trials alone
    with instantiate(options, out_dir=folder, run_name=f"sweep {folder.name}", tags=tags) as tracker:
        if note:
            tracker.set_note(note)
        if metrics:
            tracker.log_metrics(metrics, step=0)
        for file in files:
            tracker.log_artifacts(file)
    return tracker.run_id, getattr(tracker, "overview", None) or tracker.url


def sync_trials(folder: Path) -> bool:
    """Deliver what the trials could not, close the runs of those that died; return whether all is there."""
    return not any(outcome.failed for outcome in sync([folder], None))


def write_live(folder: Path, total: int) -> float:
    """Write the report of a sweep that runs, out of the way of its trials; return the CPU seconds it took."""
    os.nice(10)
    end_with_parent()
    write(folder, live=True, total=total)
    return time.process_time()


JOBS: dict[str, Callable[..., Any]] = {
    job.__name__: job
    for job in (
        *(check_again, check_points, gpu_names, run_trial, sync_trials, test_trial, track_sweep),
        *(write, write_live),
    )
}
