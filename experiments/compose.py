"""Composes a configuration and checks all of it, so that a mistake is found before anything starts."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError

from experiments import schema
from experiments.spool import flatten

CONF = Path(__file__).resolve().parents[1] / "conf"
SETTINGS = ("data", "trainer", "analysis", "sweep")  # groups that are a dataclass each
RESOLVERS = ("oc.env", "oc.select", "oc.decode", "oc.dict.keys", "oc.dict.values", "now", "hydra")
ENVIRONMENT = ("CIFAR_", "HOME", "USER", "TMPDIR", "SCRATCH", "SLURM_")  # what variables may begin with
PLATEAU = "cifar_core.schedules.plateau"  # the one schedule that looks at results
TARGETS = ("model", "aug", "optimizer", "scheduler", "tracking")  # groups that name code


def compose(
    overrides: Sequence[str], *, config_name: str = "config", config_dir: str | None = None
) -> DictConfig:
    """Compose conf/ with ``overrides``, in Hydra's syntax, and check the result whole.

    ``config_dir`` is a further folder of options, as in Hydra's ``--config-dir``. Raises ValueError with one
    line that names the key, the law and what came.
    """
    if config_dir and not Path(config_dir).is_dir():
        raise ValueError(f"--config-dir must be a folder, got {config_dir}")
    more = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    cfg = _compose(CONF, config_name, [*more, *overrides])
    check(cfg)
    return cfg


def compose_saved(folder: Path, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration saved in a run folder, changed by ``overrides`` and checked.

    Raises FileNotFoundError where ``folder`` holds no run, ValueError as `compose` does.
    """
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no config.yaml")
    saved = _compose(folder.resolve(), "config", overrides)
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(schema.Config), saved)
    except OmegaConfBaseException as error:
        raise ValueError(explain(error)) from error
    check(cfg)
    return cfg


def _compose(folder: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    outer = GlobalHydra.instance().hydra  # set while Hydra itself calls us, as in a sweep
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(folder), version_base="1.3"):
            return hydra.compose(name, list(overrides))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(explain(error)) from error
    finally:
        GlobalHydra.instance().hydra = outer


def check(cfg: DictConfig) -> None:
    """Raise ValueError unless every key is known, every value lawful and every target callable as given."""
    try:
        _resolvers(cfg)
        settings(cfg)
        _protocol_laws(cfg)
        OmegaConf.to_container(_ours(cfg), resolve=True, throw_on_missing=True)
        from experiments import targets  # imports torch, so only when the values are right

        targets.check(cfg)
    except OmegaConfBaseException as error:
        raise ValueError(explain(error)) from error


def settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the dataclass of each settings group by its name, laws checked."""
    _known(_ours(cfg), schema.Config)
    schema.expected(cfg)
    return {group: OmegaConf.to_object(cfg[group]) for group in SETTINGS}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the run's own configuration, resolved, as plain containers."""
    return OmegaConf.to_container(_ours(cfg), resolve=True)


def differences(cfg: DictConfig) -> dict[str, list[str]]:
    """Return what ``cfg`` sets otherwise than the default run: dotted key -> [default, value]."""
    default, ours = (
        flatten({key: value for key, value in plain(one).items() if key != "expected"})
        for one in (_compose(CONF, "config", []), cfg)
    )
    keys = [*ours, *(key for key in default if key not in ours)]
    return {
        key: [default.get(key, "-"), ours.get(key, "-")] for key in keys if default.get(key) != ours.get(key)
    }


def unknown(name: str, choices: Iterable[str], what: str) -> str:
    """Return a line that says ``name`` is not there, what was perhaps meant and what there is."""
    choices = sorted(map(str, choices))
    close = difflib.get_close_matches(name, choices, n=1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    return f"{what}{meant}; there is: {', '.join(choices)}"


def explain(error: Exception) -> str:
    """Return one line for an error of Hydra or OmegaConf: the key, the law, what came."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return unknown(option, error.options, f"{group}={option} is not an option of {group}")
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} must be given, e.g. {cause.full_key}=..."
    if isinstance(cause, ValidationError):
        return _wrong_type(cause)
    if isinstance(cause, (AttributeError, KeyError)) and getattr(cause, "parent_node", None) is not None:
        return _unknown_key(cause)
    if isinstance(error, ConfigCompositionException) and "No match in the defaults list" in str(error):
        name = str(error).split("'")[1]
        return unknown(name, [*SETTINGS, *TARGETS, "experiment", "seed"], f"{name} is not a group or a key")
    return " ".join(line.strip() for line in str(cause).splitlines() if "_type=" not in line)


def _ours(cfg: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


def _known(node: DictConfig, settings_type: Any, prefix: str = "") -> None:
    """Raise ValueError for a key that a typed group lacks: `+trainer.epochz=3` adds one even there."""
    fields = [field.name for field in dataclasses.fields(settings_type)]
    for key in map(str, node):
        if key not in fields:
            raise ValueError(unknown(key, fields, f"{prefix}{key} is not a key"))
        if dataclasses.is_dataclass(inner := OmegaConf.get_type(node, key)):
            _known(node[key], inner, f"{prefix}{key}.")


def _resolvers(cfg: DictConfig) -> None:
    """Raise ValueError for an interpolation that could carry a secret of the environment into the record."""
    raw = OmegaConf.to_container(_ours(cfg), resolve=False)
    for key, text in flatten(raw).items():
        for resolver, argument in re.findall(r"\$\{\s*([\w.]+)\s*:\s*['\"]?([\w.]*)", text):
            if resolver not in RESOLVERS or (resolver == "oc.env" and not argument.startswith(ENVIRONMENT)):
                raise ValueError(
                    f"{key} may use only the resolvers {', '.join(RESOLVERS)}, oc.env only for "
                    f"{', '.join(ENVIRONMENT)}, got ${{{resolver}:{argument}}}"
                )


def _protocol_laws(cfg: DictConfig) -> None:
    if cfg.trainer.evaluate == "end" and cfg.data.val_size > 0:
        raise ValueError(
            f"trainer.evaluate=end is for data.val_size=0, got {cfg.data.val_size}: "
            "a validation split chooses among epochs"
        )
    if cfg.trainer.evaluate == "end" and cfg.scheduler.get("_target_") == PLATEAU:
        raise ValueError(
            "scheduler=plateau needs trainer.evaluate=each_epoch: it looks at every epoch's accuracy"
        )
    steps = cfg.aug.get("image") or {}
    flips = [name for name, step in steps.items() if step.get("_target_") == "albumentations.HorizontalFlip"]
    if cfg.trainer.alternating_flip and flips:
        raise ValueError(
            "trainer.alternating_flip is in place of a random flip: "
            f"take that out with '~aug.image.{flips[0]}'"
        )
    if cfg.data.val_size == 0 and cfg.trainer.early_stop > 0:
        raise ValueError(
            f"trainer.early_stop needs a validation split, got {cfg.trainer.early_stop} with data.val_size=0"
        )


def _wrong_type(cause: Any) -> str:
    said = str(cause).splitlines()[0]
    kinds = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
    kind = next(
        (kind for name, kind in kinds.items() if f"to {name}" in said or f"valid {name}" in said), None
    )
    return (
        f"{cause.full_key} must be {kind}, got {said.split(chr(39))[1]!r}"
        if kind
        else f"{cause.full_key}: {said}"
    )


def _unknown_key(cause: Any) -> str:
    keys = [str(key) for key in cause.parent_node] if isinstance(cause.parent_node, DictConfig) else []
    return unknown(str(cause.key), keys, f"{cause.full_key} is not a key")
