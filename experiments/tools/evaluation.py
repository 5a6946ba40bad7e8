"""Evaluates a run's weights on a split of some data."""

import dataclasses
import hashlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from cifar_core.data.split import Data, Split
from cifar_core.explain.metrics import confusion_matrix, remarks
from cifar_core.report.analyse import analyse
from cifar_core.train.numerics import set_up
from cifar_core.train.predict import balanced_acc, predict, score, tta_acc
from experiments.cli import user_mistakes
from experiments.config import build
from experiments.config.compose import ALLOWED, compose, compose_saved, differences, trusting
from experiments.config.explain import unknown
from experiments.config.values import plain, settings
from experiments.files import own, read_json, write_json
from experiments.runs.console import UNEVEN, accuracy
from experiments.runs.environment import environment
from experiments.runs.folder import CHECKPOINTS, HARMLESS
from experiments.runs.names import name_of
from experiments.runs.read import history
from experiments.runs.result import Result
from experiments.runs.weights import class_names, trained_model
from experiments.tools.pictures import load, recoded, some, whole

SPLITS = ("test", "val", "all")
GROUPS = ("data", "analysis")  # that another option may be chosen of
KEYS = (
    "trainer.device",
    "trainer.eval_batch_size",
    "trainer.precision",
    "trainer.threads",
    "trainer.tta",
    ALLOWED,
)


@dataclass(frozen=True)
class Request:
    """What to evaluate: a run, one of its checkpoints, a split of some data."""

    folder: Path
    cfg: DictConfig  # the run's, with other data, analysis or device where asked
    own: DictConfig  # the run's, as it was saved
    checkpoint: str  # best, last
    split: str  # test, val, all
    judges: bool = False  # other pictures in a folder, which need no split to train on


def request(folder: Path, words: Sequence[str]) -> Request:
    """Read the command line's words; raise ValueError for one that an evaluation cannot change."""
    chosen = {"checkpoint": "best", "split": ""}
    overrides = []
    for word in words:
        key, _, value = word.partition("=")
        if key in chosen:
            chosen[key] = value
        else:
            overrides.append(word)
            _check_key(key)
    own = compose_saved(folder, trusting(overrides))
    if not chosen["split"]:
        chosen["split"] = "test" if _given("data", overrides) else _judged(own)
    for key, known in (("checkpoint", CHECKPOINTS), ("split", SPLITS)):
        if chosen[key] not in known:
            raise ValueError(f"{key} must be one of {', '.join(known)}, got {chosen[key]!r}")
    cfg = _configuration(folder, overrides)
    if _names_data(overrides) and chosen["split"] != "val" and not _given("data.val_size", overrides):
        cfg.data.val_size = 0  # nothing is trained, so nothing needs splitting off
    judges = (
        cfg.data.source == "folder"
        and _names_data(overrides)
        and chosen["split"] != "val"
        and not _given("data.test_size", overrides)
    )
    return Request(folder, cfg, own, **chosen, judges=judges)


def _judged(own: DictConfig) -> str:
    """Return the split that the run itself was judged on."""
    return "test" if own.trainer.test or own.data.val_size == 0 else "val"


def _check_key(key: str) -> None:
    if key in ("data.mean", "data.std"):
        raise ValueError(f"{key} stays the run's own: its weights know no other normalisation")
    if key not in (*GROUPS, *KEYS) and not key.startswith(tuple(f"{group}." for group in GROUPS)):
        known = ["checkpoint", "split", *GROUPS, "data.*", "analysis.*", *KEYS]
        raise ValueError(unknown(key, known, f"{key} cannot be changed in an evaluation"))


def _given(key: str, overrides: Sequence[str]) -> bool:
    return any(word.startswith(f"{key}=") for word in overrides)


def _names_data(overrides: Sequence[str]) -> bool:
    return _given("data", overrides) or _given("data.root", overrides)


def _configuration(folder: Path, overrides: Sequence[str]) -> DictConfig:
    """Return the saved configuration with the overrides; a group chosen anew comes from conf/."""
    anew = [group for group in GROUPS if _given(group, overrides)]
    of_anew = {group: [w for w in overrides if w.startswith((f"{group}=", f"{group}."))] for group in anew}
    cfg = compose_saved(folder, [word for word in overrides if word not in sum(of_anew.values(), [])])
    for group, words in of_anew.items():
        if group == "data":
            kept = [f"data.{key}={cfg.data[key]}" for key in ("image_size", "mean", "std")]
            if cfg.data.source == "folder" and "data=folder" in words:
                kept += [f"data.{key}={cfg.data[key]}" for key in ("background", "white")]
            words = [*kept, *words]  # of two overrides of one key the later one holds
        cfg[group] = compose(words)[group]
    if cfg.analysis.level == "none":
        cfg.analysis.level = "light"
    return cfg


