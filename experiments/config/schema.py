"""The typed root of the configuration, registered with Hydra under the name `schema`."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from cifar_core.data.settings import DataSettings
from cifar_core.laws import law, one_of
from cifar_core.report.settings import AnalysisSettings
from cifar_core.train.settings import TrainerSettings
from experiments.config.settings import SweepSettings

SETTINGS = ("data", "trainer", "analysis", "sweep")  # groups that are a dataclass each
TARGETS = ("model", "aug", "optimizer", "scheduler", "tracking")  # groups that name code


@dataclass
class Security:
    """What a configuration may call."""

    allowed_targets: list[str]  # prefixes of the user's own packages, e.g. `my_package.`


@dataclass
class Expected:
    """What a recipe reached elsewhere, to be told beside what a run reaches."""

    test_acc: float  # share
    epochs: int
    source: str  # where the figure stands

    def __post_init__(self) -> None:
        if not 0 <= self.test_acc <= 1:
            percent = f": write {self.test_acc / 100:.4g} for {self.test_acc} %" if self.test_acc > 1 else ""
            raise ValueError(f"expected.test_acc must be a share in [0, 1], got {self.test_acc}{percent}")
        if self.epochs < 1:
            raise ValueError(f"expected.epochs must be at least 1, got {self.epochs}")
        if not self.source.strip():
            raise ValueError(f"expected.source must say where the figure stands, got {self.source!r}")


@dataclass
class Origin:
    """The finished run that a run goes on from, as `resume=<it> trainer.epochs=N` notes it."""

    folder: str
    epochs: int  # that it has had; this run counts on from there
    weights: str  # last: those of its last epoch, with optimizer and average; best: those of its best epoch

    def __post_init__(self) -> None:
        law(self.epochs >= 1, "origin.epochs", "at least 1", self.epochs)
        one_of("origin.weights", ("last", "best"), self.weights)


@dataclass
class Config:
    """Everything a run is made of: groups of values are typed, groups of code are a `_target_` each."""

    seed: int
    data: DataSettings
    model: Any
    aug: Any
    optimizer: Any
    scheduler: Any
    trainer: TrainerSettings
    tracking: Any
    analysis: AnalysisSettings
    sweep: SweepSettings
    security: Security
    expected: Any = None  # null or an `Expected`; configurations saved before there was one lack it
    origin: Any = None  # null or an `Origin`


def expected(cfg: DictConfig) -> Expected | None:
    """Return what the recipe of ``cfg`` reached elsewhere, laws checked; None where it says nothing."""
    # Not typed in `Config`: OmegaConf 2.3 cannot put a mapping in the place of a typed null.
    return _typed(cfg, "expected", Expected)


def origin(cfg: DictConfig) -> Origin | None:
    """Return the run that ``cfg`` goes on from, laws checked; None where it begins anew."""
    began = _typed(cfg, "origin", Origin)
    if began:
        law(
            cfg.trainer.epochs > began.epochs,
            "trainer.epochs",
            f"above origin.epochs, {began.epochs}",
            cfg.trainer.epochs,
        )
    return began


def _typed(cfg: DictConfig, key: str, kind: Any) -> Any:
    if cfg.get(key) is None:
        return None
    if not OmegaConf.is_dict(cfg[key]):
        *names, last = [field.name for field in dataclasses.fields(kind)]
        raise ValueError(f"{key} must be null or have {', '.join(names)} and {last}, got {cfg[key]!r}")
    typed: Any = OmegaConf.merge({key: kind}, {key: OmegaConf.to_container(cfg[key], resolve=True)})
    known: Any = OmegaConf.to_object(typed)
    return known[key]


ConfigStore.instance().store(name="schema", node=Config)
# For the defaults list of conf/config.yaml alone: a configuration may not use it.
OmegaConf.register_new_resolver(
    "suited_aug", lambda data: "shift" if data == "digits" else "crop_flip", replace=True
)
