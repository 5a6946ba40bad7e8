"""Checks what a configuration wants to call: only code on the list, only arguments it takes."""

import inspect
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra.utils
import torch
from omegaconf import DictConfig

from experiments.config import build
from experiments.config.explain import unknown
from experiments.config.schema import TARGETS
from experiments.config.values import plain

# A dotted name must start with one of these, and so must the module its object comes from: a prefix of the
# name alone would let through what an allowed module imports, such as `torch.nn.modules.module.torch.load`.
CLASSES = (
    "cifar_core.",
    "experiments.tracking.",
    "torch.optim.",
    "torch.nn.",
    "albumentations.",
    "torchvision.transforms.",
    "torchvision.models.",
    "timm.",
)
FUNCTIONS = ("cifar_core.models.", "cifar_core.train.schedules.", "torchvision.models.", "timm.models.")
GIVEN = {  # arguments that come from code: group -> names
    "model": ("num_classes",),
    "optimizer": ("params",),
    "scheduler": ("optimizer", "epochs", "steps_per_epoch"),
    "aug.batch": ("num_classes",),
    "tracking": ("out_dir", "run_name", "tags"),
}
HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def check(cfg: DictConfig) -> None:
    """Raise ValueError, naming the key, for a target that is not allowed, not there or not called rightly."""
    values = plain(cfg)
    for group in TARGETS:
        for key, node in _calls(values[group], group):
            _check_call(key, node, tuple(cfg.security.allowed_targets))
    for group in ("model", "optimizer", "scheduler", "tracking"):
        if "_target_" not in (values[group] or {}):
            raise ValueError(f"{group}._target_ must be given: the class or function of the {group}")
    _rehearse(cfg)


def _calls(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every mapping with a `_target_` under ``node``, inner ones first, with its dotted key."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from _calls(child, f"{key}.{name}")
    if isinstance(node, dict) and "_target_" in node:
        yield key, node


def _check_call(key: str, node: dict[str, Any], user_prefixes: tuple[str, ...]) -> None:
    target = resolve(f"{key}._target_", node["_target_"], user_prefixes)
    takes = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return
    reserved = (*HYDRA_KEYS, *build.RESERVED.get(key, ()))
    for name in node:
        if name not in takes and name not in reserved:
            raise ValueError(unknown(name, takes, f"{key}.{name} is not an argument of {node['_target_']}"))
    if node.get("_partial_"):  # the rest comes from whoever calls it
        return
    required = [name for name, p in takes.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    for name in required:
        if name not in node and name not in GIVEN.get(key, ()) and "_args_" not in node:
            raise ValueError(f"{key}.{name} must be given: {node['_target_']} needs it")


def resolve(key: str, name: Any, user_prefixes: tuple[str, ...]) -> Any:
    """Return the class or function called ``name``, if it is one that a configuration may call."""
    law = f"{key} must name a class under {', '.join(CLASSES)} or security.allowed_targets, got {name!r}"
    if not isinstance(name, str) or not name.startswith((*CLASSES, *user_prefixes)):
        raise ValueError(law)
    try:
        target = hydra.utils.get_object(name)
    except Exception as error:  # an import can fail in any way
        cause = " ".join(str(error).split())
        raise ValueError(f"{key}: {name} cannot be imported: {cause}") from error
    allowed = CLASSES if inspect.isclass(target) else FUNCTIONS
    home = f"{getattr(target, '__module__', None)}."
    if not (inspect.isclass(target) or inspect.isfunction(target)) or not home.startswith(
        (*allowed, *user_prefixes)
    ):
        raise ValueError(
            f"{law}, which is {'' if home == 'None.' else home}{getattr(target, '__name__', target)}"
        )
    return target


def _rehearse(cfg: DictConfig) -> None:
    """Build what is cheap to build, as the run will, so that wrong values are found now."""
    noted = logging.getLogger("cifar_core.augment.pipeline")
    noted.disabled = True  # what it notes, the run itself will say
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Albumentations only warns of what it ignores
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            shapes = {"conv.weight": (2, 1, 1, 1), "fc.weight": (1, 1), "fc.bias": (1,)}
            weights = [(name, torch.nn.Parameter(torch.zeros(shape))) for name, shape in shapes.items()]
            build.augment(cfg)
            build.mix(cfg, num_classes=10)
            optimizer = build.optimizer(cfg, weights)
            build.scheduler(cfg, optimizer, steps_per_epoch=10)
            build.tracker(cfg, Path(), "", "")  # writes nothing before it is entered
    finally:
        noted.disabled = False
