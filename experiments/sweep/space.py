"""What a sweep varies: dimensions parsed from Hydra's override syntax, and the points they span."""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NotRequired, TypedDict

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from experiments.runs.names import SEED
from experiments.sweep.names import Names

Point = dict[str, str]  # override key -> value in Hydra's syntax
Value = str | int | float


class Files(TypedDict):
    """What the configurations of all points are composed from beside their overrides."""

    config_name: str
    config_dir: str | None
    kept: NotRequired[str]  # the file of a sweep that holds the texts to compose from
    conf: NotRequired[str]  # in the place of the project's conf/, while they are unpacked
    allowed: NotRequired[list[str]]  # the user's own packages, whatever a kept configuration says


@dataclass(frozen=True)
class Dimension:
    """One thing that varies: a key, or several whose values go together."""

    keys: tuple[str, ...]
    distribution: BaseDistribution
    values: tuple[Value, ...]  # in order; of an interval its two ends
    discrete: bool = True  # whether `values` are all there are
    texts: dict[Value, tuple[str, ...]] | None = None  # of choices: the override value of each key
    again: tuple[str, ...] = ()  # other spellings of values that are among `texts`, which are left out

    @property
    def name(self) -> str:
        """The parameter's name in the ledger."""
        return " + ".join(self.keys)

    def overrides(self, value: Value) -> Point:
        """Return the part of a point that ``value`` stands for."""
        texts = (str(value),) if self.texts is None else self.texts[value]
        return dict(zip(self.keys, texts, strict=True))


@dataclass(frozen=True)
class Space:
    """The dimensions of a sweep in the order given, the seed among them, and what stays fixed."""

    dimensions: tuple[Dimension, ...]
    fixed: Point
    groups: frozenset[str]  # swept keys that are a group of the configuration

    @property
    def searched(self) -> tuple[Dimension, ...]:
        """All dimensions but the seed, which repeats points and is not searched."""
        return tuple(d for d in self.dimensions if d.keys != (SEED,))

    @property
    def seeds(self) -> tuple[Point, ...]:
        """The repetitions of a point; one empty part where no seed is swept."""
        seeds = (d for d in self.dimensions if d.keys == (SEED,))
        return next((tuple(d.overrides(v) for v in d.values) for d in seeds), ({},))

    @property
    def discrete(self) -> bool:
        """Whether a grid can run all of it."""
        return all(d.discrete for d in self.dimensions)

    @property
    def size(self) -> int:
        """The number of points of the grid over all `values`."""
        return math.prod(len(d.values) for d in self.dimensions)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What the ledger knows of the space: Optuna's distribution by dimension name."""
        return {d.name: d.distribution for d in self.searched}

    def grid(self) -> Iterator[dict[str, Value]]:
        """Yield all combinations of values, the last dimension fastest, as Hydra's basic sweeper does."""
        return combinations(self.dimensions)

    def point(self, values: dict[str, Value]) -> Point:
        """Return the overrides that ``values``, by dimension name, stand for."""
        parts = (d.overrides(values[d.name]) for d in self.dimensions if d.name in values)
        return {key: text for part in parts for key, text in part.items()}

    def overrides(self, point: Point) -> list[str]:
        """Return the trial's command-line arguments: what is fixed, then the point."""
        return [*map(argument, self.fixed.items()), *map(argument, point.items())]

    @cached_property
    def _names(self) -> Names:
        choices = (d.overrides(value) for d in self.dimensions if d.discrete for value in d.values)
        texts: dict[str, set[str]] = {}
        for part in choices:
            for key, text in part.items():
                texts.setdefault(key, set()).add(text)
        return Names(texts)

    def label(self, point: Point) -> str:
        """Return a name that says what varies: `wrn16_4 lr=0.1 s2`."""
        return self._names.label(point)

    def folder_name(self, point: Point) -> str:
        """Return the label as a name that needs no quotes, and that no other point's folder has."""
        return self._names.folder(point, point_id(point)[:8])

    @property
    def lists(self) -> dict[str, tuple[str, ...]]:
        """The values of each dimension that has all of them, as they stand in `identity`."""
        return {d.name: tuple(map(str, d.values)) for d in self.dimensions if d.discrete}

    def identity(self) -> dict[str, Any]:
        """Return what makes this sweep another than its neighbours: by key, what varies and what is fixed."""
        fixed = {key: text for key, text in self.fixed.items() if not _beside(key)}
        return fixed | {d.name: _describe(d) for d in self.dimensions}


def parse(arguments: Sequence[str], loader: ConfigLoader, zipped: Sequence[str] = ()) -> Space:
    """Parse Hydra's overrides into a space; raise ValueError for what no sweep can vary.

    A key given twice takes the last value, as in a single run.
    """
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    last = {o.get_key_element(): o for o in overrides}
    swept = {key: o for key, o in last.items() if o.is_sweep_override()}
    fixed = {
        key: "" if o.is_delete() else o.get_value_element_as_str()
        for key, o in last.items()
        if key not in swept
    }
    for key in swept:
        if _beside(key):
            raise ValueError(f"{key} cannot be swept: it does not change what a run computes")
    dimensions = _zip([_dimension(key, o) for key, o in swept.items()], tuple(zipped))
    for dimension in dimensions:
        if SEED in dimension.keys and not dimension.discrete:
            raise ValueError("seed must be a list or a range: seeds repeat a point, they are not searched")
    groups = frozenset(key for key in swept if loader.get_group_options(key.lstrip("+").partition("@")[0]))
    return Space(tuple(dimensions), fixed, groups)


