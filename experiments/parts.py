"""Turns a group of the configuration into the object it describes."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifar_core.analysis import cams
from cifar_core.augment.pipeline import augmentation
from cifar_core.augment.recipe import Step
from cifar_core.train import Augment, Mix

RESERVED = ("cam_layer",)  # keys of the model group that are about the model, not arguments of it


def model(cfg: DictConfig, *, num_classes: int) -> nn.Module:
    """Return the network on the CPU, with fresh weights from torch's global generator."""
    arguments = OmegaConf.masked_copy(cfg.model, [key for key in cfg.model if key not in RESERVED])
    return _call("model", arguments, num_classes=num_classes)


def steps(cfg: DictConfig) -> dict[str, Step]:
    """Return the named Albumentations transforms of `aug.image`, in order."""
    return _call("aug.image", cfg.aug.image, _convert_="all")


def augment(cfg: DictConfig) -> Augment:
    """Return the function on uint8 pictures that `aug.image` and `aug.backend` describe."""
    recipe, options = steps(cfg), {"backend": cfg.aug.backend, "workers": cfg.aug.workers}
    return augmentation(recipe, **options, image_size=cfg.data.image_size)


def mix(cfg: DictConfig, *, num_classes: int) -> Mix | None:
    """Return the function on float pictures and labels that `aug.batch` describes, None where it is null."""
    return None if cfg.aug.batch is None else _call("aug.batch", cfg.aug.batch, num_classes=num_classes)


def optimizer(cfg: DictConfig, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
    """Return the optimizer over (name, parameter) pairs."""
    try:
        return instantiate(cfg.optimizer, _partial_=True, _convert_="all")(list(named_parameters))
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"optimizer: {error}") from error


def scheduler(cfg: DictConfig, optimizer: Optimizer, *, steps_per_epoch: int) -> LRScheduler:
    """Return the schedule of ``optimizer`` over the whole training."""
    run_time = {"epochs": cfg.trainer.epochs, "steps_per_epoch": steps_per_epoch}
    try:
        return instantiate(cfg.scheduler, _partial_=True, _convert_="all")(optimizer, **run_time)
    except (ValueError, TypeError) as error:
        message = str(error)
        raise ValueError(message if message.startswith("scheduler.") else f"scheduler: {message}") from error


def cam_module(cfg: DictConfig, model: nn.Module, image_size: int) -> nn.Module:
    """Return the module whose grid the CAM uses: `analysis.layer`, or else the model's own."""
    return cams.cam_module(model, cfg.analysis.layer or cfg.model.get("cam_layer", ""), image_size)


def tracker(cfg: DictConfig, out_dir: Path, name: str, protocol: str, commit: str = "") -> Any:
    """Return the tracker of the run in ``out_dir``, not yet entered."""
    tags = {"protocol": protocol, "seed": str(cfg.seed), "run_folder": str(out_dir)}
    tags |= {"mlflow.source.git.commit": commit} if commit else {}
    return _call("tracking", cfg.tracking, out_dir=out_dir, run_name=name, tags=tags)


def _call(key: str, node: Any, **given: Any) -> Any:
    try:
        return instantiate(node, **given)
    except InstantiationException as error:
        where = re.search(r"full_key: (\S+)", str(error))
        message = " ".join(str(error.__cause__ or error).split())
        # pydantic, which checks Albumentations' arguments, says more than a user needs
        message = re.sub(
            r"\d+ validation errors? for InitSchema |\[type=.*?\]|For further information visit \S+",
            "",
            message,
        )
        raise ValueError(f"{where[1] if where else key}: {message.strip()}") from error
