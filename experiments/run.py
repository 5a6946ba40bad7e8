"""One run, from a configuration to its report, and the command line that starts it.

torch is imported inside the functions: `--help`, `--cfg job` and a mistyped key must not wait for it.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import UserError, catch_signals, exit_codes, one_line, user_mistakes
from experiments.compose import CONF, compose, explain, plain, settings
from experiments.run_folder import DONE, RunFolder
from experiments.tracking import ui_hint

if TYPE_CHECKING:
    from cifar_core.data import Data
    from cifar_core.train import EpochResult, TrainState

log = logging.getLogger(__name__)

Row = dict[str, float]  # one epoch, as in metrics.csv


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
            with _recorded(folder) as result:
                _run(cfg, folder, result, name or folder.path.name)
        return result["metrics"].get("val/acc_best", result["metrics"].get("test/acc", 0.0))


def _run(cfg: DictConfig, folder: RunFolder, result: dict[str, Any], name: str) -> None:
    from cifar_core.train import train
    from experiments import parts

    began = time.perf_counter()
    options = settings(cfg)
    with user_mistakes():
        state, data = _set_up(cfg, options)
        augment, mix = parts.augment(cfg), parts.mix(cfg, num_classes=data.num_classes)
    history = _resume(folder, state)
    result["protocol"] = "validation" if len(data.val) else "test_each_epoch"
    _describe(cfg, folder, state, data)

    with parts.tracker(cfg, folder.path, name, result["protocol"]) as tracker:
        tracker.log_params(plain(cfg))
        tracker.log_dataset(data.source, data.fingerprint, str(cfg.data.root), "training")
        for epoch in train(state, data, augment, options["trainer"], mix=mix):
            history.append({"epoch": epoch.epoch, **epoch.metrics, "lr": epoch.lr, "seconds": epoch.seconds})
            folder.append(history[-1])
            tracker.log_metrics(epoch.metrics | {"lr": epoch.lr, "seconds": epoch.seconds}, step=epoch.epoch)
            log.info(_epoch_line(epoch, options["trainer"].epochs))
            over = _over(history, options["trainer"])
            _keep(cfg, folder, state, data, history, over=over)
            if over:
                break
        result["epochs"] = len(history)
        result["seconds"]["train"] = sum(row["seconds"] for row in history)
        result["metrics"], logits = _test(folder, state, data, history, options["trainer"])
        tracker.log_metrics(result["metrics"], step=best_epoch(history))
        result["seconds"] |= _explain(cfg, folder, state, data, augment, history, logits, tracker)
    result["run_id"] = tracker.run_id
    result["seconds"]["total"] = time.perf_counter() - began
    _tidy(folder, options["trainer"].keep)
    log.info(_summary(folder, result, data, tracker.uri))


def best_epoch(history: Sequence[Row]) -> int:
    """Return the epoch (from 1) of the best validation accuracy, the first of equals; without any the last."""
    accs = [row.get("val/acc", row["epoch"]) for row in history]
    return accs.index(max(accs)) + 1


def _set_up(cfg: DictConfig, options: dict[str, Any]) -> "tuple[TrainState, Data]":
    """Return the state before the first epoch and the data, both on the run's device."""
    import torch

    from cifar_core.data import load_data
    from cifar_core.numerics import numerics
    from cifar_core.train import start, steps_per_epoch
    from experiments import parts

    trainer = options["trainer"]
    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    torch.set_float32_matmul_precision("high")
    where = numerics(trainer)
    data = load_data(options["data"]).to(where.device)
    torch.manual_seed(cfg.seed)
    model = where.place(parts.model(cfg, num_classes=data.num_classes))
    if options["analysis"].level != "none":
        parts.cam_module(cfg, model, data.image_size)
    if trainer.compile:
        model.compile()
    optimizer = parts.optimizer(cfg, model.named_parameters())
    steps = steps_per_epoch(len(data.train), trainer)
    scheduler = parts.scheduler(cfg, optimizer, steps_per_epoch=steps)
    state = start(model, optimizer, scheduler, numerics=where, seed=cfg.seed, ema_decay=trainer.ema_decay)
    return state, data


