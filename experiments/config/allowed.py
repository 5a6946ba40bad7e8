"""The code a configuration may call: what builds something and reads no file, no pickle and no network.

A prefix would not do: beside its models a library offers loaders, readers and hubs.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra._internal.utils import _locate
from omegaconf import OmegaConf

from cifar_core.models.timm_bridge import READING
from experiments.tracking.tracker import Tracker

# What a name must begin with, and so must the module its object comes from.
LIBRARIES = (
    "cifar_core.",
    "experiments.tracking.",
    "torch.optim.",
    "torch.nn.",
    "albumentations.",
    "torchvision.transforms.",
    "torchvision.models.",
    "timm.",
)
KINDS = {  # where a class is from -> what it must be, by the name of a class it is derived from
    "cifar_core.train.optim.": ("torch.optim.optimizer.Optimizer",),
    "torch.nn.modules.": ("torch.nn.modules.module.Module",),
    "torch.optim.": ("torch.optim.optimizer.Optimizer", "torch.optim.lr_scheduler.LRScheduler"),
    "torchvision.models.": ("torch.nn.modules.module.Module",),
    "torchvision.transforms.": ("torch.nn.modules.module.Module",),
    "timm.models.": ("torch.nn.modules.module.Module",),
    "timm.layers.": ("torch.nn.modules.module.Module",),
    "timm.optim.": ("torch.optim.optimizer.Optimizer",),
    "albumentations.": (
        "albumentations.core.transforms_interface.BasicTransform",
        "albumentations.core.composition.BaseCompose",
    ),
}
OURS = ("cifar_core.models.", "cifar_core.train.schedules.")  # where all public functions and classes may be
REFUSED = {  # of those kinds, but they read picture or font files, or run a function that they are given
    "albumentations.": ("FDA", "HistogramMatching", "PixelDistributionAdaptation", "TextImage", "Lambda"),
    "torchvision.transforms.": ("Lambda",),
}


def calls(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every mapping with a `_target_` under ``node``, inner ones first, with its dotted key."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from calls(child, f"{key}.{name}")
    if isinstance(node, dict) and "_target_" in node:
        yield key, node


def check_calls(node: Any, key: str, user_prefixes: Sequence[str]) -> None:
    """Raise ValueError for a call anywhere in ``node`` that is not allowed, as it stands at this moment.

    Asked again by whoever makes the calls: a configuration need not have come through `compose`.
    """
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    for name, call in calls(plain, key):
        resolve(f"{name}._target_", call["_target_"], user_prefixes)
        check_arguments(name, call)


def check_arguments(key: str, call: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that has a builder of timm read a file or an address."""
    reading = [name for name in READING if name in call]
    if reading and str(call["_target_"]).startswith("timm."):
        raise ValueError(
            f"{key}.{reading[0]} is not taken, for it can read any file or address: use model.weights"
        )


def resolve(key: str, name: Any, user_prefixes: Sequence[str]) -> Any:
    """Return the class or function called ``name``; raise ValueError unless a configuration may call it."""
    law = f"{key} must name a class under {', '.join(LIBRARIES)} or security.allowed_targets, got {name!r}"
    own = tuple(user_prefixes)
    if not isinstance(name, str) or not name.startswith((*LIBRARIES, *own)):
        raise ValueError(f"{law}{_to_allow(name)}")
    try:
        target = _locate(name)  # as hydra.utils.get_object, which logs three lines more
    except Exception as error:  # an import can fail in any way
        cause = " ".join(str(error).split())
        raise ValueError(f"{key}: {name} cannot be imported: {cause}") from error
    home = f"{getattr(target, '__module__', None)}."
    callable_by_name = inspect.isclass(target) or inspect.isfunction(target)
    if callable_by_name and own and home.startswith(own):
        return target
    if not callable_by_name or not home.startswith(LIBRARIES):
        is_what = f"{'' if home == 'None.' else home}{getattr(target, '__name__', target)}"
        raise ValueError(f"{law}, which is {is_what}")
    if not _builds(target, home):
        raise ValueError(
            f"{law}: of these packages only networks, optimizers, schedules, transforms and trackers may be "
            "called, none that reads files or addresses"
        )
    return target


def _to_allow(name: Any) -> str:
    """Return what to add to the command for code of one's own."""
    package, dot, _ = name.partition(".") if isinstance(name, str) else ("", "", "")
    return (
        f"; if you trust that code, add security.allowed_targets=[{package}.]"
        if dot and package.isidentifier()
        else ""
    )


def _builds(target: Any, home: str) -> bool:
    if target.__name__.startswith("_"):
        return False
    if home.startswith(OURS):
        return True
    if inspect.isfunction(target):
        return _registered(target, home)
    if any(home.startswith(place) and target.__name__ in names for place, names in REFUSED.items()):
        return False
    if home.startswith("experiments.tracking."):
        return _is_tracker(target)
    kinds = [kind for place, names in KINDS.items() if home.startswith(place) for kind in names]
    return any(f"{base.__module__}.{base.__qualname__}" in kinds for base in target.__mro__)


def _registered(target: Any, home: str) -> bool:
    """Tell whether ``target`` is a classifier that torchvision or timm lists under its name."""
    if home.startswith("torchvision.models."):
        from torchvision import models

        name = target.__name__
        return name in models.list_models(module=models) and models.get_model_builder(name) is target
    if home.startswith("timm.models."):
        import timm

        return timm.is_model(target.__name__) and timm.model_entrypoint(target.__name__) is target
    return False


def _is_tracker(target: Any) -> bool:
    members = [name for name, member in vars(Tracker).items() if inspect.isfunction(member)]
    return target is not Tracker and all(hasattr(target, name) for name in members)
