"""Class activation maps of chosen pictures, and the module they are taken from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.data.split import Data, Split
from cifar_core.explain.gradcam import cam_grid, evaluating, layer_gradients
from cifar_core.explain.layout import Layout, layout
from cifar_core.explain.predictions import Predictions

BATCH_SIZE = 128  # pictures per backward pass, of up to 64x64; of larger ones as many pixels
SMALLEST = 7  # cells a side of the grid that is taken where no layer is named

# What the maps are evidence for. The difference is that of the logits of the predicted and of the true class;
# of a right prediction, of the predicted class and the runner-up.
TARGETS = ("predicted", "true", "runner_up", "difference")


@dataclass(frozen=True)
class Cams:
    """The maps of M pictures as the layer's own grids, on the CPU."""

    rows: Tensor  # int64 (M,), where the pictures stand in the predictions
    grids: Tensor  # float32 (len(TARGETS), M, h, w), at least 0, not normalised
    agree: Tensor  # bool (M,), whether the model predicted here what the given logits say

    def __getitem__(self, some: slice) -> "Cams":
        """Return the maps of some of the pictures."""
        return Cams(self.rows[some], self.grids[:, some], self.agree[some])


def cam_module(model: nn.Module, name: str, image_size: int) -> nn.Module:
    """Find the module called `name`, whose output must be a grid of more than one cell (`layout`).

    Without a name it is the last one in the forward pass whose grid (N, C, H, W) has at least 7 cells a side,
    or, where tokens come later, what enters the last block of them: of a network that reads its class token
    alone, the other tokens have no gradient after that. A module before any mixing of places is not taken.
    Runs a few pictures. Raises ValueError that lists the modules with a grid, nested at most once, or says
    that no answer depends on the one named, or that the model does not take pictures of this size.
    """
    grids = _grids(model, image_size)
    chosen = name or _default(model, grids, image_size)
    if chosen not in grids:
        choices = ", ".join(known for known in grids if known.count(".") <= 1) or "none"
        raise ValueError(
            f"analysis.layer must be a module of the model with a grid, got {name!r}; it has: {choices}"
        )
    if name and grids[name].channels_last and not _is_reached(model, name, image_size):
        default = _default(model, grids, image_size)
        if default and _is_reached(model, default, image_size):  # of a head that is still zero nothing is
            raise ValueError(
                f"analysis.layer must be one whose cells the answer depends on, got {name!r}, after which "
                f"other tokens decide; {default} is one"
            )
    return model.get_submodule(chosen)


def _default(model: nn.Module, grids: dict[str, Layout], image_size: int) -> str:
    """Return the name of the module to take where none is named; "" where none qualifies."""
    square = {name: grid for name, grid in grids.items() if grid.height == grid.width}
    tokens = {name: grid for name, grid in square.items() if grid.channels_last}
    blocks = {name: grid for name, grid in tokens.items() if _enters(model, name, grids)}
    channels_first = {name: grid for name, grid in square.items() if not grid.channels_last}
    order = list(grids)
    best = sorted((name for kind in (channels_first, blocks) for name in _best(kind)[:1]), key=order.index)
    mixing = (n for n in [*reversed(best), *_best(tokens)] if _mixes(model, n, grids[n], image_size))
    first = next(mixing, "")
    # Of an untrained head that is zero nothing is reached, not even the first tokens.
    if not first or first in channels_first or not _is_reached(model, next(iter(tokens)), image_size):
        return first
    return next((name for name in chain([first], mixing) if _is_reached(model, name, image_size)), "")


def _best(grids: Mapping[str, Layout]) -> list[str]:
    """Return the names of those with at least 7 cells a side, else of all, the last first."""
    large = [name for name, grid in grids.items() if grid.height >= SMALLEST]
    return [*reversed(large or [*grids])]


def _is_reached(model: nn.Module, name: str, image_size: int) -> bool:
    """Tell whether the logits depend on a module's cells; beside a class token they may not."""
    pictures = _pictures(model, 1, image_size)
    target = torch.zeros(1, dtype=torch.int64, device=pictures.device)
    try:
        _, (gradient,), _ = layer_gradients(model, model.get_submodule(name), pictures, [target])
    except ValueError:
        return False
    return bool(gradient.any())


def _enters(model: nn.Module, name: str, grids: Mapping[str, Layout]) -> bool:
    """Tell whether a module is the first within one of the same grid, as the norm of a block is."""
    parent = name.rpartition(".")[0]
    if parent not in grids or grids[parent] != grids[name]:
        return False
    inside = [other for other in grids if other.startswith(f"{parent}.")]
    return inside[0] == name and "norm" in type(model.get_submodule(name)).__name__.lower()


