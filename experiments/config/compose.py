"""Composes a configuration and checks all of it, so that a mistake is found before anything starts."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import command
from experiments.config import schema, words
from experiments.config.check import check
from experiments.config.explain import explain, unknown
from experiments.config.laws import check_hydra, check_unread
from experiments.config.renamed import renew_config
from experiments.config.schema import SETTINGS, TARGETS
from experiments.config.values import check_words, ours, plain
from experiments.files import CONF, check_links, flatten
from experiments.tracking.uri import refuse_password

First = Callable[[DictConfig, Path], None]  # gets a configuration and its run folder

ALLOWED = "security.allowed_targets"
_conf = ContextVar("conf", default=CONF)  # the folder that is composed from


@contextmanager
def composing_from(folder: str | Path | None) -> Iterator[None]:
    """Take ``folder`` for the project's conf/, as a sweep does, which keeps the one of its start."""
    token = _conf.set(Path(folder) if folder else _conf.get())
    try:
        yield
    finally:
        _conf.reset(token)


def compose(
    overrides: Sequence[str],
    *,
    config_name: str = "config",
    config_dir: str | None = None,
    in_sweep: bool = False,
    single: bool = False,
    first: First | None = None,
) -> DictConfig:
    """Compose conf/ with ``overrides``, in Hydra's syntax, and check the result whole.

    ``config_dir`` is a further folder of options, as in Hydra's ``--config-dir``. Raises ValueError with one
    line that names the key, the law and what came. A point of a sweep (``in_sweep``) may have options that
    do something at other points only; ``single`` refuses a preset that only a sweep heeds. ``first`` gets
    the configuration once its values are right, before torch is imported to check the code it names.
    """
    return compose_chosen(
        overrides,
        config_name=config_name,
        config_dir=config_dir,
        in_sweep=in_sweep,
        single=single,
        first=first,
    )[0]


