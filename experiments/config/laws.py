"""Laws that no group can judge alone: what interpolations may read, which keys fit together."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.config.explain import unknown
from experiments.config.values import ours
from experiments.files import flatten

RESOLVERS = ("oc.env", "oc.select", "oc.decode", "oc.dict.keys", "oc.dict.values", "now", "hydra")
ENVIRONMENT = ("CIFAR_", "HOME", "USER", "TMPDIR", "SCRATCH", "SLURM_")  # what variables may begin with
RECIPE = ("image", "batch", "backend", "workers")  # keys of `aug`; others are for its interpolations
PLATEAU = "cifar_core.train.schedules.plateau"  # the one schedule that looks at results


def check_resolvers(cfg: DictConfig) -> None:
    """Raise ValueError for an interpolation that could carry a secret of the environment into the record."""
    raw: Any = OmegaConf.to_container(ours(cfg), resolve=False)
    for key, text in flatten(raw).items():
        for resolver, argument in re.findall(r"\$\{\s*([\w.]+)\s*:\s*['\"]?([\w.]*)", text):
            if resolver not in RESOLVERS or (resolver == "oc.env" and not argument.startswith(ENVIRONMENT)):
                raise ValueError(
                    f"{key} may use only the resolvers {', '.join(RESOLVERS)}, oc.env only for "
                    f"{', '.join(ENVIRONMENT)}, got ${{{resolver}:{argument}}}"
                )


def check_protocol(cfg: DictConfig) -> None:
    """Raise ValueError where protocol, schedule and augmentation do not fit together."""
    if cfg.trainer.evaluate == "end" and cfg.data.val_size > 0:
        raise ValueError(
            f"trainer.evaluate=end is for data.val_size=0, got {cfg.data.val_size}: "
            "a validation split chooses among epochs"
        )
    if cfg.trainer.evaluate == "end" and cfg.scheduler.get("_target_") == PLATEAU:
        raise ValueError(
            "scheduler=plateau needs trainer.evaluate=each_epoch: it looks at every epoch's accuracy"
        )
    steps = cfg.aug.get("image")
    flips = [
        name
        for name, step in (steps.items() if OmegaConf.is_dict(steps) else ())
        if OmegaConf.is_dict(step) and step.get("_target_") == "albumentations.HorizontalFlip"
    ]
    if cfg.trainer.alternating_flip and flips:
        raise ValueError(
            "trainer.alternating_flip is in place of a random flip: "
            f"take that out with '~aug.image.{flips[0]}'"
        )
    if cfg.data.val_size == 0 and cfg.trainer.early_stop > 0:
        raise ValueError(
            f"trainer.early_stop needs a validation split, got {cfg.trainer.early_stop} with data.val_size=0"
        )


def check_unread(cfg: DictConfig) -> None:
    """Raise ValueError for a key of `aug` that no recipe knows and that nothing of the configuration reads.

    For a configuration as it is composed: a saved one has its interpolations filled in.
    """
    raw: Any = OmegaConf.to_container(ours(cfg), resolve=False)
    texts = flatten(raw).values()
    for key in map(str, raw["aug"] if isinstance(raw["aug"], dict) else ()):
        if key not in RECIPE and not any(re.search(rf"\$\{{.*\b{re.escape(key)}\b", text) for text in texts):
            raise ValueError(unknown(key, RECIPE, f"aug.{key} is not a key"))
