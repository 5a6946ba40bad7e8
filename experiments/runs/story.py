"""The story of one run, from a configuration to its report."""

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from cifar_core.data.sources import load_data
from cifar_core.explain.metrics import confusion_matrix, remarks
from cifar_core.history import Row, best_epoch, best_row
from cifar_core.memory import TRAINING, memory_explained, out_of_memory
from cifar_core.train.compiled import cannot_compile
from cifar_core.train.loop import train
from cifar_core.train.numerics import indeterminate
from cifar_core.train.predict import balanced_acc, predict, score, tta_acc
from cifar_core.train.settings import TrainerSettings
from experiments.cli import GuardStop, UserError, one_line, signals, user_mistakes
from experiments.config import build
from experiments.config.compose import compose_saved
from experiments.config.mirrors import mirrored_signs
from experiments.config.values import plain, settings, with_constants
from experiments.config.words import is_place
from experiments.files import read_json
from experiments.runs import console
from experiments.runs.beginning import first_line
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.environment import environment, gpu
from experiments.runs.explain import explain
from experiments.runs.folder import RunFolder
from experiments.runs.job import Job, set_up
from experiments.runs.names import longer_name, without_seed
from experiments.runs.origin import longer, requested
from experiments.runs.params import NO_CHOICES, params
from experiments.runs.result import ANALYSING, Result, recorded
from experiments.tracking.tracker import Tracker

log = logging.getLogger(__name__)


def run(
    cfg: DictConfig,
    out_dir: Path,
    *,
    overrides: Sequence[str] = (),
    name: str = "",
    command: str = "",
    choices: Mapping[str, str] = NO_CHOICES,
    begun: bool = False,
) -> float:
    """Train, test and explain one configuration in ``out_dir``; return the best validation accuracy.

    Without a validation split (`data.val_size=0`) that is the last test accuracy. An unfinished run of the
    same configuration goes on from its last checkpoint; a finished one stays as it is. ``name`` is what the
    run is called, ``command`` what repeats it where that is not this process's own, ``choices`` the option
    of each group; where it has ``begun``, its first line was said. Sets torch's global seed, thread count and
    matrix precision. Raises UserError where configuration, data and folder do not fit together; a folder that
    was empty is then removed again. What ends an unfinished run carries, as a note, the line that takes it
    up.
    """
    folder, cfg = RunFolder(out_dir), with_constants(cfg)
    with user_mistakes():
        folder.open()
    with folder:
        earlier = Result.read(folder.path)
        if earlier and earlier.done:
            with user_mistakes():
                _check_same(with_constants(cfg, *folder.constants), folder)
            log.info("\n".join(console.done(folder, earlier, cfg)))
            return earlier.value or 0.0
        with user_mistakes():
            folder.claim(plain(with_constants(cfg, *folder.constants)), overrides)
        log.info(first_line(cfg, folder.path), extra={"told": begun})
        try:
            with recorded(folder.path) as result, memory_explained(TRAINING), _options_explained():
                given = {"name": name or folder.path.name, "command_line": command, "choices": dict(choices)}
                _run(cfg, folder, result, overrides, given)
        except BaseException as error:
            if isinstance(error, UserError | OSError):
                folder.discard()
            if (folder.path / "config.yaml").exists():
                ignorable = isinstance(error, GuardStop) and not error.hopeless
                error.add_note(console.go_on(folder, cfg, stopped_by_guard=ignorable))
            raise
        return result.value or 0.0


def resume(folder: Path, overrides: Sequence[str]) -> float:
    """Take up the run in ``folder`` with its saved configuration; ``overrides`` may change harmless keys.

    A finished run for which they name more `trainer.epochs` is trained longer, in a folder of its own.
    """
    with user_mistakes():
        cfg = compose_saved(folder, [word for word in overrides if not is_place(word)])
        new = longer(folder, cfg, overrides)
        if new is None and any(map(is_place, overrides)):
            raise ValueError(
                "hydra.run.dir is for a finished run that is trained longer: resume= names the folder"
            )
    if new is None:
        return run(cfg, folder, begun=True)
    name, choices = longer_name(folder, overrides), read_json(folder / "environment.json").get("choices", {})
    return run(new[0], new[1].path, overrides=requested(folder, overrides), name=name, choices=choices)


