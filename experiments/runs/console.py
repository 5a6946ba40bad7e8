"""The lines a run shows: what it is made of, how each epoch went, what came out."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from cifar_core.data.split import Data
from cifar_core.explain.metrics import wilson_interval
from cifar_core.train.loop import EpochResult
from cifar_core.train.state import TrainState
from experiments.cli import command
from experiments.config.schema import Origin, origin
from experiments.runs.folder import RunFolder
from experiments.runs.result import Result
from experiments.tracking.tracker import Tracker
from experiments.tracking.uri import ui_hint

Expectation = Mapping[str, Any] | None  # `expected` of the configuration: test_acc, epochs, source
GB = 1_000_000_000
UNEVEN = 0.01  # from here on balanced accuracy is worth a line of its own
SHOWN = ("report.html", "contact_sheet.png", "curves.png", "misclassified.csv")  # of the analysis folder


def opening(state: TrainState, data: Data) -> list[str]:
    """Return lines on data, model and device, as far as the first line of the run has not told."""
    parameters = sum(p.numel() for p in state.model.parameters())
    sizes = " / ".join(f"{len(getattr(data, split)):,} {split}" for split in ("train", "val", "test"))
    return [
        f"data        {sizes}, {data.num_classes} classes",
        f"model       {parameters:,} parameters",
        f"device      {state.numerics}",
    ]


def epoch_line(epoch: EpochResult, epochs: int) -> str:
    """Return one epoch's figures."""
    losses = "  ".join(
        f"{split} loss {epoch.metrics[f'{split}/loss']:.4f} acc {epoch.metrics[f'{split}/acc']:7.2%}"
        for split in ("train", "val", "test")
        if f"{split}/loss" in epoch.metrics
    )
    pace = f"{epoch.seconds:.1f} s  {epoch.images_per_second:,.0f} pictures/s"
    return f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  {losses}  lr {epoch.lr:.3g}  {pace}"


def figures(result: Result, tested: int = 0, began: Origin | None = None) -> list[tuple[str, str]]:
    """Return the run's accuracies as (name, text); ``tested`` is the number of test pictures, 0 = unknown."""
    metrics, pairs = result.metrics, []
    if "test/acc" in metrics:
        fair = ", evaluated each epoch" if result.protocol == "test_each_epoch" else ""
        pairs.append(("test accuracy", accuracy(metrics["test/acc"], tested, fair)))
    if "test/acc_tta" in metrics:
        pairs.append(
            ("with TTA", f"{metrics['test/acc_tta']:.2%}  (mean over several views of each picture)")
        )
    if "val/acc_best" in metrics:
        among = f"epochs {began.epochs + 1} to {result.epochs}" if began else _epochs(result.epochs)
        pairs.append(("val accuracy", f"{metrics['val/acc_best']:.2%}  (best of {among})"))
    judged, acc = ("test", "test/acc") if "test/acc" in metrics else ("val", "val/acc_best")
    balanced = metrics.get(f"{judged}/balanced_acc", metrics.get(f"{judged}/balanced_acc_best"))
    if balanced is not None and abs(balanced - metrics[acc]) >= UNEVEN:
        pairs.append(("balanced", f"{balanced:.2%}  (mean of the classes' own {judged} accuracies)"))
    return pairs + [("note", remark) for remark in result.remarks]


def accuracy(acc: float, pictures: int, more: str = "") -> str:
    """Return an accuracy with its count and its 95 % interval; alone where the count is not known, 0."""
    if not pictures:
        return f"{acc:.2%}"
    hits = round(acc * pictures)
    low, high = wilson_interval(hits, pictures)
    count = f"{hits:,} of {pictures:,} pictures{more}"
    return f"{acc:.2%}  ({count}; 95 %: {100 * low:.1f} to {100 * high:.1f} %)"


def comparison(result: Result, expected: Expectation) -> list[tuple[str, str]]:
    """Return what the recipe reached elsewhere beside this run's figure as a (name, text); [] without one."""
    if expected is None:
        return []
    elsewhere = f"{expected['test_acc']:.2%} in {_epochs(expected['epochs'])} ({expected['source']})"
    ours = result.metrics.get("test/acc")
    here = "has not read the test set" if ours is None else f"{ours:.2%} in {_epochs(result.epochs)}"
    return [("elsewhere", f"{elsewhere}; this run {here}")]


