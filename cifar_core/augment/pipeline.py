"""From a recipe of Albumentations steps to one function on batches."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cifar_core.augment.lowering import Changed, Lowering, Params, beside, lowered
from cifar_core.augment.per_picture import PerPicture
from cifar_core.augment.recipe import (
    CONTAINERS,
    Draw,
    NotLowered,
    Recipe,
    Step,
    Steps,
    Visit,
    Walk,
    align,
    named_draws,
)
from cifar_core.augment.sizes import output_size
from cifar_core.augment.uniforms import picture_keys

BACKENDS = ("auto", "batched", "albumentations")
log = logging.getLogger(__name__)

ParamsOf = Callable[[int, Visit, Lowering, Tensor, Tensor], Params]  # position, visit, lowering, rows, images


class Augment(Protocol):
    """A random change of a batch of pictures."""

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return uint8 pictures (N, 3, H', W') of one size for uint8 `images` (N, 3, H, W); same device."""


def augmentation(steps: Mapping[str, Step], *, backend: str = "auto", image_size: int) -> Augment:
    """Return the function that applies `steps` in order to a batch of pictures.

    `backend` is auto (batched where every step is lowered, else Albumentations), batched or albumentations.
    Raises ValueError, naming the step, where pictures would leave in several sizes or not as uint8.
    """
    if backend not in BACKENDS:
        raise ValueError(f"aug.backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    output_size(steps, image_size)
    if backend == "albumentations":
        return PerPicture(steps)
    try:
        return lower(steps)
    except NotLowered as error:
        if backend == "batched":
            raise ValueError(
                f"aug.backend=batched cannot run aug.image.{error}; it runs {supported()}"
            ) from error
        log.warning("aug.image.%s is not lowered: Albumentations runs the recipe, picture by picture", error)
        return PerPicture(steps)


def supported() -> str:
    """Return the names of all transforms and containers that run in batches."""
    return ", ".join(sorted(kind.__name__ for kind in [*lowered(), *CONTAINERS]))


def lower(steps: Steps) -> "BatchedPipeline":
    """Turn a recipe into batched tensor operations.

    Raises NotLowered, a ValueError, naming the step and setting that does not run in batches.
    """
    return BatchedPipeline(steps)


@dataclass
class Part:
    """Those pictures of a batch that have one size at the moment."""

    rows: Tensor  # (M,), their places in the batch, on the CPU
    images: Tensor  # (M, 3, H, W)


class BatchedPipeline:
    """A lowered recipe."""

    def __init__(self, steps: Steps) -> None:
        self.recipe = Recipe(steps)
        self.columns = 0
        walk = self.walk(torch.empty(0, dtype=torch.long))
        _check(list(walk.visits()))
        self.columns = walk.used

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Augment uint8 images (N, 3, H, W); N pictures take N keys from `generator`.

        Returns pictures (N, 3, H', W') on the same device: uint8, or float32 after Normalize or ToFloat.
        """
        return self._augment(images, picture_keys(len(images), generator))

    def _augment(self, images: Tensor, keys: Tensor) -> Tensor:
        if len(images) == 0:
            return self._augment(images.new_zeros(1, *images.shape[1:]), keys.new_zeros(1))[:0]

        def drawn(position: int, visit: Visit, lowering: Lowering, rows: Tensor, part: Tensor) -> Params:
            return lowering.draw(visit.step, visit.uniforms[rows], part)

        return _run(images, self.walk(keys).visits(), drawn)

    def replay(
        self, images: Tensor, draws: Sequence[Sequence[Draw] | Sequence[tuple[str, dict[str, Any]]]]
    ) -> Tensor:
        """Apply to each of `images` (N, 3, H, W) what Albumentations drew for it.

        `draws` come from `record`; the `applied_transforms` that Albumentations saves on request do where
        no class occurs twice in the recipe.
        """
        if len(draws) != len(images):
            raise ValueError(f"replay must get draws for each of {len(images)} pictures, got {len(draws)}")
        static = list(self.walk(torch.empty(0, dtype=torch.long)).visits())
        placed = [align(static, self._draws(events)) for events in draws]

        def recorded(position: int, visit: Visit, lowering: Lowering, rows: Tensor, part: Tensor) -> Params:
            return lowering.collate(visit.step, [placed[row][position].params for row in rows.tolist()])

        visits = []
        for position, visit in enumerate(static):
            active = torch.tensor([position in picture for picture in placed], dtype=torch.bool)
            visits.append(Visit(visit.path, visit.step, active, visit.uniforms, visit.certain))
        return _run(images, visits, recorded)

    def _draws(self, events: Sequence[Any]) -> list[Draw]:
        if all(isinstance(event, Draw) for event in events):
            return list(events)
        return named_draws(self.recipe, events)

    def walk(self, keys: Tensor) -> Walk:
        """Decide which pictures, one a key (N,), meet which leaves."""
        return Walk(self.recipe, keys, self.columns, _columns)


def _columns(step: Any) -> int:
    lowering = lowered().get(type(step))
    return 0 if lowering is None else lowering.columns(step)


def _check(visits: list[Visit]) -> None:
    """Raise NotLowered where a leaf, a setting or an order does not run in batches."""
    is_float = ""
    for visit in visits:
        name = type(visit.step).__name__
        lowering = lowered().get(type(visit.step))  # a subclass may do anything, so it is not its parent
        if lowering is None:
            raise NotLowered(f"{visit.path} ({name})")
        limit = lowering.limits(visit.step)
        if limit:
            raise NotLowered(f"{visit.path} ({name} with {limit})")
        if is_float and not lowering.on_float:
            raise NotLowered(f"{visit.path} ({name} after {is_float})")
        if lowering.to_float:
            if not visit.certain:
                raise NotLowered(f"{visit.path} ({name} on some pictures only)")
            is_float = name


def _run(images: Tensor, visits: Iterable[Visit], params_of: ParamsOf) -> Tensor:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    parts = [Part(torch.arange(len(images)), images)]
    for position, visit in enumerate(visits):
        lowering = lowered()[type(visit.step)]

        def change(rows: Tensor, part: Tensor) -> Changed:
            params = params_of(position, visit, lowering, rows, part)  # noqa: B023 - called at once
            return lowering.apply(visit.step, part, params)  # noqa: B023

        parts = _merged([new for part in parts for new in _visited(part, visit.active[part.rows], change)])
    if len(parts) > 1:
        found = ", ".join(str(tuple(part.images.shape[-2:])) for part in parts)
        raise ValueError(f"a recipe must leave pictures of one size, got {found}")
    return _in_order(parts[0]).contiguous()


def _in_order(part: Part) -> Tensor:
    order = part.rows.argsort()
    if torch.equal(order, torch.arange(len(order))):
        return part.images
    return part.images.index_select(0, beside(part.images, order))


def _visited(part: Part, active: Tensor, change: Callable[[Tensor, Tensor], Changed]) -> list[Part]:
    """Change the active pictures of a part; where their size changes, it becomes several parts."""
    count = int(active.sum())
    if count == 0:
        return [part]
    if count == len(active):
        return _pieces(part.rows, change(part.rows, part.images))
    chosen = active.nonzero()[:, 0]
    here = beside(part.images, chosen)
    before = part.images.index_select(0, here)
    after = change(part.rows[chosen], before)
    if isinstance(after, Tensor) and after.shape == before.shape:
        return [Part(part.rows, part.images.index_copy(0, here, after))]
    others = (~active).nonzero()[:, 0]
    rest = Part(part.rows[others], part.images.index_select(0, beside(part.images, others)))
    return [rest, *_pieces(part.rows[chosen], after)]


def _pieces(rows: Tensor, changed: Changed) -> list[Part]:
    if isinstance(changed, Tensor):
        return [Part(rows, changed)]
    return [Part(rows[chosen], images) for chosen, images in changed if len(chosen)]


def _merged(parts: list[Part]) -> list[Part]:
    """Join parts whose pictures have the same size again."""
    if len(parts) == 1:
        return parts
    by_size: dict[torch.Size, list[Part]] = {}
    for part in parts:
        by_size.setdefault(part.images.shape[1:], []).append(part)
    return [
        Part(torch.cat([part.rows for part in same]), torch.cat([part.images for part in same]))
        for same in by_size.values()
    ]
