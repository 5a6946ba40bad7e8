"""Trains a finished run longer: a run of its own that begins where the finished one ended."""

import copy
import logging
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from cifar_core.train import checkpoint
from cifar_core.train.state import TrainState
from experiments.config import words
from experiments.config.schema import Origin
from experiments.config.values import plain
from experiments.files import read_json
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.folder import RunFolder
from experiments.runs.read import history
from experiments.runs.result import Result

log = logging.getLogger(__name__)

STAMP = re.compile(r"\d\d-\d\d-\d\d-\d{6}_")  # what the name of a run folder begins with


def longer(path: Path, cfg: DictConfig, overrides: Sequence[str]) -> tuple[DictConfig, RunFolder] | None:
    """Return configuration and folder of the run that trains the one in ``path`` on, to `trainer.epochs`.

    ``cfg`` is that run's own, changed by ``overrides``, which may name a hydra.run.dir. None where the run is
    not over or no other length is asked for. Raises ValueError for any other change and for too few epochs,
    FileNotFoundError where no weights were kept.
    """
    old, result = RunFolder(path), Result.read(path)
    asked = any(word.lstrip("+").startswith("trainer.epochs=") for word in overrides)
    length = old.saved()["trainer"]["epochs"]
    if not (result and result.done and asked) or (cfg.trainer.epochs == length and result.status != "pruned"):
        return None
    done = int(history(path)[-1]["epoch"])
    if cfg.trainer.epochs <= done:
        raise ValueError(
            f"trainer.epochs must be above the {done} that {old.path} has had, got {cfg.trainer.epochs}"
        )
    old.compare(plain(cfg), but=("trainer.epochs",))
    weights = next((name for name in ("last", "best") if (old.path / f"{name}.pt").exists()), None)
    if weights is None:
        raise FileNotFoundError(
            f"{old.path} has no weights to go on from: trainer.keep must be all (or best) for that, "
            f"got {old.saved()['trainer']['keep']}"
        )
    new = copy.deepcopy(cfg)
    with open_dict(new):
        new.origin = {"folder": str(old.path), "epochs": done, "weights": weights}
    return new, _place(old.path, int(cfg.trainer.epochs), overrides)


def _place(old: Path, epochs: int, overrides: Sequence[str]) -> RunFolder:
    """Return the new run's folder: hydra.run.dir where it is given, else beside today's runs."""
    given = [word for word in overrides if words.is_place(word)]
    if given:
        text: Any = OmegaConf.to_container(OmegaConf.create([words.value(given[-1])]), resolve=True)
        path = Path(str(text[0])).resolve()
    else:
        now = datetime.now()
        name = STAMP.sub("", re.sub(r"_epochs\d+$", "", old.name))
        path = Path("runs", f"{now:%Y-%m-%d}", f"{now:%H-%M-%S-%f}_{name}_epochs{epochs}").resolve()
    if path.is_relative_to(old):
        raise ValueError(f"hydra.run.dir must lie outside of {old}, whose run is finished, got {path}")
    return RunFolder(path)


def requested(old: Path, overrides: Sequence[str]) -> list[str]:
    """Return what was asked for in all: the overrides of the finished run and those of its extension."""
    before = old / "overrides.yaml"
    asked = yaml.safe_load(before.read_text(encoding="utf-8")) or [] if before.exists() else []
    return [*asked, *(word for word in overrides if not words.is_place(word))]


def begin(state: TrainState, origin: Origin, checkpoints: Checkpoints) -> None:
    """Put a fresh ``state`` where its origin ended, and save that as the first checkpoint of the new run.

    Raises ValueError where the pictures are not those of the origin, FileNotFoundError or OSError where its
    weights are gone or damaged.
    """
    folder = Path(origin.folder)
    path = folder / f"{origin.weights}.pt"
    saved = checkpoint.load(path)
    if lacking := {"last": {"state"}, "best": {"model", "epoch"}}[origin.weights] - saved.keys():
        raise OSError(f"{path} is not a checkpoint of a run: it lacks {', '.join(sorted(lacking))}")
    trained_on = read_json(folder / "environment.json").get("data")
    if trained_on != checkpoints.identity["data"]:
        raise ValueError(
            f"{folder} was trained on other pictures than data.root holds now: fingerprint {trained_on}, "
            f"got {checkpoints.identity['data']}"
        )
    if origin.weights == "last":
        state.go_on_from(saved["state"])
    else:
        for model in {state.model, state.best_model}:
            model.load_state_dict(saved["model"])
        state.epoch, state.step = origin.epochs, int(history(folder)[-1]["step"])
    taken = "weights, optimizer and average" if state.ema else "weights and optimizer"
    what = f"{taken} of its last epoch"
    if origin.weights == "best":
        what = (
            f"best weights, of epoch {saved['epoch']}, and a fresh optimizer: trainer.keep=all keeps the last"
        )
    log.info("goes on from  %s after epoch %d: %s", folder, state.epoch, what)
    checkpoints.keep(state, [], is_best=False, over=True)
