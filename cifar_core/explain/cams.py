"""Class activation maps of chosen pictures, and the module they are taken from."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.data.split import Data, Split
from cifar_core.explain.gradcam import cam_grid, evaluating, layer_gradients
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
    """Find the module called `name`, whose output must be a grid (N, C, H, W) of more than one cell.

    Without a name it is the last one in the forward pass whose grid has at least 7 cells a side.
    Runs one picture. Raises ValueError that lists the modules with a grid, nested at most once, or says that
    the model does not take pictures of this size.
    """
    grids = _grids(model, image_size)
    if not name:
        # The picture is square, so what is not has other axes: some transformers give (N, H, W, C).
        square = {known: height for known, (height, width) in grids.items() if height == width}
        large = [known for known, side in square.items() if side >= SMALLEST]
        name = next(reversed(large or [*square]), "")
    if name not in grids:
        choices = ", ".join(known for known in grids if known.count(".") <= 1) or "none"
        raise ValueError(
            f"analysis.layer must be a module of the model with a grid, got {name!r}; it has: {choices}"
        )
    return model.get_submodule(name)


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


def _grids(model: nn.Module, image_size: int) -> dict[str, tuple[int, int]]:
    """Return height and width, in cells, of each module's grid, in the order of the forward pass."""
    grids: dict[str, tuple[int, int]] = {}

    def note(name: str, module: nn.Module, args: tuple, output: object) -> None:
        if isinstance(module, (nn.Dropout, nn.Softmax)):  # where attention passes, (N, heads, L, L)
            return
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            grids.setdefault(name, (output.shape[2], output.shape[3]))

    hooks = [
        module.register_forward_hook(partial(note, name)) for name, module in model.named_modules() if name
    ]
    parameter = next(model.parameters())
    try:
        with torch.no_grad(), evaluating(model):
            model(parameter.new_zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError) as error:
        if type(error) not in (AssertionError, RuntimeError):  # such as a lack of memory
            raise
        raise ValueError(
            f"the model must take pictures of {image_size}x{image_size}, but: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return grids
