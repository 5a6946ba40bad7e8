"""Finds a learning rate by a range test."""

import csv
import dataclasses
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from cifar_core import guards
from cifar_core.train.lr_range import (
    NoSuggestionError,
    RangeTest,
    Suggestion,
    check_range,
    lr_range_test,
    range_plot,
    suggest,
)
from experiments.cli import GuardStop, UserError, signals, user_mistakes
from experiments.config import build
from experiments.config.values import plain, settings
from experiments.files import flatten

APART = 10.0  # between the two suggestions, beyond which the higher one is not trusted
PEAKED = ("one_cycle", "triangle")  # schedules that rise to the optimizer's lr and leave it at once


@dataclass(frozen=True)
class Search:
    """How the range test is to be done."""

    start: float
    end: float
    steps: int
    diverge: float


def find_lr(cfg: DictConfig, search: Search, out: Path) -> list[str]:
    """Do the range test, write ``out`` and the CSV beside it, and return what the screen shows.

    Raises UserError for a mistake and GuardStop where the test speaks for no learning rate.
    """
    if out.suffix != ".png":
        raise UserError(f"--out must be a .png file, got {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    seen = _range_test(cfg, search)
    try:
        suggestion, reason = suggest(seen), ""
    except NoSuggestionError as error:
        suggestion, reason = None, str(error)
    table = out.with_suffix(".csv")
    range_plot(seen, suggestion, _title(cfg)).savefig(out)
    _write(table, seen)
    files = f"written        {out}, {table}"
    if suggestion is None:
        raise GuardStop(f"no learning rate to suggest: {reason} ({out} shows the curve)")
    return [_course(seen, search), *advice(cfg, suggestion, last=seen.lrs[-1]), files]


def _range_test(cfg: DictConfig, search: Search) -> RangeTest:
    """Build what a run builds, but for compilation and the records, and do the test."""
    options = settings(cfg)
    with user_mistakes():
        built = build.training(cfg, options)
        check_range(built.state.optimizer, **dataclasses.asdict(search))
    for finding in guards.check_model(built.state.model, built.data, built.state.numerics):
        if finding.always:
            raise GuardStop(f"{finding.guard}: {finding.message}")
    with signals.deferred():
        return lr_range_test(
            built.state,
            built.data,
            built.augment,
            options.trainer,
            mix=built.mix,
            between_batches=signals.check,
            **dataclasses.asdict(search),
        )


def advice(cfg: DictConfig, suggestion: Suggestion, *, last: float) -> list[str]:
    """Return both learning rates, the one to take for the schedule of ``cfg`` and why.

    ``last`` is the last lr that was tried.
    """
    schedule = cfg.scheduler._target_.rpartition(".")[2]
    candidates = {"steepest fall": suggestion.steepest, "minimum / 10": suggestion.tenth}
    if schedule in PEAKED or cfg.scheduler.get("warmup_epochs", 0) > 0:
        choose, reason = max, f"the larger, as {schedule} rises to it"
    else:
        choose, reason = min, f"the smaller, as {schedule} begins with it"
    if max(candidates.values()) > APART * min(candidates.values()):
        choose, reason = min, "the smaller, as the two lie far apart: the loss rose and fell again in between"
    name = choose(candidates, key=lambda each: candidates[each])
    more = ["note           the loss still fell at the last lr: a larger --end shows more"]
    return [
        f"steepest fall  {suggestion.steepest:.2g}",
        f"minimum / 10   {suggestion.tenth:.2g}  (the smoothed loss is lowest at {suggestion.minimum:.2g})",
        f"recommended    {override(cfg, candidates[name])}  ({name}: {reason})",
        *(more if suggestion.minimum == last else []),
    ]


def override(cfg: DictConfig, lr: float) -> str:
    """Return the words that set ``lr``, and every other lr of the optimizer in the same ratio."""
    given = flatten(plain(cfg)["optimizer"])
    lrs = {key: float(value) for key, value in given.items() if key.rpartition(".")[2] == "lr"}
    if "lr" not in lrs:  # left to the class
        return f"+optimizer.lr={lr:.2g}"
    return " ".join(f"optimizer.{key}={value * lr / lrs['lr']:.2g}" for key, value in lrs.items())


def _course(seen: RangeTest, search: Search) -> str:
    line = (
        f"range test     {len(seen.lrs)} of {search.steps} steps, lr {seen.lrs[0]:.2g} to {seen.lrs[-1]:.2g}"
    )
    return f"{line}; {seen.ended}" if seen.ended else line


def _title(cfg: DictConfig) -> str:
    names = [cfg[group]._target_.rpartition(".")[2] for group in ("model", "optimizer")]
    batch = cfg.trainer.batch_size * cfg.trainer.accumulate
    return f"Learning-rate range test: {names[0]}, {names[1]}, {cfg.data.source}, {batch} pictures a step"


def _write(path: Path, seen: RangeTest) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["lr", "loss", "smoothed_loss"])
        writer.writerows(zip(seen.lrs, seen.losses, seen.smoothed, strict=True))
