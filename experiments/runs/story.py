"""One run, from a configuration to its report, and the command line that starts it.

torch is imported inside the functions: `--help`, `--cfg job` and a mistyped key must not wait for it.
"""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from cifar_core.data.split import Data
from cifar_core.history import Row, best_epoch
from cifar_core.report.analyse import analyse
from cifar_core.report.settings import AnalysisSettings
from cifar_core.train.loop import EpochResult, train
from cifar_core.train.predict import predict, score, tta_acc
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.state import TrainState
from experiments.cli import one_line, signals, user_mistakes
from experiments.config import build
from experiments.config.compose import compose_saved, differences
from experiments.config.values import plain, settings
from experiments.runs import console
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.environment import environment
from experiments.runs.folder import DONE, RunFolder
from experiments.runs.result import recorded
from experiments.runs.watch import Watch

log = logging.getLogger(__name__)

RECORDS = (
    "config.yaml",
    "overrides.yaml",
    "environment.json",
    "metrics.csv",
)  # artifacts beside the analysis


def run(cfg: DictConfig, out_dir: Path, *, overrides: Sequence[str] = (), name: str = "") -> float:
    """Train, test and explain one configuration in ``out_dir``; return the best validation accuracy.

    Without a validation split (`data.val_size=0`) that is the last test accuracy. An unfinished run of the
    same configuration goes on from its last checkpoint; a finished one stays as it is. ``name`` is the run's
    name in the tracker. Sets torch's global seed, thread count and matrix precision. Raises UserError where
    configuration, data or folder do not fit together; a folder that was empty is then removed again.
    """
    folder = RunFolder(out_dir)
    with user_mistakes():
        folder.open()
    with folder:
        result = folder.result()
        if result and result["status"] in DONE:
            log.info("%s is %s already; nothing to do", folder.path, result["status"])
        else:
            with user_mistakes():
                folder.claim(plain(cfg), overrides)
            with recorded(folder) as result:
                _run(cfg, folder, result, name or folder.path.name)
        return result["metrics"].get("val/acc_best", result["metrics"].get("test/acc", 0.0))


@dataclass
class Job:
    """Everything one run works with."""

    cfg: DictConfig
    folder: RunFolder
    trainer: TrainerSettings
    analysis: AnalysisSettings
    state: TrainState
    data: Data
    augment: Any
    mix: Any
    checkpoints: Checkpoints
    watch: Watch
    history: list[Row]  # of all epochs, those before a resume included


def _run(cfg: DictConfig, folder: RunFolder, result: dict[str, Any], name: str) -> None:
    began = time.perf_counter()
    job = _set_up(cfg, folder)
    result["protocol"] = _protocol(job)
    _describe(job)
    job.watch.check_start(job.state, job.augment)

    commit = (_environment(job)["git"] or {}).get("commit", "")
    with build.tracker(cfg, folder.path, name, result["protocol"], commit) as tracker:
        tracker.log_params(plain(cfg))
        tracker.log_dataset(job.data.source, job.data.fingerprint, str(cfg.data.root), "training")
        with signals.deferred(), _last_epoch_kept(job.checkpoints):
            _train(job, tracker, result)
        result["epochs"] = len(job.history)
        result["seconds"]["train"] = sum(row["seconds"] for row in job.history)
        if result["status"] == "pruned":
            best = job.history[best_epoch(job.history) - 1]
            result["metrics"] = {f"{key}_best": best[key] for key in ("val/acc", "val/loss")}
        else:
            job.checkpoints.load_best(job.state.best_model, best_epoch(job.history))
            result["metrics"], logits = _test(job)
            _explain(job, logits, tracker, result)
        tracker.log_metrics(result["metrics"], step=best_epoch(job.history))
        tracker.set_tags({"status": result["status"]})
    result["run_id"] = tracker.run_id
    result["seconds"]["total"] = time.perf_counter() - began
    job.checkpoints.tidy(job.trainer.keep)
    log.info("\n".join(console.closing(folder, result, job.data, tracker.uri, plain(cfg).get("expected"))))


