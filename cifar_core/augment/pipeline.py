"""From a recipe of Albumentations steps to one function on batches."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cifar_core.augment.lowering import lowered
from cifar_core.augment.per_picture import PerPicture
from cifar_core.augment.protocol import Augment
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
from cifar_core.device import beside, put
from cifar_core.processes import cores

BACKENDS = ("auto", "batched", "albumentations")
log = logging.getLogger(__name__)


def augmentation(
    steps: Mapping[str, Step], *, backend: str = "auto", workers: int | str = "auto", image_size: int
) -> Augment:
    """Return the function that applies `steps` in order to a batch of pictures.

    `backend` is auto (batched where every step is lowered, else Albumentations), batched or albumentations,
    which shares its work among `workers` processes (auto: one a CPU core but one, at most 8; 0 on two cores).
    Raises ValueError, naming the step, where pictures would leave in several sizes or not as uint8.
    """
    if backend not in BACKENDS:
        raise ValueError(f"aug.backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if workers != "auto" and (type(workers) is not int or workers < 0):
        raise ValueError(f"aug.workers must be auto or a number of processes, got {workers!r}")
    size = output_size(steps, image_size)
    if size != (image_size, image_size):
        log.warning(
            "aug.image leaves pictures of %dx%d; those of val and test are %dx%d", *size, *[image_size] * 2
        )
    automatic = min(8, cores() - 1) if cores() > 2 else 0
    per_picture = PerPicture(steps, workers=workers if isinstance(workers, int) else automatic)
    if backend == "albumentations":
        return per_picture
    try:
        return lower(steps)
    except NotLowered as error:
        if backend == "batched":
            raise ValueError(
                f"aug.backend=batched cannot run aug.image.{error}; it runs {supported()}"
            ) from error
        log.warning("aug.image.%s is not lowered: Albumentations runs the recipe, picture by picture", error)
        return per_picture


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
    own: bool  # nobody else holds their memory, so they may be changed where they lie

    def take(self, places: Tensor) -> "Part":
        """Return some of the pictures, by their places (K,) in this part."""
        taken = self.images.index_select(0, beside(self.images, places))
        return Part(self.rows[places], taken.contiguous(), own=True)

    def put(self, places: Tensor, images: Tensor) -> "Part":
        """Return the part with other pictures of the same size in some places (K,)."""
        mine = self.images if self.own else self.images.clone(memory_format=torch.contiguous_format)
        return Part(self.rows, put(mine, places, images), own=True)


class BatchedPipeline:
    """A lowered recipe."""

    def __init__(self, steps: Steps) -> None:
        self.recipe = Recipe(steps)
        self.columns = 0
        walk = self.walk(torch.empty(0, dtype=torch.long))
        _check(list(walk.visits()))
        self.columns = walk.used

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Augment uint8 images (N, 3, H, W), each as its key (N,) says.

        Returns pictures (N, 3, H', W') on the same device: uint8, or float32 after Normalize or ToFloat.
        """
        if len(images) == 0:
            return self(images.new_zeros(1, *images.shape[1:]), keys.new_zeros(1))[:0]
        return _run(images, self.walk(keys).visits())

    def replay(
        self, images: Tensor, draws: Sequence[Sequence[Draw] | Sequence[tuple[str, dict[str, Any]]]]
    ) -> Tensor:
        """Apply to each of `images` (N, 3, H, W) what Albumentations drew for it.

        `draws` come from `record`; the `applied_transforms` that Albumentations saves on request do where
        no class occurs twice in the recipe.
        """
        if len(draws) != len(images):
            raise ValueError(f"replay must get draws for each of {len(images)} pictures, got {len(draws)}")
        if len(images) == 0:
            return self(images, torch.empty(0, dtype=torch.long))
        static = list(self.walk(torch.empty(0, dtype=torch.long)).visits())
        placed = [align(static, self._draws(events)) for events in draws]
        visits = []
        for position, visit in enumerate(static):
            recorded = {
                row: by_visit[position] for row, by_visit in enumerate(placed) if position in by_visit
            }
            active = torch.tensor([row in recorded for row in range(len(images))])
            visits.append(replace(visit, active=active, recorded=recorded))
        return _run(images, visits)

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


def _run(images: Tensor, visits: Iterable[Visit]) -> Tensor:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
    if images.device.type == "mps":  # which lacks float64, and so the CPU's results: it shares its memory
        return _run(images.cpu(), visits).to(images.device)
    parts = [Part(torch.arange(len(images)), images, own=False)]
    for visit in visits:
        parts = _merged([new for part in parts for new in _visited(part, visit)])
    if len(parts) > 1:
        sizes = ", ".join(str(tuple(part.images.shape[-2:])) for part in parts)
        raise ValueError(f"a recipe must leave pictures of one size, got {sizes}")
    return _in_order(parts[0]).contiguous()


def _in_order(part: Part) -> Tensor:
    order = part.rows.argsort()
    if torch.equal(order, torch.arange(len(order))):
        return part.images
    return part.images.index_select(0, beside(part.images, order))


def _visited(part: Part, visit: Visit) -> list[Part]:
    """Change the active pictures of a part; those that come out in another size become parts of their own."""
    active = visit.active[part.rows]
    places = active.nonzero()[:, 0]
    if len(places) == 0:
        return [part]
    if len(places) == len(active):
        return [changed for _, changed in _changed(part, visit)]
    chosen = part.take(places)
    changes = _changed(chosen, visit)
    if any(_kind(changed.images) != _kind(part.images) for _, changed in changes):
        return [part.take((~active).nonzero()[:, 0]), *(changed for _, changed in changes)]
    for slots, changed in changes:
        if changed.images is not chosen.images:
            part = part.put(places[slots], changed.images)
    return [part]


def _kind(images: Tensor) -> tuple[torch.Size, torch.dtype]:
    return images.shape[1:], images.dtype


def _changed(part: Part, visit: Visit) -> list[tuple[Tensor | slice, Part]]:
    """Return what becomes of all pictures of a part, with their places in it, in one piece for each size."""
    lowering = lowered()[type(visit.step)]
    if visit.recorded is None:
        params = lowering.draw(visit.step, visit.uniforms[part.rows], part.images)
    else:
        params = lowering.collate(visit.step, [visit.recorded[row].params for row in part.rows.tolist()])
    changed = lowering.apply(visit.step, part.images, params)
    pieces = [(slice(None), changed)] if isinstance(changed, Tensor) else changed
    return [
        (places, Part(part.rows[places], images, _is_own(images, part)))
        for places, images in pieces
        if len(images)
    ]


def _is_own(images: Tensor, before: Part) -> bool:
    """Tell whether the result of a step lies in memory that nothing else uses."""
    if images is before.images:
        return before.own
    apart = images.untyped_storage().data_ptr() != before.images.untyped_storage().data_ptr()
    return apart and images.is_contiguous()  # else a pixel may stand for several


def _merged(parts: list[Part]) -> list[Part]:
    """Join parts whose pictures have the same size again."""
    if len(parts) == 1:
        return parts
    by_size: dict[torch.Size, list[Part]] = {}
    for part in parts:
        by_size.setdefault(part.images.shape[1:], []).append(part)
    return [
        Part(torch.cat([part.rows for part in same]), torch.cat([part.images for part in same]), own=True)
        for same in by_size.values()
    ]