def compose_chosen(
    overrides: Sequence[str],
    *,
    config_name: str = "config",
    config_dir: str | None = None,
    in_sweep: bool = False,
    single: bool = False,
    first: First | None = None,
) -> tuple[DictConfig, dict[str, str]]:
    """Return what `compose` does and the option chosen of each group, which the values do not tell."""
    cfg = _compose(_conf.get(), config_name, [*_searched(config_dir), *overrides], hydra_too=True)
    if single:
        _check_single(cfg, overrides)
    _fill_in(cfg)
    chosen, folder = options(cfg.hydra), _run_dir(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    check_words(overrides)
    check_unread(cfg)
    renew_config(cfg, tell=True)
    refuse_password(OmegaConf.select(cfg, "tracking.uri", throw_on_resolution_failure=False))
    check(cfg, () if in_sweep else overrides, first=functools.partial(first, cfg, folder) if first else None)
    return cfg, chosen


def options(hydra_cfg: Any) -> dict[str, str]:
    """Return the option chosen of each group of conf/, from Hydra's own part of a configuration."""
    chosen = hydra_cfg.runtime.choices.items()
    return {str(group): str(name) for group, name in chosen if name and not str(group).startswith("hydra/")}


def check_options(overrides: Sequence[str], *, config_name: str, config_dir: str | None) -> None:
    """Raise ValueError where a further folder of options has Hydra itself call code, before it does."""
    if not config_dir and not any(word.lstrip("+").startswith("hydra.searchpath=") for word in overrides):
        return
    more = _searched(config_dir)
    with _initialized(CONF) as loader, _explained():
        cfg = loader.compose_config(
            config_name, [*more, *overrides], RunMode.MULTIRUN, validate_sweep_overrides=False
        )
    values: Any = OmegaConf.to_container(cfg.hydra, resolve=False)
    check_hydra(values)


def _searched(config_dir: str | None) -> list[str]:
    """Return the word that has Hydra look for options in a further folder too."""
    if not config_dir:
        return []
    if not Path(config_dir).is_dir():
        raise ValueError(f"--config-dir must be a folder, got {config_dir}")
    return [f"hydra.searchpath=[{words.quoted(f'file://{Path(config_dir).resolve()}')}]"]


def compose_saved(folder: Path, overrides: Sequence[str], *, first: First | None = None) -> DictConfig:
    """Return the configuration saved in a run folder, changed by ``overrides`` and checked as `compose` does.

    The folder may be a stranger's: it is read as values only, and what it says of `security` is not believed.
    Raises FileNotFoundError where ``folder`` holds no run, ValueError as `compose` does.
    """
    check_run(folder)
    check_links(folder)
    _check_plain(folder / "config.yaml")
    _check_no_options(overrides)
    saved = _compose(folder.resolve(), "config", overrides)
    if not trusting(overrides):
        OmegaConf.update(saved, ALLOWED, _of_conf(), force_add=True)
    check_words(overrides)
    renew_config(saved)
    try:
        cfg: Any = OmegaConf.merge(OmegaConf.structured(schema.Config), saved)
    except OmegaConfBaseException as error:
        raise ValueError(explain(error)) from error
    if any(word.lstrip("+").startswith("tracking") for word in overrides):  # a saved one is there already
        refuse_password(OmegaConf.select(cfg, "tracking.uri", throw_on_resolution_failure=False))
    check(cfg, overrides, first=functools.partial(first, cfg, folder) if first else None)
    return cfg


def check_run(folder: Path) -> None:
    """Raise FileNotFoundError where ``folder`` holds no run."""
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(_no_run(folder))


def trusting(overrides: Sequence[str]) -> list[str]:
    """Return those of ``overrides`` that allow code of one's own."""
    return [word for word in overrides if word.lstrip("+").startswith(f"{ALLOWED}=")]


def _of_conf() -> list[str]:
    """Return the packages that the user's own conf/ allows."""
    return yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["security"]["allowed_targets"]


def _check_plain(path: Path) -> None:
    """Raise ValueError for a saved configuration with directions to Hydra, such as `defaults` or `hydra`."""
    text = path.read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is damaged: {explain(error)}") from error
    if not isinstance(values, dict) or re.search(r"^\s*#\s*@package", text, re.MULTILINE):
        raise ValueError(f"{path} is not the configuration of a run, which maps names to values")
    fields = [field.name for field in dataclasses.fields(schema.Config)]
    for key in map(str, values):
        if key not in fields:
            raise ValueError(unknown(key, fields, f"{path}: {key} is not a key"))


def _check_no_options(overrides: Sequence[str]) -> None:
    """Raise ValueError for an override that would choose an option of a group: what is saved has values."""
    words.check(overrides)
    for word in overrides:
        key, equals, _ = word.lstrip("+").partition("=")
        if equals and key in (*SETTINGS, *TARGETS, "experiment") and not isinstance(words.value(word), dict):
            keys = "its keys" if key == "experiment" else f"keys, as in {key}.<key>=<value>"
            raise ValueError(f"{word} names an option, and a saved configuration has none: change {keys}")


def _no_run(folder: Path) -> str:
    """Say what lies in place of a run folder, and what was perhaps meant."""
    if not folder.exists():
        return f"{folder} is not a run folder: it is not there"
    if (folder / "sweep.yaml").exists():
        again = _recorded_command(folder) or "the command that began it"
        return f"{folder} is the folder of a sweep, not of a run: a sweep goes on with {again}"
    if folder.is_file() and (folder.parent / "config.yaml").is_file():
        return f"{folder} is not a run folder but a file in one: name {folder.parent}"
    inner = next(
        (path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/config.yaml")), None
    )
    within = f"; {inner} in it is one" if inner else ""
    return f"{folder} is not a run folder: it has no config.yaml{within}"


def _recorded_command(folder: Path) -> str:
    """Return the command that works on the sweep in a folder; empty where that does not say."""
    try:
        content = yaml.safe_load((folder / "sweep.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return str(content.get("command", "")) if isinstance(content, dict) else ""


def _check_single(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Raise ValueError, with the line that starts the sweep, for keys of a preset that have no one value."""
    given = {word.lstrip("+").partition("=")[0] for word in overrides}
    if swept := [str(key) for key in cfg.hydra.sweeper.get("params") or [] if str(key) not in given]:
        line = command("run", "-m", *overrides)
        raise ValueError(f"{', '.join(swept)} of this preset would not be swept without -m: {line}")


def _compose(folder: Path, name: str, overrides: Sequence[str], *, hydra_too: bool = False) -> DictConfig:
    words.check(overrides)
    with _initialized(folder), _explained():
        return hydra.compose(name, list(overrides), return_hydra_config=hydra_too)


@contextmanager
def _initialized(folder: Path) -> Iterator[Any]:
    """Give Hydra ``folder`` to compose from; afterwards the one that it had."""
    outer = GlobalHydra.instance().hydra  # set while Hydra itself calls us, as in a sweep
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(folder), version_base="1.3"):
            yield GlobalHydra.instance().hydra
    finally:
        GlobalHydra.instance().hydra = outer


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(explain(error)) from error


@functools.cache
def _default(conf: Path) -> DictConfig:
    """Return the default run of a conf/."""
    return _compose(conf, "config", [])


def _fill_in(cfg: DictConfig) -> None:
    """Fill in what ``cfg`` reads by `${hydra:...}` of Hydra's own configuration, which does not stay."""
    written: Any = OmegaConf.to_container(ours(cfg), resolve=False)
    keys = [key for key, text in flatten(written).items() if "${hydra:" in text]
    if not keys:
        return
    with _read_by_hydra(cfg):
        for key in keys:
            OmegaConf.update(cfg, key, OmegaConf.select(cfg, key))


def _run_dir(cfg: DictConfig) -> Path:
    with _read_by_hydra(cfg):
        return Path(cfg.hydra.run.dir)


@contextmanager
def _read_by_hydra(cfg: DictConfig) -> Iterator[None]:
    """Have `${hydra:...}` read of Hydra's own part of ``cfg``."""
    outer, HydraConfig.instance().cfg = HydraConfig.instance().cfg, None
    HydraConfig.instance().set_config(cfg)
    try:
        yield
    except OmegaConfBaseException as error:
        raise ValueError(explain(error)) from error
    finally:
        HydraConfig.instance().cfg = outer


def differences(cfg: DictConfig) -> dict[str, list[str]]:
    """Return what ``cfg`` sets otherwise than the default run: dotted key -> [default, value]."""
    default, ours = (
        flatten({key: value for key, value in plain(one).items() if key != "expected"})
        for one in (_default(_conf.get()), cfg)
    )
    keys = [*ours, *(key for key in default if key not in ours)]
    return {
        key: [default.get(key, "-"), ours.get(key, "-")] for key in keys if default.get(key) != ours.get(key)
    }
