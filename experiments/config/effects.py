"""An option has an effect, or it is refused: which keys do nothing beside which others.

Judged are the keys that the command line gives, and of them those that say something else than the default.
In a sweep a key is refused where it does nothing at any point: `-m data=digits,cifar10 data.root=x` is fine.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from cifar_core.data.settings import DataSettings
from experiments.config.settings import SweepSettings

Values = dict[str, Any]  # a configuration as plain containers


@dataclass(frozen=True)
class Rule:
    """When a key does nothing."""

    key: str  # dotted
    beside: Callable[[Values], str]  # why, after "has no effect"; empty where the key does something
    allowed: tuple[Any, ...] = ()  # what the key may say all the same: its default

    def default(self, values: Values) -> tuple[Any, ...]:
        """Return what the key may say all the same."""
        if self.key not in ("data.root", "data.cache"):
            return self.allowed
        return (getattr(DataSettings(values["data"]["source"]), self.key.removeprefix("data.")),)


def _source(*sources: str, why: str = "") -> Callable[[Values], str]:
    def beside(values: Values) -> str:
        source = values["data"]["source"]
        return f"with data={source}{why}" if source in sources else ""

    return beside


def _where(group: str, key: str, value: Any, why: str = "") -> Callable[[Values], str]:
    shown = str(value).lower() if isinstance(value, bool) else value

    def beside(values: Values) -> str:
        holds = (values[group] or {}).get(key) == value
        return f"with {group}.{key}={shown}{why}" if holds else ""

    return beside


def _no_val(values: Values) -> str:
    return "with data.val_size=0" if values["data"]["val_size"] == 0 else ""


def _no_choice(values: Values) -> str:
    judged = values["data"]["val_size"] == 0 and values["data"]["source"] != "folder"
    return "with data.val_size=0, where the test pictures are all there is to judge by" if judged else ""


def _no_decay(values: Values) -> str:
    return "with optimizer.weight_decay=0" if values["optimizer"].get("weight_decay") == 0 else ""


def _schedule(values: Values) -> str:
    return str(values["scheduler"].get("_target_")).rpartition(".")[2]


def _warm_up(values: Values) -> str:
    rises = _schedule(values) in ("one_cycle", "triangle") and values["scheduler"].get("warmup_epochs", 0) > 0
    return "with scheduler.warmup_epochs above 0, which takes its place" if rises else ""


def _cycled(values: Values) -> str:
    cycles = _schedule(values) == "one_cycle" and values["scheduler"].get("cycle_momentum", True)
    return (
        "with scheduler=one_cycle, which sets it: scheduler.cycle_momentum=false keeps yours"
        if cycles
        else ""
    )


def _own_layer(values: Values) -> str:
    return "with analysis.layer, which comes first" if values["analysis"]["layer"] else ""


NO_ANALYSIS = _where("analysis", "level", "none")
RULES = (
    Rule("data.root", _source("digits")),
    Rule("data.cache", _source("digits")),
    Rule("data.download", _source("digits", "folder"), (False,)),
    Rule("data.test_size", _source("cifar10", "cifar100", why=", which has its own test set"), (0,)),
    Rule("data.split_seed", _no_val, (0,)),
    Rule("trainer.test", _no_choice, (True,)),
    Rule("aug.workers", _where("aug", "backend", "batched", ", which starts no processes"), ("auto", 0)),
    Rule("optimizer.decay_norm_bias", _no_decay, (True,)),
    Rule("optimizer.momentum", _cycled, (0.9,)),
    Rule("scheduler.pct_start", _warm_up, (0.3, 0.23)),
    Rule("scheduler.base_momentum", _where("scheduler", "cycle_momentum", False), (0.85,)),
    Rule("scheduler.max_momentum", _where("scheduler", "cycle_momentum", False), (0.95,)),
    Rule("analysis.layer", NO_ANALYSIS, ("",)),
    Rule("analysis.method", NO_ANALYSIS, ("gradcam",)),
    Rule("analysis.watch", NO_ANALYSIS, (0,)),
    Rule("analysis.watch", _no_val, (0,)),
    Rule("model.cam_layer", _own_layer),
)
SWEEP_RULES = (
    Rule("sweep.prune_after", _where("sweep", "pruner", "none"), (1,)),
    Rule("sweep.max_failures", _where("sweep", "on_fail", "stop", ", which ends at the first"), (0,)),
    Rule("sweep.threads", _where("sweep", "backend", "slurm", ": sweep.slurm.cpus says it"), (1,)),
    Rule("sweep.slots_per_gpu", _where("sweep", "backend", "slurm", ": sweep.slurm.gpus says it"), (1,)),
    *(
        Rule(f"sweep.slurm.{key}", _where("sweep", "backend", "local"), (default,))
        for key, default in vars(SweepSettings().slurm).items()
    ),
)


def refuse(values: Values, words: Iterable[str]) -> None:
    """Raise ValueError for the first of a command line's ``words`` that does nothing in its configuration."""
    for line in idle(values, words).values():
        raise ValueError(line)


def refuse_single(words: Iterable[str]) -> None:
    """Raise ValueError for a word that only a sweep reads, among those of a single run."""
    defaults = SweepSettings()
    for key, text in _given(words).items():
        does_nothing = key.startswith("sweep.") and key != "sweep.name"
        if key == "sweep":
            does_nothing = text != "default"
        elif key.count(".") == 1 and does_nothing:
            default = getattr(defaults, key.removeprefix("sweep."), None)
            does_nothing = text != str(default).lower()
        elif key == "tracking.nested":
            does_nothing = text.lower() == "true"
        if does_nothing:
            shown = f"{key}={text}" if key == "sweep" else key
            raise ValueError(f"{shown} has no effect in a single run: add -m for a sweep, or leave it out")


def idle(values: Values, words: Iterable[str], *, defaults_too: bool = False) -> dict[str, str]:
    """Return the keys among ``words`` that do nothing, each with the line that says so."""
    given = _given(words)
    found = {}
    for rule in (*RULES, *SWEEP_RULES):
        why = rule.beside(values) if rule.key in given else ""
        if why and (defaults_too or _value(values, rule.key) not in rule.default(values)):
            found[rule.key] = f"{rule.key} has no effect {why}{_advice(why)}"
    return found


@dataclass
class Everywhere:
    """What does nothing at all points of a sweep that were looked at."""

    _lines: dict[str, str] | None = None
    _away: set[str] = field(default_factory=set)  # keys that somewhere say something else than the default

    def look(self, values: Values, words: Iterable[str]) -> None:
        """Look at one point."""
        words = list(words)
        lines = idle(values, words, defaults_too=True)
        self._away |= idle(values, words).keys()
        self._lines = {
            key: line for key, line in (lines if self._lines is None else self._lines).items() if key in lines
        }

    def refuse(self) -> None:
        """Raise ValueError for the first key that does nothing anywhere."""
        for key, line in (self._lines or {}).items():
            if key in self._away:
                raise ValueError(line)


def _advice(why: str) -> str:
    return "" if ":" in why else ": leave it out"


def _given(words: Iterable[str]) -> dict[str, str]:
    """Return the keys that a command line's words give a value, with its text."""
    pairs = (word.lstrip("+").partition("=") for word in words if not word.startswith("~"))
    return {key: text.strip("'\"") for key, _, text in pairs}


def _value(values: Values, key: str) -> Any:
    node: Any = values
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node
