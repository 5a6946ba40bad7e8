"""Checks what a configuration wants to call: only code on the list, only arguments it takes."""

import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from experiments.config import build
from experiments.config.allowed import calls, check_arguments, resolve
from experiments.config.explain import unknown
from experiments.config.schema import TARGETS
from experiments.config.values import plain

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
        for key, node in calls(values[group], group):
            _check_call(key, node, tuple(cfg.security.allowed_targets))
    for group in ("model", "optimizer", "scheduler", "tracking"):
        if "_target_" not in (values[group] or {}):
            raise ValueError(f"{group}._target_ must be given: the class or function of the {group}")
    _rehearse(cfg)


def _check_call(key: str, node: dict[str, Any], user_prefixes: tuple[str, ...]) -> None:
    target = resolve(f"{key}._target_", node["_target_"], user_prefixes)
    check_arguments(key, node)
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
