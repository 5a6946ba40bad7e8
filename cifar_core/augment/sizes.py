"""Which picture sizes a recipe can produce, and what else it must keep to."""

from collections.abc import Iterable, Mapping

import albumentations as A
import numpy as np

from cifar_core.augment.recipe import Recipe, Step

Size = tuple[int, int]
NEEDS = {  # what these ask for without saying so in `targets_as_params`
    "AtLeastOneBBoxRandomCrop": ["bboxes"],
    "BBoxSafeRandomCrop": ["bboxes"],
    "ConstrainedCoarseDropout": ["mask"],
    "CropNonEmptyMaskIfExists": ["mask"],
    "RandomSizedBBoxSafeCrop": ["bboxes"],
}
TRIALS = 32  # calls of a step that may draw the size of its result


class NotPictures(ValueError):
    """A step returns something else than pictures like those it got."""


def output_size(steps: Mapping[str, Step], image_size: int) -> Size:
    """Return the (height, width) that every picture has after all `steps`.

    Raises ValueError, naming the step, where pictures leave in several sizes, as something else than uint8
    arrays, or where a step fails.
    """
    sizes, culprit = {(image_size, image_size)}, ""
    recipe = Recipe(steps)
    for name, step in zip(recipe.names, recipe.compose.transforms, strict=True):
        before = len(sizes)
        try:
            sizes = _after(step, sizes, forced=False)
        except NotPictures as error:
            raise ValueError(f"aug.image.{name} must {error}") from None
        except Exception as error:
            raise ValueError(f"aug.image.{name} fails on pictures of {_text(sizes)}: {error}") from error
        culprit = name if len(sizes) > before else culprit
    if len(sizes) > 1:
        raise ValueError(f"aug.image.{culprit} must leave pictures of one size, got {_text(sizes)}")
    return sizes.pop()


def _text(sizes: Iterable[Size]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in sorted(sizes))


def _after(step: Step, sizes: set[Size], *, forced: bool) -> set[Size]:
    if type(step) is A.SomeOf:  # Albumentations does not force it
        return _unless_certain(step.p, sizes, _after_some(step, sizes))
    certain = 1.0 if forced else step.p
    if type(step) in (A.Compose, A.Sequential):
        result = sizes
        for child in step.transforms:
            result = _after(child, result, forced=False)
        return _unless_certain(certain, sizes, result)
    if type(step) is A.OneOf:
        chosen = [child for child in step.transforms if child.p > 0]
        return _unless_certain(certain, sizes, set().union(*(_after(c, sizes, forced=True) for c in chosen)))
    if isinstance(step, A.BaseCompose):  # an unknown one: it decides by itself what happens
        return {_size_of(step, size, force_apply=False) for size in sizes for _ in range(TRIALS)}
    if step.p <= 0:
        return sizes
    name = type(step).__name__
    needs = NEEDS.get(name) or [target for target in step.targets_as_params if target != "image"]
    if needs or "image" not in step.targets:
        raise NotPictures(f"work on pictures alone: {name} needs {', '.join(needs) or 'something else'}")
    forced_sizes = {_size_of(step, size, force_apply=True) for size in sizes for _ in range(TRIALS)}
    return _unless_certain(certain, sizes, forced_sizes)


def _after_some(step: A.SomeOf, sizes: set[Size]) -> set[Size]:
    by_count = {0: sizes}  # how many of the n choices fell on the children so far
    for child in step.transforms:
        reached, grown = by_count, dict(by_count)
        for _ in range(step.n if step.replace else 1):
            reached = {
                n + 1: _after(child, before, forced=False) for n, before in reached.items() if n < step.n
            }
            grown = {n: grown.get(n, set()) | reached.get(n, set()) for n in grown.keys() | reached.keys()}
        by_count = grown
    return by_count[step.n]


def _unless_certain(p: float, before: set[Size], after: set[Size]) -> set[Size]:
    return after if p >= 1 else before if p <= 0 else before | after


def _size_of(step: Step, size: Size, *, force_apply: bool) -> Size:
    image = step(image=np.zeros((*size, 3), np.uint8), force_apply=force_apply)["image"]
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise NotPictures("return uint8 pictures; normalisation belongs to data and happens last")
    if image.shape[2:] != (3,):
        raise NotPictures(f"keep three channels, got {image.shape}")
    return image.shape[:2]
