"""Turns a group of the configuration into the object it describes."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifar_core.augment.pipeline import augmentation
from cifar_core.augment.protocol import Augment
from cifar_core.augment.recipe import Step
from cifar_core.data.sources import load_data
from cifar_core.data.split import Data
from cifar_core.explain import cams
from cifar_core.train import checkpoint
from cifar_core.train.loop import Mix
from cifar_core.train.numerics import set_up
from cifar_core.train.state import TrainState, start, steps_per_epoch
from experiments.config import schema
from experiments.config.allowed import check_calls
from experiments.config.values import Settings, settings, with_constants
from experiments.tracking.tracker import Tracker

log = logging.getLogger(__name__)

# Keys of a group that are about the object, not arguments of it.
RESERVED = {"model": ("cam_layer", "weights"), "optimizer": ("decay_norm_bias",)}
INIT_PICTURES = 5000  # of the training set, for models that start from them


@dataclass
class Training:
    """What a training starts from, all on its device."""

    state: TrainState
    data: Data
    augment: Augment
    mix: Mix | None


def training(
    cfg: DictConfig,
    options: Settings | None = None,
    *,
    data: Data | None = None,
    resumes: bool = False,
) -> Training:
    """Build all parts, data first. Sets torch's global seed, thread count and matrix precision.

    ``options`` are the settings of ``cfg`` and ``data`` is what they name, where the caller has read them
    already. Where a checkpoint ``resumes`` the training, weights from elsewhere are not fetched.
    """
    options = options or settings(cfg)
    numerics = set_up(options.trainer)
    data = data or load_data(options.data)
    cfg, data = with_constants(cfg, data.mean, data.std), data.to(numerics.device)
    torch.manual_seed(cfg.seed)
    net = numerics.place(model(cfg, num_classes=data.num_classes, pretrained=not resumes))
    start_weights(cfg, net, data, elsewhere=not resumes)
    steps = steps_per_epoch(len(data.train), options.trainer)
    optim = optimizer(cfg, net.named_parameters())
    schedule = scheduler(cfg, optim, steps_per_epoch=steps)
    ema_decay = options.trainer.ema_decay
    state = start(net, optim, schedule, numerics=numerics, seed=cfg.seed, ema_decay=ema_decay)
    return Training(state, data, augment(cfg), mix(cfg, num_classes=data.num_classes))


def model(cfg: DictConfig, *, num_classes: int, pretrained: bool = False) -> nn.Module:
    """Return the network on the CPU, with fresh weights from torch's global generator.

    Only with ``pretrained`` does an argument of that name, which may mean a download, keep its value.
    """
    arguments = _arguments(cfg, "model")
    if not pretrained and "pretrained" in arguments:
        arguments.pretrained = False
    return _call(cfg, "model", arguments, num_classes=num_classes)


def start_weights(cfg: DictConfig, model: nn.Module, data: Data, *, elsewhere: bool = True) -> None:
    """Give a fresh ``model`` its start from ``data`` and, with `model.weights`, from ``elsewhere``.

    Both are on one device. A model that starts from pictures has `init_from_data(images)`, which gets
    normalised ones (N, 3, H, W).
    """
    init = getattr(model, "init_from_data", None)
    if init is not None:
        every = max(1, len(data.train) // INIT_PICTURES)  # a folder lists class after class
        init(data.normalize(data.train.images[::every][:INIT_PICTURES]))
    if elsewhere and cfg.model.get("weights"):
        path = Path(cfg.model.weights).expanduser()
        try:
            fresh = checkpoint.start_from(model, checkpoint.model_weights(path), new_head=True)
        except (OSError, ValueError) as error:
            raise type(error)(f"model.weights: {error}") from error
        log.info("weights     %s%s", path, f", but for {fresh}, which has other classes" if fresh else "")


def steps(cfg: DictConfig) -> dict[str, Step]:
    """Return the named Albumentations transforms of `aug.image`, in order."""
    return _call(cfg, "aug.image", cfg.aug.image, _convert_="all")


def augment(cfg: DictConfig) -> Augment:
    """Return the function on uint8 pictures that `aug.image` and `aug.backend` describe."""
    recipe, options = steps(cfg), {"backend": cfg.aug.backend, "workers": cfg.aug.workers}
    return augmentation(recipe, **options, image_size=cfg.data.image_size)


def mix(cfg: DictConfig, *, num_classes: int) -> Mix | None:
    """Return the function on float pictures and labels that `aug.batch` describes, None where it is null."""
    return None if cfg.aug.batch is None else _call(cfg, "aug.batch", cfg.aug.batch, num_classes=num_classes)


def optimizer(cfg: DictConfig, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
    """Return the optimizer over those of the (name, parameter) pairs that are trained.

    With `decay_norm_bias` false, parameters of fewer than two axes get a group without weight decay.
    """
    pairs: list[Any] = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
    if not cfg.optimizer.get("decay_norm_bias", True):
        layers = [pair for pair in pairs if pair[1].ndim > 1]
        others = [pair for pair in pairs if pair[1].ndim <= 1]
        pairs = [{"params": layers}, {"params": others, "weight_decay": 0.0}]
    arguments = _arguments(cfg, "optimizer")
    check_calls(arguments, "optimizer", cfg.security.allowed_targets)
    try:
        return instantiate(arguments, _partial_=True, _convert_="all")(pairs)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"optimizer: {error}") from error


def scheduler(cfg: DictConfig, optimizer: Optimizer, *, steps_per_epoch: int) -> LRScheduler:
    """Return the schedule of ``optimizer`` over all epochs of this run, without those of its origin."""
    before = origin.epochs if (origin := schema.origin(cfg)) else 0
    run_time = {"epochs": cfg.trainer.epochs - before, "steps_per_epoch": steps_per_epoch}
    check_calls(cfg.scheduler, "scheduler", cfg.security.allowed_targets)
    try:
        return instantiate(cfg.scheduler, _partial_=True, _convert_="all")(optimizer, **run_time)
    except (ValueError, TypeError) as error:
        message = str(error)
        message = message if message.startswith("scheduler.") else f"scheduler: {message}"
        added = f" (over the {run_time['epochs']} epochs after origin.epochs, {before})" if before else ""
        raise ValueError(message + added) from error


def cam_module(cfg: DictConfig, model: nn.Module, image_size: int) -> nn.Module:
    """Return the module whose grid the CAM uses: `analysis.layer`, or else the model's own."""
    return cams.cam_module(model, cfg.analysis.layer or cfg.model.get("cam_layer", ""), image_size)