def _check_same(cfg: DictConfig, folder: RunFolder) -> None:
    """Raise ValueError where a finished run is another than the one asked for."""
    folder.compare(plain(cfg))
    if str(cfg.data.root) != str(folder.saved()["data"]["root"]):  # moved, or others
        now = load_data(settings(cfg).data).fingerprint
        before = read_json(folder.path / "environment.json").get("data")
        if now != before:
            raise ValueError(
                f"{folder.path} holds a run on other pictures than those in data.root={cfg.data.root}: "
                f"fingerprint {before}, got {now}"
            )


def _run(
    cfg: DictConfig, folder: RunFolder, result: Result, overrides: Sequence[str], given: dict[str, Any]
) -> None:
    began = time.perf_counter()
    job = set_up(cfg, folder, overrides)
    cfg = job.cfg
    earlier = max(result.spent, sum(row["seconds"] for row in job.history))
    result.protocol = job.protocol
    _describe(job, given)
    job.guards.check_start(job.state, job.augment)

    commit = (job.environment["git"] or {}).get("commit", "")
    name = job.environment["name"]
    point = without_seed(name, cfg.seed)
    with build.tracker(cfg, folder.path, name, result.protocol, commit=commit, point=point) as tracker:
        if getattr(tracker, "records", True):  # a tracker of one's own that does not say so does
            tracker.log_params(params(cfg, job.environment["choices"], folder.words()))
        tracker.log_dataset(job.data.source, job.data.fingerprint, str(cfg.data.root), "training")
        with signals.deferred(), _peak_memory_noted(job), _last_epoch_kept(job.checkpoints):
            _train(job, tracker, result)
        result.epochs = int(job.history[-1]["epoch"])
        result.seconds["train"] = sum(row["seconds"] for row in job.history)
        if result.status == "pruned":
            best = best_row(job.history)
            result.metrics = {f"{key}_best": best[key] for key in ("val/acc", "val/loss")}
            tracker.log_metrics(result.metrics, step=best_epoch(job.history))
        else:
            job.checkpoints.load_best(job.state.best_model, best_epoch(job.history))
            result.metrics, logits = _test(job)
            result.remarks = _remarks(job, logits)
            tracker.log_metrics(result.metrics, step=best_epoch(job.history))
            # Before anything is drawn: whatever the pictures do to this process, the figures are safe.
            dataclasses.replace(result, status=ANALYSING, run_id=tracker.run_id).write(folder.path)
            explain(job, logits, tracker, result)
        tracker.set_tags({"status": result.status})
    result.run_id = tracker.run_id
    result.seconds["total"] = earlier + time.perf_counter() - began
    job.checkpoints.tidy(job.settings.trainer.keep)
    tested, card = len(job.data.test), job.environment["gpu"]
    log.info("\n".join(console.closing(folder, result, cfg, tested=tested, tracker=tracker, card=card)))


def _describe(job: Job, given: dict[str, Any]) -> None:
    """Show what the run is made of; write environment.json with what its beginning was ``given``."""
    for line in console.opening(job.state, job.data):
        log.info(line)
    if note := mirrored_signs(job.values, job.data.source, job.data.classes):
        log.warning("note: %s", note)
    if job.protocol == "test_each_epoch":
        log.warning(
            "no validation split: the test set is evaluated each epoch, so its figure is not a fair one"
        )
    if job.settings.trainer.compile and job.state.numerics.device.type == "cpu":
        log.warning("trainer.compile gains nothing on a CPU, where it only adds the time of compiling")
    first: dict[str, Any] = {}
    with suppress(OSError):
        first = read_json(job.folder.path / "environment.json")
    first = given | first
    job.environment = environment(first["command_line"]) | {
        "name": first["name"],
        "choices": first["choices"],
        "device": str(job.state.numerics),
        "gpu": gpu(job.state.numerics.device, first.get("gpu")),
        "seed": job.cfg.seed,
        "data": job.data.fingerprint,
        "classes": list(job.data.classes),
    }
    job.folder.write_json("environment.json", job.environment)