def _protocol(job: Job) -> str:
    """Return what the run's figures stand for: who saw which pictures when."""
    if len(job.data.val):
        return "validation"
    return "test_each_epoch" if job.trainer.evaluate == "each_epoch" else "test_once"


def _train(job: Job, tracker: Any, result: dict[str, Any]) -> None:
    """Train to the end; after each epoch log it, guard it, keep the best, checkpoint."""
    if _over(job.history, job.trainer):  # the run was stopped after its last epoch
        return
    for epoch in train(
        job.state, job.data, job.augment, job.trainer, mix=job.mix, between_batches=signals.check
    ):
        job.history.append(_row(epoch))
        job.folder.append(job.history[-1])
        tracker.log_metrics(epoch.metrics | {"lr": epoch.lr, "seconds": epoch.seconds}, step=epoch.epoch)
        log.info(console.epoch_line(epoch, job.trainer.epochs))
        job.watch.check_epoch(job.state, epoch, job.history)
        over = _over(job.history, job.trainer) or _is_pruned(job.folder, result)
        is_best = best_epoch(job.history) == epoch.epoch and ("val/acc" in epoch.metrics or over)
        job.checkpoints.keep(job.state, job.history, is_best=is_best, over=over)
        if over:
            break


def _set_up(cfg: DictConfig, folder: RunFolder) -> Job:
    """Build all parts and take up the last checkpoint if there is one."""
    options = settings(cfg)
    trainer = options["trainer"]
    with user_mistakes():
        resumes = folder.last.exists() or folder.previous.exists()
        built = build.training(cfg, resumes=resumes)
        checkpoints = _checkpoints(cfg, folder, built.data)
        history = checkpoints.resume(built.state)
        if resumes and not history:  # no checkpoint could be read
            built = build.training(cfg)
        state, data = built.state, built.data
        if options["analysis"].level != "none":
            build.cam_module(cfg, state.model, data.image_size)
        if trainer.compile:
            state.model.compile()
    checkpoints.check_space(state)
    folder.write_history(history)
    watch = Watch(trainer, data, mixes=built.mix is not None)
    return Job(
        cfg=cfg,
        folder=folder,
        trainer=trainer,
        analysis=options["analysis"],
        state=state,
        data=data,
        augment=built.augment,
        mix=built.mix,
        checkpoints=checkpoints,
        watch=watch,
        history=history,
    )


def _checkpoints(cfg: DictConfig, folder: RunFolder, data: Data) -> Checkpoints:
    identity = {"config": folder.identity, "data": data.fingerprint}
    return Checkpoints(folder, identity, every_seconds=cfg.trainer.checkpoint_seconds)


@contextmanager
def _last_epoch_kept(checkpoints: Checkpoints) -> Iterator[None]:
    """Keep the last finished epoch when a signal ends the training, and explain a lack of memory."""
    try:
        yield
    except KeyboardInterrupt:
        checkpoints.save_unsaved()
        raise
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise MemoryError(
            "out of memory: use a smaller trainer.batch_size with a larger trainer.accumulate, "
            f"trainer.precision=bf16, or a smaller model ({one_line(error)[:200]})"
        ) from error


def _describe(job: Job) -> None:
    for line in console.opening(job.cfg, job.folder, job.state, job.data):
        log.info(line)
    if _protocol(job) == "test_each_epoch":
        log.warning(
            "no validation split: the test set is evaluated each epoch, so its figure is not a fair one"
        )
    facts: dict[str, Any] = {"device": str(job.state.numerics), "seed": job.cfg.seed}
    facts |= {"data": job.data.fingerprint, "classes": list(job.data.classes)}
    job.folder.write_json("environment.json", environment() | facts)


def _over(history: Sequence[Row], trainer: Any) -> bool:
    """Tell whether the last epoch was reached, or `trainer.early_stop` epochs without a better one."""
    if history and 0 < trainer.early_stop <= len(history) - best_epoch(history):
        log.info("stops early: no better epoch since epoch %d", best_epoch(history))
        return True
    return len(history) >= trainer.epochs


