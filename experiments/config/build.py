"""Turns a group of the configuration into the object it describes."""

import inspect
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object, instantiate
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
from cifar_core.train.eager import spare_compiler
from cifar_core.train.loop import Mix
from cifar_core.train.numerics import set_up
from cifar_core.train.optim import quick
from cifar_core.train.state import TrainState, start, steps_per_epoch
from experiments.config import schema
from experiments.config.allowed import check_calls
from experiments.config.blame import blamed
from experiments.config.values import Settings, settings, with_constants
from experiments.tracking.tracker import Tracker

log = logging.getLogger(__name__)

# Keys of a group that are about the object, not arguments of it.
RESERVED: dict[str, dict[str, Any]] = {
    "model": {"cam_layer": str | None, "weights": str | None},
    "optimizer": {"decay_norm_bias": bool},
}
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
        arguments["pretrained"] = False
    _same_classes("model", arguments, num_classes)
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
    """Return the named Albumentations transforms of `aug.image`, in order, without those that are null."""
    named = _plain(cfg, "aug.image") or {}
    made = {name: _call(cfg, f"aug.image.{name}", step) for name, step in named.items() if step is not None}
    for name, step in made.items():
        if not isinstance(step, Step):
            kind = f"{type(step).__module__}.{type(step).__name__}"
            raise ValueError(f"aug.image.{name} must be an Albumentations transform, got {kind}")
    return made


def augment(cfg: DictConfig) -> Augment:
    """Return the function on uint8 pictures that `aug.image` and `aug.backend` describe."""
    recipe, options = steps(cfg), {"backend": cfg.aug.backend, "workers": cfg.aug.workers}
    return augmentation(recipe, **options, image_size=cfg.data.image_size)


def mix(cfg: DictConfig, *, num_classes: int) -> Mix | None:
    """Return the function on float pictures and labels that `aug.batch` describes, None where it is null."""
    node = _plain(cfg, "aug.batch")
    return None if node is None else _call(cfg, "aug.batch", _with_classes("aug.batch", node, num_classes))


def _with_classes(key: str, node: Any, num_classes: int) -> Any:
    """Give ``num_classes`` to every call in ``node`` that takes it, as those in a RandomChoice do."""
    if isinstance(node, list):
        return [_with_classes(f"{key}.{place}", child, num_classes) for place, child in enumerate(node)]
    if not isinstance(node, dict):
        return node
    full = {name: _with_classes(f"{key}.{name}", child, num_classes) for name, child in node.items()}
    if "_target_" in node:
        _same_classes(key, node, num_classes)
        takes = inspect.signature(get_object(node["_target_"])).parameters.values()
        if any(one.name == "num_classes" or one.kind is one.VAR_KEYWORD for one in takes):
            full["num_classes"] = num_classes
    return full


def _same_classes(key: str, node: dict[str, Any], num_classes: int) -> None:
    given = node.get("num_classes", num_classes)
    if given != num_classes:
        raise ValueError(f"{key}.num_classes comes from the data, {num_classes}, got {given}: leave it out")


def optimizer(cfg: DictConfig, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
    """Return the optimizer over those of the (name, parameter) pairs that are trained.

    With `decay_norm_bias` false, parameters of fewer than two axes get a group without weight decay.
    """
    spare_compiler()
    pairs: list[Any] = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
    device = next((parameter.device for _, parameter in pairs), torch.device("cpu"))
    if not cfg.optimizer.get("decay_norm_bias", True):
        layers = [pair for pair in pairs if pair[1].ndim > 1]
        others = [pair for pair in pairs if pair[1].ndim <= 1]
        pairs = [{"params": layers}, {"params": others, "weight_decay": 0.0}]

    def of(arguments: dict[str, Any]) -> Optimizer:
        groups = [dict(pair) if isinstance(pair, dict) else pair for pair in pairs]  # torch fills them in
        make = instantiate(arguments, _partial_=True, _convert_="all")
        return make(groups, **quick(make.func, device, arguments))

    return _built(cfg, "optimizer", _arguments(cfg, "optimizer"), of)


def scheduler(cfg: DictConfig, optimizer: Optimizer, *, steps_per_epoch: int) -> LRScheduler:
    """Return the schedule of ``optimizer`` over all epochs of this run, without those of its origin."""
    before = origin.epochs if (origin := schema.origin(cfg)) else 0
    run_time = {"epochs": cfg.trainer.epochs - before, "steps_per_epoch": steps_per_epoch}

    def of(arguments: dict[str, Any]) -> LRScheduler:
        return instantiate(arguments, _partial_=True, _convert_="all")(optimizer, **run_time)

    try:
        return _built(cfg, "scheduler", _plain(cfg, "scheduler"), of)
    except ValueError as error:
        added = f" (over the {run_time['epochs']} epochs after origin.epochs, {before})" if before else ""
        raise ValueError(f"{error}{added}") from error


def cam_module(cfg: DictConfig, model: nn.Module, image_size: int) -> nn.Module:
    """Return the module whose grid the CAM uses: `analysis.layer`, or else the model's own."""
    try:
        return cams.cam_module(model, cfg.analysis.layer or cfg.model.get("cam_layer", ""), image_size)
    except ValueError as error:
        if "must take pictures" not in str(error) or "options" not in cfg.model:
            raise
        fix = f"+model.options.img_size={image_size} +model.options.patch_size=4"
        raise ValueError(f"{error} A transformer of timm may want {fix}") from error


def tracker(
    cfg: DictConfig, out_dir: Path, name: str, protocol: str, *, commit: str = "", point: str = ""
) -> Tracker:
    """Return the tracker of the run in ``out_dir``, not yet entered.

    ``point`` is its name but for the seed, for which the tracker can group it.
    """
    tags = {"protocol": protocol, "seed": str(cfg.seed), "run_folder": str(out_dir)}
    tags |= {"kind": "trial" if OmegaConf.select(cfg, "sweep.name") else "run", "point": point}
    tags |= {"mlflow.source.name": "experiments.run", "mlflow.source.type": "LOCAL"}
    tags |= {"mlflow.source.git.commit": commit} if commit else {}
    tags |= {"origin": origin.folder} if (origin := schema.origin(cfg)) else {}
    return _call(cfg, "tracking", _plain(cfg, "tracking"), out_dir=out_dir, run_name=name, tags=tags)


def _plain(cfg: DictConfig, key: str) -> Any:
    """Return a part of the configuration as plain containers, what it reads of other parts filled in."""
    node = OmegaConf.select(cfg, key)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _arguments(cfg: DictConfig, group: str) -> dict[str, Any]:
    """Return a group without its reserved keys."""
    return {name: value for name, value in _plain(cfg, group).items() if name not in RESERVED[group]}


def _call(cfg: DictConfig, key: str, node: dict[str, Any], **given: Any) -> Any:
    return _built(cfg, key, node, lambda arguments: instantiate(arguments, _convert_="all", **given))


def _built(cfg: DictConfig, key: str, node: dict[str, Any], build: Callable[[dict[str, Any]], Any]) -> Any:
    """Return ``build(node)``; raise ValueError, naming the argument, for whatever goes wrong in it."""
    check_calls(node, key, cfg.security.allowed_targets)
    try:
        return build(node)
    except Exception as error:  # foreign code fails in any way on values that it does not like
        raise blamed(key, node, build, error) from error