def _resume(folder: RunFolder, state: "TrainState") -> list[Row]:
    """Take up the last checkpoint, if there is one; return the epochs before it."""
    from cifar_core import checkpoint

    history: list[Row] = []
    if folder.last.exists():
        saved = checkpoint.load(folder.last, state.numerics.device)
        state.load_state_dict(saved["state"])
        history = saved["history"]
        log.info("goes on after epoch %d of %s", state.epoch, folder.path)
    folder.write_history(history)
    return history


def _describe(cfg: DictConfig, folder: RunFolder, state: "TrainState", data: "Data") -> None:
    from experiments.environment import environment

    parameters = sum(p.numel() for p in state.model.parameters())
    sizes = " / ".join(f"{len(getattr(data, split)):,} {split}" for split in ("train", "val", "test"))
    log.info("run folder  %s", folder.path)
    log.info("data        %s: %s, %d classes", data.source, sizes, data.num_classes)
    log.info("model       %s, %s parameters", cfg.model._target_.rpartition(".")[2], f"{parameters:,}")
    log.info("device      %s", state.numerics)
    if not len(data.val):
        log.warning(
            "no validation split: the test set is evaluated each epoch, so its figure is not a fair one"
        )
    facts = {"device": str(state.numerics), "seed": cfg.seed, "data": data.fingerprint}
    folder.write_json("environment.json", environment() | facts)


def _over(history: Sequence[Row], trainer: Any) -> bool:
    """Tell whether the last epoch was reached, or `trainer.early_stop` epochs without a better one."""
    if 0 < trainer.early_stop <= len(history) - best_epoch(history):
        log.info("stops early: no better epoch since epoch %d", best_epoch(history))
        return True
    return len(history) >= trainer.epochs


def _keep(
    cfg: DictConfig, folder: RunFolder, state: "TrainState", data: "Data", history: list[Row], *, over: bool
) -> None:
    """Write best.pt after a new best epoch and last.pt when it is due."""
    from cifar_core import checkpoint

    epoch = len(history)
    if best_epoch(history) == epoch and (len(data.val) or over):
        weights = {"model": state.best_model.state_dict(), "epoch": epoch, "classes": list(data.classes)}
        checkpoint.save(folder.best, weights)
    if over or folder.seconds_since_last() >= cfg.trainer.checkpoint_seconds:
        checkpoint.save(folder.last, {"state": state.state_dict(), "history": history})


def _test(
    folder: RunFolder, state: "TrainState", data: "Data", history: Sequence[Row], trainer: Any
) -> tuple[dict[str, float], Any]:
    """Return the run's figures with the best weights, and the logits (N, K) of the split they explain."""
    from cifar_core import checkpoint
    from cifar_core.train import predict, score

    state.best_model.load_state_dict(checkpoint.load(folder.best, state.numerics.device)["model"])
    best = history[best_epoch(history) - 1]
    metrics = {f"{key}_best": best[key] for key in ("val/acc", "val/loss") if key in best}
    split = explained(trainer, data)
    logits = predict(
        state.best_model, data, getattr(data, split), state.numerics, batch_size=trainer.eval_batch_size
    )
    if split == "test":
        metrics |= score(logits, data.test.labels, "test")
    return metrics, logits


def explained(trainer: Any, data: "Data") -> str:
    """Return the split to analyse: test, unless the run must not read it and has another."""
    return "test" if trainer.test or not len(data.val) else "val"


def _explain(
    cfg: DictConfig,
    folder: RunFolder,
    state: "TrainState",
    data: "Data",
    augment: Any,
    history: list[Row],
    logits: Any,
    tracker: Any,
) -> dict[str, float]:
    """Write the analysis folder, hand the run's files to the tracker and return the seconds it took."""
    from cifar_core.analysis.analyse import analyse

    began = time.perf_counter()
    options = settings(cfg)
    analyse(
        state.best_model,
        data,
        explained(options["trainer"], data),
        logits.cpu(),
        settings=options["analysis"],
        cam_layer=cfg.model.get("cam_layer", ""),
        augment=augment,
        history=history,
        out_dir=folder.analysis,
    )
    for sheet in ("contact_sheet", "correct_sheet", "augmentations"):
        if (path := folder.analysis / f"{sheet}.png").exists():
            tracker.log_image(path, key=sheet, step=best_epoch(history))
    for path in (folder.analysis, *(folder.path / name for name in RECORDS)):
        if path.exists():
            tracker.log_artifacts(path)
    return {"analysis": time.perf_counter() - began}


