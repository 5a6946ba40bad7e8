"""A recipe of Albumentations steps as a tree: its leaves, the order in which they run, and what they drew."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import albumentations as A
import torch
from torch import Tensor

from cifar_core.augment.uniforms import uniforms

Step: TypeAlias = A.BasicTransform | A.BaseCompose
Steps: TypeAlias = Mapping[str, Step] | Sequence[Step] | A.Compose
CONTAINERS = (A.Compose, A.Sequential, A.OneOf, A.SomeOf)


class NotLowered(ValueError):
    """A recipe holds something that does not run in batches."""


@dataclass(frozen=True)
class Draw:
    """What one leaf of a recipe did to one picture."""

    path: str  # names or positions from the root to the leaf, joined by dots
    name: str  # class name
    applied: bool
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Visit:
    """One call of a leaf, for the pictures of a batch that reach it."""

    path: str
    step: Any
    active: Tensor  # bool (N,)
    uniforms: Tensor  # float64 (N, columns), the numbers its parameters are made of
    certain: bool  # every picture reaches it
    recorded: Mapping[int, Draw] | None = None  # row -> what Albumentations drew there; None: draw anew


class Recipe:
    """A private copy of the user's steps, with a path for every leaf."""

    def __init__(self, steps: Steps) -> None:
        if isinstance(steps, A.Compose) and type(steps) is A.Compose:
            self.compose = _copied(steps)
            self.names = [str(position) for position in range(len(steps.transforms))]
        else:
            steps = [steps] if isinstance(steps, A.BasicTransform | A.BaseCompose) else steps
            named = steps if isinstance(steps, Mapping) else {str(n): step for n, step in enumerate(steps)}
            self.compose = A.Compose([_copied(step) for step in named.values()])
            self.names = list(named)

    def leaves(self) -> Iterator[tuple[str, Step]]:
        """Yield path and step of every leaf."""
        for name, step in zip(self.names, self.compose.transforms, strict=True):
            yield from _leaves(step, name)


def _copied(step: Step) -> Step:
    """Copy a tree so that a step used twice becomes two steps."""
    if not isinstance(step, A.BaseCompose):
        return copy.deepcopy(step)
    twin = copy.copy(step)
    twin.transforms = [_copied(child) for child in step.transforms]
    return twin


def _leaves(step: Step, path: str) -> Iterator[tuple[str, Step]]:
    if not isinstance(step, A.BaseCompose):
        yield path, step
        return
    for position, child in enumerate(step.transforms):
        yield from _leaves(child, f"{path}.{position}")


class Walk:
    """One way through a recipe: decides for each picture which leaves it meets, in the order they run."""

    def __init__(
        self, recipe: Recipe, keys: Tensor, columns: int, leaf_columns: Callable[[Any], int]
    ) -> None:
        self.recipe = recipe
        self.numbers = uniforms(keys, columns)
        self.leaf_columns = leaf_columns
        self.used = 0

    def visits(self) -> Iterator[Visit]:
        """Yield all calls of leaves."""
        everyone = torch.ones(len(self.numbers), dtype=torch.bool)
        active, certain = self._gate(self.recipe.compose.p, everyone, certain=True, forced=False)
        for name, step in zip(self.recipe.names, self.recipe.compose.transforms, strict=True):
            yield from self._visit(step, name, active, certain, forced=False)

    def _take(self, count: int) -> Tensor:
        self.used += count
        if len(self.numbers) == 0:  # a walk without pictures counts the columns
            return self.numbers.new_empty(0, count)
        return self.numbers[:, self.used - count : self.used]

    def _gate(self, p: float, active: Tensor, *, certain: bool, forced: bool) -> tuple[Tensor, bool]:
        if forced or p >= 1:
            return active, certain
        return active & (self._take(1)[:, 0] < p), False

    def _visit(self, step: Any, path: str, active: Tensor, certain: bool, *, forced: bool) -> Iterator[Visit]:
        if type(step) in (A.Compose, A.Sequential):
            active, certain = self._gate(step.p, active, certain=certain, forced=forced)
            for position, child in enumerate(step.transforms):
                yield from self._visit(child, f"{path}.{position}", active, certain, forced=False)
        elif type(step) is A.OneOf:
            active, _ = self._gate(step.p, active, certain=certain, forced=forced)
            yield from self._one_of(step, path, active)
        elif type(step) is A.SomeOf:  # Albumentations does not force it
            active, _ = self._gate(step.p, active, certain=certain, forced=False)
            yield from self._some_of(step, path, active)
        elif isinstance(step, A.BaseCompose):
            raise NotLowered(f"{path} ({type(step).__name__})")
        elif step.p > 0:
            active, certain = self._gate(step.p, active, certain=certain, forced=forced)
            yield Visit(path, step, active, self._take(self.leaf_columns(step)), certain)

    def _one_of(self, step: A.OneOf, path: str, active: Tensor) -> Iterator[Visit]:
        edges = torch.tensor(step.transforms_ps, dtype=torch.float64).cumsum(0)
        choice = torch.searchsorted(edges / edges[-1], self._take(1)[:, 0].contiguous(), right=True)
        for position, child in enumerate(step.transforms):
            yield from self._visit(
                child, f"{path}.{position}", active & (choice == position), False, forced=True
            )

    def _some_of(self, step: A.SomeOf, path: str, active: Tensor) -> Iterator[Visit]:
        """Choose children; Albumentations runs them in the order of the list, each as often as chosen."""
        children = len(step.transforms)
        if step.replace:
            chosen = (self._take(step.n) * children).long()
        else:
            chosen = self._take(children).argsort(1)[:, : step.n]
        times = (chosen[:, :, None] == torch.arange(children)).sum(1)
        for position, child in enumerate(step.transforms):
            for time in range(step.n if step.replace else 1):
                reached = active & (times[:, position] > time)
                yield from self._visit(child, f"{path}.{position}", reached, False, forced=False)


def align(visits: Sequence[Visit], draws: Sequence[Draw]) -> dict[int, Draw]:
    """Return which visit, by position, each applied draw of one picture belongs to."""
    waiting = [draw for draw in draws if draw.applied]
    placed: dict[int, Draw] = {}
    for position, visit in enumerate(visits):
        if len(placed) < len(waiting) and waiting[len(placed)].path == visit.path:
            placed[position] = waiting[len(placed)]
    if len(placed) < len(waiting):
        lost = waiting[len(placed)]
        raise ValueError(f"draws must follow the recipe, got {lost.name} at {lost.path!r} out of order")
    return placed


def named_draws(recipe: Recipe, applied: Sequence[tuple[str, dict[str, Any]]]) -> list[Draw]:
    """Turn the `applied_transforms` of `A.Compose(..., save_applied_params=True)` into draws.

    They name classes, not places, so every class may occur once in the recipe; else raises ValueError.
    """
    paths: dict[str, str] = {}
    for path, step in recipe.leaves():
        name = type(step).__name__
        if name in paths:
            raise ValueError(
                f"applied_transforms need unique classes, got {name} at {paths[name]} and {path}; use record"
            )
        paths[name] = path
    unknown = [name for name, _ in applied if name not in paths]
    if unknown:
        raise ValueError(f"applied_transforms must name one of {', '.join(paths)}, got {unknown[0]}")
    return [Draw(paths[name], name, True, params) for name, params in applied]