def cams(
    model: nn.Module,
    layer: nn.Module,
    data: Data,
    part: Split,
    predictions: Predictions,
    rows: Tensor,
    *,
    method: str = "gradcam",
) -> Cams:
    """Compute the maps of the pictures `rows` (M,) of a split for all TARGETS, from one forward pass each."""
    pixels = part.images.shape[-2:].numel()
    size = max(1, min(BATCH_SIZE, BATCH_SIZE * 64 * 64 // pixels))
    batches = [_batch(model, layer, data, part, predictions, some, method) for some in rows.split(size)]
    grids, agree = zip(*batches, strict=True)
    return Cams(rows, torch.cat(grids, dim=1), torch.cat(agree))


def evidence(grids: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Enlarge grids (T, M, h, w) of predicted, true, ... to (T, M, *size) in [0, 1] on one scale a picture.

    1 is the strongest evidence for the predicted or the true class, where further targets are cut off; 0 is
    none. Maps of a model with NaN are 0.
    """
    if not grids.shape[1]:
        return grids.new_zeros(len(grids), 0, *size)
    maps = F.interpolate(grids, tuple(size), mode="bilinear", align_corners=False)
    strongest = maps[:2].amax(dim=(0, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (maps / strongest).nan_to_num(0).clamp(0, 1)


def _batch(
    model: nn.Module,
    layer: nn.Module,
    data: Data,
    part: Split,
    predictions: Predictions,
    rows: Tensor,
    method: str,
) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    images = data.normalize(part.images[rows].to(device))
    targets = [of[rows].to(device) for of in (predictions.preds, predictions.labels, predictions.runners_up)]
    activations, gradients, logits = layer_gradients(model, layer, images, targets)
    right = predictions.hits[rows].to(device)[:, None, None, None]
    rival = torch.where(right, gradients[2], gradients[1])
    maps = [cam_grid(activations, of, method=method) for of in (*gradients, gradients[0] - rival)]
    return torch.stack(maps).cpu(), logits.argmax(1).cpu() == predictions.preds[rows]


def _grids(model: nn.Module, image_size: int) -> dict[str, Layout]:
    """Return how each module's output is a grid, in the order of the forward pass."""
    grids: dict[str, Layout] = {}

    def note(name: str, module: nn.Module, args: tuple, output: object) -> None:
        if isinstance(module, (nn.Dropout, nn.Softmax)):  # where attention passes, (N, heads, L, L)
            return
        if not isinstance(output, Tensor) or output.ndim not in (3, 4) or len(output) != 1:
            return
        try:
            grid = layout(model, module, output, (image_size, image_size))
        except ValueError:  # such as tokens that are no square
            return
        if grid.height * grid.width > 1:
            grids.setdefault(name, grid)

    _run(
        model,
        {name: partial(note, name) for name, _ in model.named_modules() if name},
        _pictures(model, 1, image_size),
    )
    return grids


def _mixes(model: nn.Module, name: str, grid: Layout, image_size: int) -> bool:
    """Tell whether a pixel changes more than one cell: before that, a cell has seen its own patch alone."""
    seen: list[Tensor] = []

    def note(module: nn.Module, args: tuple, output: Tensor) -> None:
        seen.append(grid.grid(output))

    for image in _pictures(model, 3, image_size).split(
        1
    ):  # one at a time, so that equal cells have equal bits
        before = len(seen)
        _run(model, {name: note}, image)
        del seen[before + 1 :]  # of a layer that is called again
    changed = (torch.cat(seen[1:]) != seen[0]).any(dim=1)  # (2, h, w)
    return bool((changed.sum(dim=(1, 2)) > 1).any())


def _run(model: nn.Module, notes: Mapping[str, Callable[..., None]], images: Tensor) -> None:
    """Run pictures through the model in eval mode, with hooks."""
    hooks = [model.get_submodule(name).register_forward_hook(note) for name, note in notes.items()]
    try:
        with torch.no_grad(), evaluating(model):
            model(images)
    except (AssertionError, RuntimeError) as error:
        if type(error) not in (AssertionError, RuntimeError):  # such as a lack of memory
            raise
        raise ValueError(
            f"the model must take pictures of {images.shape[2]}x{images.shape[3]}, but: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _pictures(model: nn.Module, count: int, image_size: int) -> Tensor:
    """Return pictures of noise (count, 3, H, W); all but the first differ from it in one pixel each."""
    parameter = next(model.parameters())
    noise = torch.rand(3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    images = noise.to(parameter).repeat(count, 1, 1, 1)
    for number in range(1, count):
        place = max(0, image_size // 2 - number)  # two neighbours: one of them is at the edge of a patch
        images[number, :, place, place] += 10
    return images