RECORDS = ("config.yaml", "overrides.yaml", "environment.json", "metrics.csv")


def _tidy(folder: RunFolder, keep: str) -> None:
    """Remove the checkpoints that `trainer.keep` does not want after a finished run."""
    for path, kept_by in ((folder.last, ("all",)), (folder.best, ("all", "best"))):
        if keep not in kept_by:
            path.unlink(missing_ok=True)


@contextmanager
def _recorded(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Yield the run's result and write it, with the way the run ended, to result.json."""
    result: dict[str, Any] = {"status": "finished", "metrics": {}, "seconds": {}, "epochs": 0, "run_id": None}
    try:
        yield result
    except UserError:
        folder.discard()
        raise
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        result |= {"status": "killed" if stopped else "failed", "error": one_line(error)}
        log.error(
            "%s: %s",
            result["status"],
            result["error"],
            exc_info=not stopped and not isinstance(error, OSError),
        )
        with suppress(OSError):  # a full disk is perhaps what ended the run
            folder.write_json("result.json", result)
        raise
    folder.write_json("result.json", result)


def _epoch_line(epoch: "EpochResult", epochs: int) -> str:
    losses = "  ".join(
        f"{split} loss {epoch.metrics[f'{split}/loss']:.4f} acc {epoch.metrics[f'{split}/acc']:7.2%}"
        for split in ("train", "val", "test")
        if f"{split}/loss" in epoch.metrics
    )
    pace = f"{epoch.seconds:.1f} s  {epoch.images_per_second:,.0f} pictures/s"
    return f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  {losses}  lr {epoch.lr:.3g}  {pace}"


def _summary(folder: RunFolder, result: dict[str, Any], data: "Data", uri: str | None) -> str:
    """Return the last lines on the screen: the figures, where things lie and how to look at them."""
    metrics, seconds = result["metrics"], result["seconds"]
    lines = [""]
    if "test/acc" in metrics:
        share = f"{round(metrics['test/acc'] * len(data.test)):,} of {len(data.test):,}"
        fair = "" if len(data.val) else ", evaluated each epoch"
        lines.append(f"test accuracy  {metrics['test/acc']:.2%}  ({share} pictures{fair})")
    if "val/acc_best" in metrics:
        lines.append(f"val accuracy   {metrics['val/acc_best']:.2%}  (best of {result['epochs']} epochs)")
    lines.append(
        f"time           {seconds['train']:.1f} s training, {seconds['analysis']:.1f} s analysis, "
        f"{seconds['total']:.1f} s in all"
    )
    lines.append(f"run folder     {folder.path}")
    shown = ("contact_sheet.png", "curves.png", "confusion_matrix.png", "misclassified.csv")
    there = [name for name in shown if (folder.analysis / name).exists()]
    if there:
        lines.append(f"look at        analysis/: {', '.join(there)}")
    if uri:
        lines.append(f"MLflow UI      {ui_hint(uri)}")
    return "\n".join(lines)


def _task(cfg: DictConfig) -> float:
    runtime = HydraConfig.get()
    name = runtime.job.override_dirname.replace(",", " ") if runtime.mode == RunMode.MULTIRUN else ""
    with exit_codes():
        return run(cfg, Path(runtime.runtime.output_dir), overrides=list(runtime.overrides.task), name=name)


def main() -> None:
    """Run the command line: Hydra's own, with every mistake found and told before anything starts."""
    with exit_codes():
        catch_signals()
        args = get_args_parser().parse_args()
        asks = args.help or args.hydra_help or args.cfg or args.info or args.shell_completion or args.multirun
        if not asks and not any(override.startswith("hydra.mode=") for override in args.overrides):
            with user_mistakes():
                compose(args.overrides, config_name=args.config_name or "config", config_dir=args.config_dir)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting with 1
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(_task)()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error)) from error


if __name__ == "__main__":
    main()
