"""Checks what a configuration wants to call: only code on the list, only arguments it takes."""

import functools
import inspect
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.overrides import TorchFunctionMode

from experiments.cli import one_line
from experiments.config import build
from experiments.config.allowed import calls, check_arguments, resolve
from experiments.config.explain import unknown
from experiments.config.kinds import check_kinds, check_value
from experiments.config.recipes import check_recipe
from experiments.config.schema import TARGETS
from experiments.config.values import plain
from experiments.files import canonical

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
    check_recipe(values["aug"])
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
    given = [name for name in GIVEN.get(key, ()) if name in node and name != "num_classes"]
    if given:
        raise ValueError(f"{key}.{given[0]} comes from the run itself: leave it out")
    check_kinds(key, node, target)
    for name, kind in build.RESERVED.get(key, {}).items():
        if name in node:
            check_value(f"{key}.{name}", node[name], kind)
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
    """Build all parts but the data, as the run will, so that wrong values are found now."""
    _rehearse_model(canonical(plain(cfg)["model"]), tuple(cfg.security.allowed_targets))
    noted = logging.getLogger("cifar_core.augment.pipeline")
    noted.disabled = True  # what it notes, the run itself will say
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Albumentations only warns of what it ignores
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            shapes = {"conv.weight": (2, 1, 1, 1), "fc.weight": (1, 1), "fc.bias": (1,)}
            weights = [(name, torch.nn.Parameter(torch.zeros(shape))) for name, shape in shapes.items()]
            build.augment(cfg)
            _rehearse_mix(cfg)
            optimizer = build.optimizer(cfg, weights)
            build.scheduler(cfg, optimizer, steps_per_epoch=10)
            build.tracker(cfg, Path(), "", "")  # writes nothing before it is entered
    finally:
        noted.disabled = False


@functools.cache  # for a sweep checks many points of one network
def _rehearse_model(text: str, allowed_targets: tuple[str, ...]) -> None:
    """Build the network, given as JSON, without memory for its weights."""
    node = json.loads(text)
    if ":" in str(node.get("name")):  # timm would ask a hub
        return
    cfg = OmegaConf.create({"model": node, "security": {"allowed_targets": list(allowed_targets)}})
    num_classes = node.get("num_classes", 10)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="Initializing zero-element tensors")
        try:
            with torch.device("meta"), _Unfilled():
                build.model(cfg, num_classes=num_classes)
        except ValueError:  # of a mistake, or because not every network can be built like that
            build.model(cfg, num_classes=num_classes)


class _Unfilled(TorchFunctionMode):
    """Leaves weights without memory as they are, for which torch imports its compiler else, 2 s."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func is torch.Tensor.normal_ else func(*args, **(kwargs or {}))


def _rehearse_mix(cfg: DictConfig) -> None:
    """Call what mixes a batch some times, for a RandomChoice may take another way each time."""
    node = plain(cfg)["aug"]["batch"]
    num_classes = next((call["num_classes"] for _, call in calls(node, "") if "num_classes" in call), 10)
    mix = build.mix(cfg, num_classes=num_classes)
    if mix is None:
        return
    size = cfg.data.image_size
    images, labels = torch.zeros(4, 3, size, size), torch.arange(4) % num_classes
    law = "aug.batch must take pictures and labels and return both, the labels as weights of the classes"
    with torch.random.fork_rng(devices=[]):
        for _ in range(8):
            try:
                mixed, targets = mix(images.clone(), labels)
                fits = mixed.shape == images.shape and targets.shape in ((4,), (4, num_classes))
            except Exception as error:  # foreign code fails in any way
                raise ValueError(f"{law}: {node['_target_']} fails, {one_line(error)}") from error
            if not fits:
                raise ValueError(f"{law}, got {tuple(mixed.shape)} and {tuple(targets.shape)}")
