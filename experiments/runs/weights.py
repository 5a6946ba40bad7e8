"""The classes and the network of a run, read back from its folder."""

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from cifar_core.data.sources import load_data
from cifar_core.explain.gradcam import evaluating
from cifar_core.train.checkpoint import load, start_from, weights_in
from cifar_core.train.predict import check_logits
from experiments.config import build
from experiments.config.values import asks_for_constants, plain, settings
from experiments.files import read_json
from experiments.runs.folder import CHECKPOINTS
from experiments.runs.read import predictions
from experiments.runs.result import Result


def class_names(folder: Path, cfg: DictConfig) -> tuple[str, ...]:
    """Return the classes a run was trained on, in its order; a run without analysis has its data loaded.

    Raises ValueError where that data is no longer what the run was trained on.
    """
    environment = read_json(folder / "environment.json")
    if "classes" in environment:
        return tuple(environment["classes"])
    if (arrays := predictions(folder)) is not None:
        return tuple(map(str, arrays["classes"]))
    data, trained_on = load_data(settings(cfg).data), environment.get("data")
    if data.fingerprint != trained_on:
        raise ValueError(
            f"{folder} has no analysis/predictions.npz with its class names, and its data has changed: "
            f"fingerprint {trained_on}, got {data.fingerprint}"
        )
    return data.classes


def trained_model(
    folder: Path, cfg: DictConfig, *, num_classes: int, checkpoint: str
) -> tuple[nn.Module, int]:
    """Return a run's network on the CPU with the weights of best.pt or last.pt, and their epoch.

    last.pt gives the moving average where the run kept one. Raises FileNotFoundError for weights that were
    not kept, ValueError for those of another model, OSError for a damaged file.
    """
    if asks_for_constants(plain(cfg)):
        raise ValueError(
            f"{folder} must say data.mean and data.std in numbers, as every run writes them, got auto"
        )
    path = folder / f"{checkpoint}.pt"
    weights, epoch = _weights(path)
    with torch.random.fork_rng(devices=[]):  # the fresh weights are not kept, so they cost no random numbers
        model = build.model(cfg, num_classes=num_classes)
    try:
        start_from(model, weights, new_head=False)
    except ValueError as error:
        raise ValueError(f"{path}, {cfg.model._target_}, {num_classes} classes: {error}") from error
    _check_answer(model, cfg.data.image_size)
    return model, epoch


def _check_answer(model: nn.Module, image_size: int) -> None:
    """Raise ValueError where the network returns something else than logits, or takes no such pictures."""
    try:
        with torch.no_grad(), evaluating(model):
            check_logits(model(torch.zeros(1, 3, image_size, image_size)))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"the model must take pictures of {image_size}x{image_size}, but: {error}"
        ) from error


def _weights(path: Path) -> tuple[dict[str, Tensor], int]:
    if not path.exists():
        kept = [name for name in CHECKPOINTS if path.with_name(f"{name}.pt").exists()]
        result = Result.read(path.parent)
        left = f"trainer.keep left: {', '.join(kept) or 'none'}"
        if result is None:
            left = "a run writes it every trainer.checkpoint_seconds and when it ends"
        elif not result.done and not kept:
            left = "the run ended before its first epoch was saved"
        raise FileNotFoundError(f"{path} is not there; {left}")
    content = load(path)
    weights = weights_in(content, path)
    try:
        return weights, content.get("state", content)["epoch"]
    except KeyError as error:
        raise OSError(f"{path} is not a checkpoint of this project: it has no epoch") from error
