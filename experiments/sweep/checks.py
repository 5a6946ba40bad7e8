"""Checks all points of a space before the first trial, in a time that hardly grows with their number."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from experiments.config import effects
from experiments.config.check import check
from experiments.config.laws import PLATEAU
from experiments.config.renamed import renew_config
from experiments.config.settings import SweepSettings
from experiments.config.values import check_word, plain
from experiments.sweep.compared import composed
from experiments.sweep.space import Dimension, Files, Point, Space, Value, argument, combinations

# Up to this many points are checked one by one (16 ms each). In a larger space a value is checked with every
# other value of its own area and of those that a law ties to it, the rest of the space standing at its first
# value; more than this many of those, and each value meets the first and the last of the others.
EACH = 200
# Areas (first parts of keys) whose values one law of `config.laws` or `config.targets` reads together.
TIED = (
    {"optimizer", "scheduler", "trainer"},
    {"data", "trainer"},
    {"data", "aug"},
    {"aug", "trainer"},
)


def check_space(
    space: Space, options: SweepSettings, files: Files, *, see: Callable[[DictConfig], None] | None = None
) -> None:
    """Raise ValueError, naming the point, if any point of the space is not in order or cannot be judged.

    Of an interval both ends are checked. Every trial checks its own point once more when it starts. ``see``
    gets each configuration that is in order, and may refuse it; it changes afterwards.
    """
    composed = Composed(space, files)
    checked = set()
    everywhere = effects.Everywhere()
    validated: dict[
        bool, str
    ] = {}  # whether a point has a validation split -> the first that has, or has none
    for values in _cases(space):
        point = space.point(values)
        key = tuple(point.items())
        if key in checked:
            continue
        checked.add(key)
        overrides = " ".join(map(argument, point.items()))
        try:
            cfg = composed.at(point)
            check(cfg)
            _check_judged(cfg, options)
            if see is not None:
                see(cfg)
        except ValueError as error:
            raise ValueError(f"{error} (at point {overrides})" if overrides else str(error)) from error
        validated.setdefault(cfg.data.val_size > 0, overrides)
        if len(validated) > 1:
            raise ValueError(
                "data.val_size must be 0 at all points of a sweep or at none, for accuracies of test and of "
                f"validation pictures do not compare: it is 0 at {validated[False]}, "
                f"but not at {validated[True]}"
            )
        everywhere.look(plain(cfg), space.overrides(point))
    everywhere.refuse()


def _check_judged(cfg: DictConfig, options: SweepSettings) -> None:
    """Raise ValueError where a point lacks what the sweep's choices among points rest on."""
    if cfg.data.val_size == 0:
        if options.sampler != "grid" or options.pruner != "none":
            raise ValueError(
                "data.val_size must be above 0 for a search or a pruner: the test set must not choose"
            )
        if options.refit or options.test == "best":
            raise ValueError(
                "data.val_size must be above 0 for sweep.refit and sweep.test=best: nothing is best without"
            )
    if options.refit and cfg.scheduler.get("_target_") == PLATEAU:
        raise ValueError("sweep.refit has no validation accuracy, which scheduler=plateau needs: use another")


class Composed:
    """Configurations of points; Hydra composes only where a key changes more than a value (0.1 s each)."""

    def __init__(self, space: Space, files: Files) -> None:
        """Keep what all points share."""
        self._space = space
        self._files = files
        self._composed: dict[tuple[tuple[str, str], ...], DictConfig] = {}
        self._values: dict[str, Any] = {}

    def at(self, point: Point) -> DictConfig:
        """Return the configuration of ``point``; the next call may change it."""
        shape = {key: text for key, text in point.items() if self._is_shape(key)}
        part = tuple(shape.items())
        if part not in self._composed:
            self._composed[part] = composed(self._space.overrides(point), self._files)
        cfg = self._composed[part]
        for key, text in point.items():
            if key not in shape:
                OmegaConf.update(cfg, key, self._value(key, text), merge=True)
        renew_config(cfg)
        return cfg

    def _is_shape(self, key: str) -> bool:
        return key in self._space.groups or key.startswith(("+", "~")) or "@" in key

    def _value(self, key: str, text: str) -> Any:
        if (part := f"{key}={text}") not in self._values:
            value = OverridesParser.create().parse_override(part).value()
            check_word(key, value)
            self._values[part] = value
        return self._values[part]


def _cases(space: Space) -> Iterator[dict[str, Value]]:
    """Yield points, as values by dimension name, that together show every mistake a law can find."""
    if space.size <= EACH:
        yield from space.grid()
        return
    firsts = {d.name: d.values[0] for d in space.dimensions}
    for dimensions in _bundles(space.dimensions):
        for values in _combinations(dimensions):
            yield firsts | values


def _bundles(dimensions: Sequence[Dimension]) -> Iterator[list[Dimension]]:
    """Yield the dimensions of each area and of each tied set of areas; `experiment` touches every area."""
    areas = {d.name: {key.lstrip("+~").partition(".")[0] for key in d.keys} for d in dimensions}
    single = [{area} for area in sorted(set().union(*areas.values()))]
    for together in (*single, *TIED):
        yield [d for d in dimensions if areas[d.name] & (together | {"experiment"})]


def _combinations(dimensions: Sequence[Dimension]) -> Iterator[dict[str, Value]]:
    if math.prod(len(d.values) for d in dimensions) <= EACH:
        yield from combinations(dimensions)
        return
    for corner in (0, -1):
        others = {d.name: d.values[corner] for d in dimensions}
        for dimension in dimensions:
            for value in dimension.values:
                yield others | {dimension.name: value}