def _train(job: Job, tracker: Tracker, result: Result) -> None:
    """Train to the end; after each epoch log it, guard it, keep the best, checkpoint, draw."""
    settings = job.settings.trainer
    if _is_over(job.history, settings):  # the run was stopped after its last epoch
        return
    result.metrics = {}  # of an earlier attempt whose checkpoints are lost
    job.watch.look(tracker, settings.epochs)
    for epoch in train(
        job.state, job.data, job.augment, settings, mix=job.mix, between_batches=signals.check
    ):
        job.history.append(epoch.row)
        job.folder.append(job.history[-1])
        tracker.log_metrics(epoch.metrics | {"lr": epoch.lr, "seconds": epoch.seconds}, step=epoch.epoch)
        log.info(console.epoch_line(epoch, settings.epochs))
        job.guards.check_epoch(job.state, epoch, job.history)
        over = _is_over(job.history, settings) or _is_pruned(job.folder, result)
        is_best = best_epoch(job.history) == epoch.epoch and ("val/acc" in epoch.metrics or over)
        job.checkpoints.keep(job.state, job.history, is_best=is_best, over=over)
        job.watch.look(tracker, settings.epochs, epoch, over=over)
        if over:
            break


def _is_over(history: Sequence[Row], settings: TrainerSettings) -> bool:
    """Tell whether the last epoch was reached, or `trainer.early_stop` epochs without a better one."""
    if not history:
        return False
    if 0 < settings.early_stop <= history[-1]["epoch"] - best_epoch(history):
        log.info("stops early: no better epoch since epoch %d", best_epoch(history))
        return True
    return history[-1]["epoch"] >= settings.epochs


def _is_pruned(folder: RunFolder, result: Result) -> bool:
    """Tell whether a sweep has left a `stop` file, which ends the run after this epoch as pruned."""
    if (folder.path / "stop").exists():
        (folder.path / "stop").unlink()
        result.status = "pruned"
        log.info("pruned by its sweep")
    return result.status == "pruned"


@contextmanager
def _peak_memory_noted(job: Job) -> Iterator[None]:
    """Write the most of a GPU's memory that this or an earlier attempt has taken to environment.json."""
    device, card = job.state.numerics.device, job.environment["gpu"]
    if card is None:
        yield
        return
    torch.cuda.reset_peak_memory_stats(device)  # of another run in this process
    try:
        yield
    finally:
        card["peak_memory"] = max(torch.cuda.max_memory_allocated(device), card["peak_memory"] or 0)
        with suppress(OSError):  # a full disk is perhaps what ended the training
            job.folder.write_json("environment.json", job.environment)


@contextmanager
def _last_epoch_kept(checkpoints: Checkpoints) -> Iterator[None]:
    """Keep the last finished epoch when a signal, a guard or an error ends the training."""
    try:
        yield
    except KeyboardInterrupt:
        checkpoints.save_unsaved()
        raise
    except Exception:
        with suppress(OSError):  # a full disk is perhaps what ended the training
            checkpoints.save_unsaved()
        raise


@contextmanager
def _options_explained() -> Iterator[None]:
    """Name the option that this network or this machine does not go with."""
    try:
        yield
    except RuntimeError as error:
        if operation := indeterminate(error):
            law = f"must be false where {operation} is used, which has no deterministic form on this device"
            raise UserError(f"trainer.deterministic {law}, got true") from error
        if cannot_compile(error) and not out_of_memory(error):
            law = "must be false here, as torch cannot compile this network on this machine"
            raise UserError(f"trainer.compile {law}: {one_line(error)[:200]}") from error
        raise


def _remarks(job: Job, logits: dict[str, Tensor]) -> list[str]:
    """Say what the accuracy of the split that the run is judged on hides."""
    labels = getattr(job.data, job.explained).labels
    counts = confusion_matrix(labels, logits[job.explained].argmax(1), job.data.num_classes)
    return remarks(counts, job.data.classes)


def _test(job: Job) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the figures of the best weights, and their logits (N, K) by split."""
    model, numerics, settings = job.state.best_model, job.state.numerics, job.settings.trainer
    logits: dict[str, Tensor] = {}
    metrics: dict[str, float] = {}
    for split in ("val", "test"):
        pictures = getattr(job.data, split)
        if len(pictures) and split in ("val", job.explained):
            logits[split] = predict(
                model,
                job.data,
                pictures,
                numerics,
                batch_size=settings.eval_batch_size,
                compile=settings.compile,
            )
            suffix = "_best" if split == "val" else ""
            preds = logits[split].argmax(1)
            scores = score(logits[split], pictures.labels, split)
            scores[f"{split}/balanced_acc"] = balanced_acc(preds, pictures.labels)
            metrics |= {f"{key}{suffix}": value for key, value in scores.items()}
            metrics |= tta_acc(model, job.data, split, numerics, settings)
    return metrics, logits