def _is_pruned(folder: RunFolder, result: dict[str, Any]) -> bool:
    """Tell whether a sweep has left a `stop` file, which ends the run after this epoch as pruned."""
    if (folder.path / "stop").exists():
        (folder.path / "stop").unlink()
        result["status"] = "pruned"
        log.info("pruned by its sweep")
    return result["status"] == "pruned"


def _test(job: Job) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Return the figures of the best weights, and their logits (N, K) by split."""
    state, batch_size = job.state, job.trainer.eval_batch_size
    logits, metrics = {}, {}
    for split in ("val", "test"):
        pictures = getattr(job.data, split)
        if len(pictures) and split in ("val", explained(job.trainer, job.data)):
            logits[split] = predict(
                state.best_model, job.data, pictures, state.numerics, batch_size=batch_size
            )
            suffix = "_best" if split == "val" else ""
            scores = score(logits[split], pictures.labels, split)
            metrics |= {f"{key}{suffix}": value for key, value in scores.items()}
            metrics |= tta_acc(state.best_model, job.data, split, state.numerics, job.trainer)
    return metrics, logits


def explained(trainer: Any, data: Data) -> str:
    """Return the split to analyse: test, unless the run must not read it and has another."""
    return "test" if trainer.test or not len(data.val) else "val"


def _explain(job: Job, logits: dict[str, torch.Tensor], tracker: Any, result: dict[str, Any]) -> None:
    """Write the analysis folder and hand the run's files to the tracker; a failure in it is a warning."""
    began = time.perf_counter()
    try:
        _analyse(job, logits, result)
    except Exception as error:  # the training is done and good, whatever its pictures do
        log.warning("the analysis failed: %s", one_line(error), exc_info=True)
        result["analysis_error"] = one_line(error)
    for sheet in ("contact_sheet", "correct_sheet", "augmentations"):
        if (path := job.folder.analysis / f"{sheet}.png").exists():
            tracker.log_image(path, key=sheet, step=best_epoch(job.history))
    for path in (job.folder.analysis, *(job.folder.path / name for name in RECORDS)):
        if path.exists():
            tracker.log_artifacts(path)
    command, expected = _environment(job)["command_line"], plain(job.cfg).get("expected")
    tracker.set_note(console.note(job.folder, result, job.data, command, expected))
    result["seconds"]["analysis"] = time.perf_counter() - began


def _analyse(job: Job, logits: dict[str, torch.Tensor], result: dict[str, Any]) -> None:
    split = explained(job.trainer, job.data)
    # Hooks, which Grad-CAM needs, do not reach into a compiled model.
    eager = torch.compiler.set_stance("force_eager") if job.trainer.compile else nullcontext()
    with eager:
        analyse(
            job.state.best_model,
            job.data,
            split,
            logits[split].cpu(),
            settings=job.analysis,
            cam_layer=job.cfg.model.get("cam_layer", ""),
            augment=job.augment,
            history=job.history,
            out_dir=job.folder.analysis,
            val_logits=logits["val"].cpu() if "val" in logits else None,
            facts=_facts(job, result),
        )


def _environment(job: Job) -> dict[str, Any]:
    return json.loads((job.folder.path / "environment.json").read_text())


def _facts(job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """Return what the report tells of the run beside its figures."""
    environment = _environment(job)
    return {
        "name": job.folder.path.name,
        "command": environment["command_line"],
        "environment": environment,
        "config": plain(job.cfg),
        "differences": differences(job.cfg),
        "seconds": result["seconds"],
        "protocol": result["protocol"],
        "expected": plain(job.cfg).get("expected"),
    }


def _row(epoch: EpochResult) -> Row:
    pace = {"seconds": epoch.seconds, "images_per_second": epoch.images_per_second}
    return {"epoch": epoch.epoch, "step": epoch.step, **epoch.metrics, "lr": epoch.lr, **pace}


def resume(folder: Path, overrides: Sequence[str]) -> float:
    """Take up the run in ``folder`` with its saved configuration; ``overrides`` may change harmless keys."""
    with user_mistakes():
        cfg = compose_saved(folder, overrides)
    return run(cfg, folder)