def tracker(cfg: DictConfig, out_dir: Path, name: str, protocol: str, commit: str = "") -> Tracker:
    """Return the tracker of the run in ``out_dir``, not yet entered."""
    tags = {"protocol": protocol, "seed": str(cfg.seed), "run_folder": str(out_dir)}
    tags |= {"mlflow.source.git.commit": commit} if commit else {}
    tags |= {"origin": origin.folder} if (origin := schema.origin(cfg)) else {}
    return _call(cfg, "tracking", cfg.tracking, out_dir=out_dir, run_name=name, tags=tags)


def _arguments(cfg: DictConfig, group: str) -> DictConfig:
    """Return a group without its reserved keys."""
    return OmegaConf.masked_copy(cfg[group], [key for key in cfg[group] if key not in RESERVED[group]])


def _call(cfg: DictConfig, key: str, node: Any, **given: Any) -> Any:
    check_calls(node, key, cfg.security.allowed_targets)
    try:
        return instantiate(node, **given)
    except InstantiationException as error:
        full_key = re.search(r"full_key: (\S+)", str(error))
        message = " ".join(str(error.__cause__ or error).split())
        # pydantic, which checks Albumentations' arguments, says more than a user needs
        message = re.sub(
            r"\d+ validation errors? for InitSchema |\[type=.*?\]|For further information visit \S+",
            "",
            message,
        )
        raise ValueError(f"{full_key[1] if full_key else key}: {message.strip()}") from error
