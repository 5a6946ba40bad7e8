"""Reads back what a run left in its folder: how it went, its predictions, its classes, its weights."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.compose import settings
from experiments.run_folder import RunFolder

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Row = dict[str, float]  # one epoch, as in metrics.csv
CHECKPOINTS = ("best", "last")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of a run; {} where the file is not there. Raises OSError for a damaged one."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise OSError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise OSError(f"{path} is damaged: it holds a {type(content).__name__}")
    return content


def history(folder: Path) -> list[Row]:
    """Return the epochs in metrics.csv that are written whole; [] before the first."""
    try:
        text = (folder / "metrics.csv").read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    except FileNotFoundError:
        return []
    except (TypeError, ValueError) as error:
        raise OSError(f"{folder / 'metrics.csv'} is damaged: {error}") from error


def predictions(folder: Path) -> "dict[str, np.ndarray] | None":
    """Return the arrays of analysis/predictions.npz; None where the run was not analysed.

    Raises OSError where the file is damaged.
    """
    import numpy as np

    path = RunFolder(folder).analysis / "predictions.npz"
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and NumPy raise by where the damage is
        raise OSError(f"{path} is damaged: {error}") from error


def class_names(folder: Path, cfg: DictConfig) -> tuple[str, ...]:
    """Return the classes a run was trained on, in its order; a run without analysis has its data loaded.

    Raises ValueError where that data is no longer what the run was trained on.
    """
    environment = read_json(folder / "environment.json")
    if "classes" in environment:
        return tuple(environment["classes"])
    found = predictions(folder)
    if found is not None:
        return tuple(map(str, found["classes"]))
    from cifar_core.data import load_data

    data, trained_on = load_data(settings(cfg)["data"]), environment.get("data")
    if data.fingerprint != trained_on:
        raise ValueError(
            f"{folder} has no analysis/predictions.npz with its class names, and its data has changed: "
            f"fingerprint {trained_on}, got {data.fingerprint}"
        )
    return data.classes


def trained_model(
    folder: Path, cfg: DictConfig, *, num_classes: int, checkpoint: str
) -> "tuple[nn.Module, int]":
    """Return a run's network on the CPU with the weights of best.pt or last.pt, and their epoch.

    last.pt gives the moving average where the run kept one. Raises FileNotFoundError for weights that were
    not kept, ValueError for those of another model, OSError for a damaged file.
    """
    import torch

    from cifar_core.checkpoint import start_from
    from experiments import parts

    path = folder / f"{checkpoint}.pt"
    weights, epoch = _weights(path)
    with torch.random.fork_rng(devices=[]):  # the fresh weights are not kept, so they cost no random numbers
        model = parts.model(cfg, num_classes=num_classes)
    try:
        start_from(model, weights, new_head=False)
    except ValueError as error:
        raise ValueError(f"{path}, {cfg.model._target_}, {num_classes} classes: {error}") from error
    return model, epoch


def _weights(path: Path) -> "tuple[dict[str, Tensor], int]":
    from cifar_core import checkpoint

    if not path.exists():
        there = ", ".join(name for name in CHECKPOINTS if path.with_name(f"{name}.pt").exists()) or "none"
        raise FileNotFoundError(f"{path} is not there; trainer.keep left: {there}")
    content = checkpoint.load(path)
    weights = checkpoint.weights_in(content, path)
    try:
        return weights, content.get("state", content)["epoch"]
    except KeyError as error:
        raise OSError(f"{path} is not a checkpoint of this project: it has no epoch") from error