def combinations(dimensions: Sequence[Dimension]) -> Iterator[dict[str, Value]]:
    """Yield all combinations of the dimensions' values by name, the last dimension fastest."""
    for values in itertools.product(*(d.values for d in dimensions)):
        yield {d.name: value for d, value in zip(dimensions, values, strict=True)}


def bare(point: Point) -> Point:
    """Return a point without its seed."""
    return {key: text for key, text in point.items() if key != SEED}


def point_id(point: Point) -> str:
    """Return a hash of a point, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:16]


def _beside(key: str) -> bool:
    """Tell whether a key is about recording, explaining or sweeping, not about what a run computes."""
    return key.lstrip("+~").partition(".")[0].partition("/")[0] in ("sweep", "tracking", "analysis", "hydra")


def watches(words: Iterable[str]) -> bool:
    """Tell whether a trial's words, or their keys, ask for pictures as it learns; it draws them only then."""
    return any(word.lstrip("+").startswith("analysis.watch") for word in words)


def argument(part: tuple[str, str]) -> str:
    """Return a key and its value as one command-line argument."""
    key, text = part
    return key if key.startswith("~") and not text else f"{key}={text}"


def _dimension(key: str, override: Override) -> Dimension:
    value = override.value()
    tags: set[str] = getattr(value, "tags", set())
    log = "log" in tags
    if tags - {"log"}:
        raise ValueError(f"{key}: tag must be log, got {', '.join(sorted(map(str, tags - {'log'})))}")
    if log and not isinstance(value, IntervalSweep):
        raise ValueError(f"{key}: tag(log, ...) is for an interval, got {override.get_value_string()}")
    if isinstance(value, IntervalSweep):
        return _interval(key, value, log=log)
    if isinstance(value, RangeSweep):
        return _range(key, value)
    return _choice(key, override)


def _interval(key: str, value: IntervalSweep, *, log: bool) -> Dimension:
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    if low >= high or (log and low <= 0):
        law = "0 < low < high" if log else "low < high"
        raise ValueError(f"{key}: an interval needs {law}, got {low} and {high}")
    if isinstance(low, int) and isinstance(high, int):
        return Dimension((key,), IntDistribution(low, high, log=log), (low, high), discrete=False)
    low, high = float(low), float(high)
    return Dimension((key,), FloatDistribution(low, high, log=log), (low, high), discrete=False)


def _range(key: str, value: RangeSweep) -> Dimension:
    values = tuple(value.range())
    if not values:
        raise ValueError(f"{key}: the range is empty")
    if value.shuffle:
        values = tuple(random.Random(0).sample(values, len(values)))
    low, high, step = min(values), max(values), abs(value.step)
    if all(isinstance(v, int) for v in values):
        return Dimension((key,), IntDistribution(low, high, step=int(step)), values)
    return Dimension((key,), FloatDistribution(float(low), float(high), step=float(step)), values)


def _choice(key: str, override: Override) -> Dimension:
    sweep = override.value()
    shuffled = isinstance(sweep, ChoiceSweep) and sweep.shuffle
    if isinstance(sweep, ChoiceSweep):
        sweep.shuffle = False  # Hydra shuffles anew at each start; the ledger needs one order for good
    given = tuple(override.sweep_string_iterator())
    parsed = sweep.list if isinstance(sweep, ChoiceSweep) else given
    firsts: dict[Any, str] = {}
    for value, text in zip(parsed, given, strict=True):
        firsts.setdefault(_equal(value), text)
    texts = tuple(firsts.values())
    if not texts:
        raise ValueError(f"{key}: {override.get_value_string()} matches nothing")
    values = tuple(random.Random(0).sample(texts, len(texts))) if shuffled else texts
    again = tuple(text for text in dict.fromkeys(given) if text not in texts)
    words: dict[Value, tuple[str, ...]] = {text: (text,) for text in texts}
    return Dimension((key,), CategoricalDistribution(texts), values, texts=words, again=again)


def _equal(value: Any) -> Any:
    """Return what all spellings of one value share: 1 and 1.0, a and 'a'; true is no number."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and value == value:
        return value
    return type(value), str(value)


def _zip(dimensions: list[Dimension], keys: tuple[str, ...]) -> list[Dimension]:
    """Put the dimensions of ``keys`` together into one, in the place of the first."""
    if not keys:
        return dimensions
    by_name = {d.name: d for d in dimensions}
    for key in keys:
        if key not in by_name or not by_name[key].discrete:
            raise ValueError(f"sweep.zip: {key} must be swept with a list or a range")
    lengths = {key: len(by_name[key].values) for key in keys}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"sweep.zip needs lists of one length, got {', '.join(f'{k}: {n}' for k, n in lengths.items())}"
        )
    rows = zip(
        *([by_name[key].overrides(value)[key] for value in by_name[key].values] for key in keys), strict=True
    )
    texts: dict[Value, tuple[str, ...]] = {" + ".join(row): row for row in rows}
    together = Dimension(keys, CategoricalDistribution(tuple(texts)), tuple(texts), texts=texts)
    first = next(d for d in dimensions if d.name in keys)
    return [together if d is first else d for d in dimensions if d is first or d.name not in keys]


def _describe(dimension: Dimension) -> str:
    if dimension.discrete:
        return ",".join(map(str, dimension.values))
    d = dimension.distribution
    assert isinstance(d, (FloatDistribution, IntDistribution))
    text = f"interval({d.low},{d.high})"
    return f"tag(log, {text})" if d.log else text
