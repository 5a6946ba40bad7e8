"""Laws that no group can judge alone: what interpolations may read, which keys fit together."""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser as Grammar
from omegaconf.grammar_parser import parse

from experiments.config.explain import unknown
from experiments.config.values import ours
from experiments.files import flatten

RESOLVERS = ("oc.env", "oc.select", "oc.decode", "oc.dict.keys", "oc.dict.values", "now", "hydra")
VARIABLES = ("HOME", "USER", "TMPDIR", "SCRATCH")  # of the environment, that may be read
ENVIRONMENT = ("CIFAR_", "SLURM_")  # what others may begin with
SECRETS = ("SLURM_JWT",)  # ... but these
HYDRA_CALLS = ("hydra._internal.core_plugins.", "hydra_plugins.")  # what Hydra may call by itself
LOG_CALLS = ("logging.StreamHandler", "colorlog.ColoredFormatter")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
RECIPE = ("image", "batch", "backend", "workers")  # keys of `aug`; others are for its interpolations
PLATEAU = "cifar_core.train.schedules.plateau"  # the one schedule that looks at results


def check_resolvers(cfg: DictConfig) -> None:
    """Raise ValueError for an interpolation that could carry a secret of the environment into the record.

    What it is must stand in its text: no resolver's name is put together, no variable's, and no text that is
    then read as a further interpolation.
    """
    for key, text in _texts(OmegaConf.to_container(ours(cfg), resolve=False)):
        if "${" in text and (bad := _not_plain(parse(text))):
            raise ValueError(
                f"{key} may use only the resolvers {', '.join(RESOLVERS)}, oc.env only for "
                f"{', '.join((*VARIABLES, *(f'{start}...' for start in ENVIRONMENT)))}, oc.decode only of an "
                f"oc.env, got {bad}"
            )


def check_hydra(values: dict[str, Any]) -> None:
    """Raise ValueError where ``values``, Hydra's part of a configuration, call code not its own."""
    job = values.get("job") or {}
    if job.get("env_set"):
        raise ValueError(f"hydra.job.env_set must be empty in a folder of options, got {job['env_set']}")
    if values.get("output_subdir") is not None:  # Hydra would write there, wherever it is
        raise ValueError(f"hydra.output_subdir must be null, got {values['output_subdir']}")
    for key, text in _texts(values, "hydra"):
        word = key.rpartition(".")[2]
        if (word == "stream" or text.startswith("ext://")) and text not in STREAMS:  # which logging imports
            raise ValueError(f"{key} must be one of {', '.join(STREAMS)}, got {text!r}")
        own = HYDRA_CALLS if word == "_target_" else LOG_CALLS if word in ("class", "()") else ("",)
        if not text.startswith(own):
            raise ValueError(f"{key} must begin with {' or '.join(own)}, got {text!r}")


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in plain containers with its dotted key."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from _texts(child, f"{key}.{name}" if key else str(name))
    if isinstance(node, str):
        yield key, node


def _not_plain(node: Any) -> str:
    """Return the first resolver in a parsed text that may not be used like that, "" where there is none."""
    if isinstance(node, Grammar.InterpolationResolverContext):
        name, sequence = node.resolverName().getText(), node.sequence()
        arguments = [each.getText().strip("'\" ") for each in sequence.element()] if sequence else []
        first = arguments[0] if arguments else ""
        allowed = first in VARIABLES or (first.startswith(ENVIRONMENT) and first.isidentifier())
        decoded = re.fullmatch(r"\$\{oc\.env:[^${}]*\}", first)
        if (
            name not in RESOLVERS
            or (name == "oc.env" and (not allowed or first in SECRETS))
            or (name == "oc.decode" and not decoded)
        ):
            return str(node.getText())
    return next(filter(None, map(_not_plain, getattr(node, "children", None) or ())), "")


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
    if not OmegaConf.is_dict(cfg.aug):
        raise ValueError(f"aug must map keys to values, got {cfg.aug!r}")
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