def _epochs(count: int) -> str:
    return f"{count} epoch" + ("s" if count != 1 else "")


def closing(
    folder: RunFolder,
    result: Result,
    cfg: DictConfig,
    *,
    tested: int,
    tracker: Tracker,
    card: Mapping[str, Any] | None,
) -> list[str]:
    """Return the last lines: the figures, where things lie, how to look at them and what may come next.

    ``card`` is the GPU as in environment.json, None on a CPU.
    """
    seconds = result.seconds
    pairs = figures(result, tested, origin(cfg)) + comparison(result, cfg.get("expected"))
    lines = ["", *(f"{name:<13}  {value}" for name, value in pairs)]
    shares = [f"{seconds[part]:.1f} s {part}" for part in ("train", "analysis") if part in seconds]
    lines.append(f"time           {', '.join(shares)}, {seconds['total']:.1f} s in all")
    if card:
        peak, whole = card["peak_memory"] / GB, card["memory"] / GB
        lines.append(f"GPU memory     {peak:.1f} GB at most, of {whole:.1f} GB ({card['name']})")
    lines.append(f"run folder     {folder.path}")
    if files := [name for name in SHOWN if (folder.analysis / name).exists()]:
        lines.append(f"look at        analysis/: {', '.join(files)}")
    if result.analysis_error:
        lines.append(f"analysis       failed: {result.analysis_error}")
        lines.append(f"draw it again  {command('report', str(folder.path))}")
    if tracker.uri:
        lines.append(f"MLflow UI      {ui_hint(tracker.uri)}")
    if tracker.url:
        lines.append(f"all runs       {getattr(tracker, 'overview', None) or tracker.url}")
    return lines + _next(folder, result, cfg)


def done(folder: RunFolder, result: Result, cfg: DictConfig) -> list[str]:
    """Return the lines for a run that needs nothing more."""
    pairs = figures(result, began=origin(cfg)) + comparison(result, cfg.get("expected"))
    lines = [f"{folder.path} is {result.status} already; nothing to do"]
    return [*lines, *(f"{name:<13}  {value}" for name, value in pairs), *_next(folder, result, cfg)]


def _next(folder: RunFolder, result: Result, cfg: DictConfig) -> list[str]:
    """Return the report and the commands that may come next, to paste."""
    report = folder.analysis / "report.html"
    lines = [f"report         {report}"] if report.exists() else []
    if folder.last.exists() or folder.best.exists():
        more = f"trainer.epochs={max(2 * result.epochs, cfg.trainer.epochs)}"
        lines.append(f"train longer   {command('run', f'resume={folder.path}', more, *_allowed(cfg))}")
    return [*lines, f"compare        {command('compare', str(folder.path.parent))}"]


def go_on(folder: RunFolder, cfg: DictConfig, *, stopped_by_guard: bool) -> str:
    """Return the line that takes up a run which has not come to its end."""
    given = _allowed(cfg) + (["trainer.guards=warn"] if stopped_by_guard else [])
    what = "go on all the same with" if stopped_by_guard else "go on with"
    return f"{what}:  {command('run', f'resume={folder.path}', *given)}"


def _allowed(cfg: DictConfig) -> list[str]:
    """Return the word that allows code of the user's own, which a saved configuration cannot."""
    own = list(cfg.security.allowed_targets)
    return [f"security.allowed_targets=[{','.join(own)}]"] if own else []


def note(folder: RunFolder, result: Result, cfg: DictConfig, *, tested: int, command: str) -> str:
    """Return the run's description for the tracker, as Markdown; ``command`` repeats the run."""
    pairs = figures(result, tested, origin(cfg)) + comparison(result, cfg.get("expected"))
    lines = "\n".join(f"* {name}: **{value}**" for name, value in pairs)
    has_report = (folder.analysis / "report.html").exists()
    start = "; start with `analysis/report.html`" if has_report else ""
    return f"{lines}\n\n    {command}\n\nRun folder `{folder.path}`{start}.\n"