def evaluate(asked: Request, out: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Evaluate and explain; return the folder written to and what evaluation.json in it says.

    Without ``out`` that is `<run folder>/evaluations/<source>-<split>-<checkpoint>-<pictures>`. A run's own
    analysis is never written over by other figures. Raises UserError for what does not fit.
    """
    trainer = settings(asked.cfg).trainer
    with user_mistakes():
        numerics = set_up(trainer)
        model, epoch, data = _load(asked)
        split = "val" if asked.split == "val" else "test"
        part = getattr(data, split)
        if not len(part):
            raise ValueError(f"split={asked.split} has no pictures: data.{split}_size is 0")
        record = _record(asked, data, part, epoch)
        out_dir = out or asked.folder / "evaluations" / _name(asked, data, part)
        _check_place(out_dir, asked, record)
    model, data = numerics.place(model), data.to(numerics.device)
    logits = {
        name: predict(model, data, getattr(data, name), numerics, batch_size=trainer.eval_batch_size)
        for name in dict.fromkeys((split, "val"))
        if len(getattr(data, name))
    }
    labels = part.labels.to(numerics.device)
    scores = score(logits[split], labels, split)
    record |= {"acc": scores[f"{split}/acc"], "loss": scores[f"{split}/loss"]}
    if averaged := tta_acc(model, data, split, numerics, trainer):
        record["acc_tta"] = averaged[f"{split}/acc_tta"]
    preds = logits[split].argmax(1)
    record |= {"hits": int((preds == labels).sum()), "balanced_acc": balanced_acc(preds, labels)}
    record["remarks"] = remarks(confusion_matrix(labels, preds, data.num_classes), data.classes)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_json(out_dir / "evaluation.json", record)  # before anything is drawn, which may fail
    _explain(asked, model, data, split, logits, record, out_dir)
    return out_dir, record


def redraw(folder: Path, words: Sequence[str] = ()) -> list[Path]:
    """Write the analysis of a run anew, as after one that failed; return its report.

    ``words`` may allow code of one's own (`compose.trusting`).

    Raises ValueError where the run has not read its pictures, or is at work in another process.
    """
    result = Result.read(folder)
    if result is None or not result.metrics or result.status == "pruned":
        status = "unfinished" if result is None else result.status
        raise ValueError(f"{folder} must hold a run with its figures to draw them, but it is {status}")
    asked = request(folder, trusting(words))
    try:
        lock = own(folder)
    except BlockingIOError as owner:
        raise ValueError(f"{folder} is in use by {owner}, which draws it itself") from None
    with lock:
        out_dir, _ = evaluate(asked, folder / "analysis")
        dataclasses.replace(result, analysis_error="").write(folder)
    return [out_dir / "report.html"]


def _load(asked: Request) -> tuple[nn.Module, int, Data]:
    """Return the model, the epoch of its weights and the data, once they are found to fit together."""
    classes = class_names(asked.folder, asked.own)
    model, epoch = trained_model(
        asked.folder, asked.cfg, num_classes=len(classes), checkpoint=asked.checkpoint
    )
    data = load(asked.folder, asked.own, asked.cfg, everything=asked.split == "all", judge=asked.judges)
    data = recoded(whole(data) if asked.split == "all" else data, classes)
    _check_size(asked.cfg, model, data.image_size)
    return model, epoch, data


def _explain(
    asked: Request,
    model: nn.Module,
    data: Data,
    split: str,
    logits: dict[str, Tensor],
    record: dict[str, Any],
    out_dir: Path,
) -> None:
    result = Result.read(asked.folder) or Result("unfinished")
    analyse(
        model,
        data,
        split,
        logits[split].cpu(),
        settings=settings(asked.cfg).analysis,
        cam_layer=asked.cfg.model.get("cam_layer", ""),
        augment=build.augment(asked.cfg),
        history=history(asked.folder),
        out_dir=out_dir,
        val_logits=logits["val"].cpu() if "val" in logits else None,
        facts={
            "name": f"{name_of(asked.folder)}: {_what(record)}",
            "command": shlex.join(["python", "-m", "experiments.evaluate", *sys.argv[1:]]),
            "environment": environment(),
            "config": plain(asked.cfg),
            "differences": differences(asked.cfg),
            "protocol": (result.protocol or None) if record["same_data"] else None,
        },
    )


def _check_size(cfg: DictConfig, model: nn.Module, image_size: int) -> None:
    """Raise ValueError where the recipe or the model does not take pictures of this size."""
    build.augment(cfg)
    build.cam_module(cfg, model, image_size)  # runs one picture


def _record(asked: Request, data: Data, part: Split, epoch: int) -> dict[str, Any]:
    trained_on = read_json(asked.folder / "environment.json").get("data")
    present = [data.classes[label] for label in part.labels.unique().tolist()]
    return {
        "run": str(asked.folder.resolve()),
        "checkpoint": asked.checkpoint,
        "epoch": epoch,
        "source": data.source,
        "root": str(asked.cfg.data.root),
        "split": asked.split,
        "pictures": len(part),
        "fingerprint": data.fingerprint,
        "same_data": data.fingerprint == trained_on,
        "changes": _changes(asked),
        "classes": present,
        "absent_classes": [name for name in data.classes if name not in present],
    }


def _changes(asked: Request) -> dict[str, list[Any]]:
    """Return {dotted key: [in the run, now]} of what is evaluated otherwise than the run did."""
    before, now = plain(asked.own), plain(asked.cfg)
    return {
        f"{group}.{key}": [before[group][key], now[group][key]]
        for group in ("data", "trainer")
        for key in before[group]
        if before[group][key] != now[group][key] and key != "val_size"
    }


def _name(asked: Request, data: Data, part: Split) -> str:
    """Return a folder name; the same pictures give the same one."""
    stamp = hashlib.sha256(data.fingerprint.encode() + part.index.numpy().tobytes()).hexdigest()[:8]
    return f"{data.source}-{asked.split}-{asked.checkpoint}-{stamp}"


def _check_place(out_dir: Path, asked: Request, record: dict[str, Any]) -> None:
    """Raise ValueError where ``out_dir`` is the analysis of a run and this is not the same once more."""
    place = out_dir.resolve()
    if place.name != "analysis" or not (place.parent / "config.yaml").exists():
        return
    changed = [key for key in record["changes"] if key.startswith("data.") and not key.startswith(HARMLESS)]
    again = record["same_data"] and asked.checkpoint == "best" and asked.split == _judged(asked.own)
    if place.parent != asked.folder.resolve() or changed or not again:
        raise ValueError(f"--out must not be the analysis of a run on other data or weights, got {out_dir}")


def _what(record: dict[str, Any]) -> str:
    return (
        f"{record['checkpoint']} weights (epoch {record['epoch']}) on {record['source']}, {record['split']}"
    )


def lines(asked: Request, out_dir: Path, record: dict[str, Any]) -> list[str]:
    """Return what the screen shows: accuracy, the run's own, what differs, the folder."""
    shown = [f"accuracy       {accuracy(record['acc'], record['pictures'])}, loss {record['loss']:.4f}"]
    if abs(record["balanced_acc"] - record["acc"]) >= UNEVEN:
        shown.append(f"balanced       {record['balanced_acc']:.2%}  (mean of the classes' own accuracies)")
    if "acc_tta" in record:
        views = f"{asked.cfg.trainer.tta}, mean over several views of each picture"
        shown.append(f"with TTA       {record['acc_tta']:.2%}  ({views})")
    shown += [f"note           {remark}" for remark in record["remarks"]]
    result = Result.read(asked.folder) or Result("unfinished")
    if result.status != "finished":
        shown.append(f"the run        is {result.status}")
    for key, label in (("test/acc", "test"), ("val/acc_best", "val")):
        if key in result.metrics:
            shown.append(f"the run's own  {result.metrics[key]:.2%} {label}, {result.protocol} protocol")
    shown.append(f"evaluated      {_what(record)}")
    if record["same_data"]:
        shown.append("pictures       the data the run was trained from")
    else:
        shown.append(f"pictures       other data than the run's: {record['root']} ({record['fingerprint']})")
    if record["absent_classes"]:
        known = len(record["classes"]) + len(record["absent_classes"])
        shown.append(
            f"classes        {len(record['classes'])} of the run's {known}; none of: "
            f"{some(record['absent_classes'])}"
        )
    for key, (before, now) in record["changes"].items():
        shown.append(f"differs        {key}: {before} in the run, {now} here")
    return [*shown, f"folder         {out_dir}"]
