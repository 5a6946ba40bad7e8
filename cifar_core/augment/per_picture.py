"""The Albumentations backend: the user's recipe, called once per picture, seeded with its key."""

import copy
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import albumentations as A
import numpy as np
import torch
from torch import Tensor

from cifar_core.augment.recipe import Draw, Recipe, Step, Steps
from cifar_core.augment.uniforms import picture_keys
from cifar_core.processes import end_with_parent, helpers


class PerPicture:
    """Run a recipe with Albumentations itself, picture by picture.

    ``workers`` processes share a batch, none for 0; a picture's seed is its own, so their number changes
    nothing. They start with the first batch and end with this process.
    """

    def __init__(self, steps: Steps, *, workers: int = 0) -> None:
        self.compose = Recipe(steps).compose
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Augment uint8 images (N, 3, H, W), each with its key (N,) as the seed."""
        if len(images) == 0:
            return self(images.new_zeros(1, *images.shape[1:]), keys.new_zeros(1))[:0]
        arrays = images.permute(0, 2, 3, 1).cpu().numpy()
        if self.workers == 0 or len(arrays) < 2 * self.workers:
            pictures = _augmented_all(self.compose, arrays, keys.tolist())
        else:
            pictures = self._shared(arrays, keys)
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().to(images.device)

    def _shared(self, arrays: np.ndarray, seeds: Tensor) -> np.ndarray:
        rows = np.array_split(np.arange(len(arrays)), self.workers)
        shares = [(arrays[share], seeds[share].tolist()) for share in rows]
        with helpers() as context:  # no forks of this process: with torch's threads in it they could hang
            if self._pool is None:
                self._pool = ProcessPoolExecutor(self.workers, context, _keep_compose, (self.compose,))
            done = self._pool.map(_augmented_share, shares)
        return np.concatenate(list(done))


_compose: A.Compose  # of a worker process


def _keep_compose(compose: A.Compose) -> None:
    global _compose
    _compose = compose
    end_with_parent()


def _augmented_share(share: tuple[np.ndarray, list[int]]) -> np.ndarray:
    return _augmented_all(_compose, *share)


def _augmented_all(compose: A.Compose, arrays: np.ndarray, seeds: list[int]) -> np.ndarray:
    """Augment pictures (N, H, W, 3), each from its seed; returns (N, H', W', 3)."""
    pictures = [_augmented(compose, *pair) for pair in zip(arrays, seeds, strict=True)]
    return torch.stack(pictures).permute(0, 2, 3, 1).numpy()


def record(steps: Steps, images: Tensor, seed: int) -> tuple[Tensor, list[list[Draw]]]:
    """Augment uint8 `images` (N, 3, H, W) with Albumentations and note what every leaf did to every picture.

    Returns the pictures (N, 3, H', W') and, for each, its draws: the applied ones in the order they ran, then
    those of the leaves that were passed by.
    """
    recipe = Recipe(steps)
    leaves = list(recipe.leaves())
    applied: list[Draw] = []
    for path, leaf in leaves:
        leaf.apply_with_params = _noting(path, leaf, applied.append)  # looked up on the instance first
    pictures, draws = [], []
    seeds = picture_keys(len(images), torch.Generator().manual_seed(seed)).tolist()
    for array, value in zip(images.permute(0, 2, 3, 1).cpu().numpy(), seeds, strict=True):
        applied.clear()
        pictures.append(_augmented(recipe.compose, array, value))
        met = {draw.path for draw in applied}
        passed = [Draw(path, type(leaf).__name__, False) for path, leaf in leaves if path not in met]
        draws.append(applied + passed)
    return torch.stack(pictures).contiguous().to(images.device), draws


def _augmented(compose: A.Compose, array: np.ndarray, seed: int) -> Tensor:
    """Augment one picture (H, W, 3) with all steps drawing from one stream.

    `A.Compose(seed=...)` would start every step at the same point of the same stream: a flip would then
    happen exactly where another step of equal probability does.
    """
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    image = compose(image=np.ascontiguousarray(array))["image"]
    return image if isinstance(image, Tensor) else torch.from_numpy(image).permute(2, 0, 1)


def _noting(path: str, leaf: Step, note: Callable[[Draw], None]) -> Callable[..., dict[str, Any]]:
    apply = leaf.apply_with_params

    def apply_and_note(params: dict[str, Any], *args: Any, **data: Any) -> dict[str, Any]:
        note(Draw(path, type(leaf).__name__, True, copy.deepcopy(params)))
        return apply(params, *args, **data)

    return apply_and_note
