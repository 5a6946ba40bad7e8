"""Class activation maps of a batch of pictures, and the module they are taken from."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.data import Data
from cifar_core.gradcam import cam_grids, evaluating

BATCH_SIZE = 128  # pictures per backward pass


def cam_module(model: nn.Module, name: str, image_size: int) -> nn.Module:
    """Find the module called `name`, whose output must be a grid (N, C, H, W) of more than one cell.

    Runs one picture. Raises ValueError that lists the modules with a grid, nested at most once.
    """
    grids = _grid_modules(model, image_size)
    if name not in grids:
        choices = ", ".join(known for known in grids if known.count(".") <= 1) or "none"
        raise ValueError(
            f"analysis.layer must be a module of the model with a grid, got {name!r}; it has: {choices}"
        )
    return model.get_submodule(name)


def cams(model: nn.Module, layer: nn.Module, data: Data, images: Tensor, targets: list[Tensor]) -> Tensor:
    """Compute Grad-CAM of uint8 images for target classes (N,), float32 (len(targets), N, H, W) on the CPU.

    A picture's maps share one scale: 1 is its strongest evidence for any of the targets, 0 is none.
    Maps of a model with NaN are 0.
    """
    if not len(images):
        return torch.zeros(len(targets), *images[:, 0].shape)
    device = next(model.parameters()).device
    maps = []
    for rows in torch.arange(len(images)).split(BATCH_SIZE):
        batch = data.normalize(images[rows].to(device))
        grids, _ = cam_grids(model, layer, batch, [target[rows].to(device) for target in targets])
        maps.append(F.interpolate(grids, images.shape[-2:], mode="bilinear", align_corners=False).cpu())
    evidence = torch.cat(maps, dim=1)
    strongest = evidence.amax(dim=(0, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (evidence / strongest).nan_to_num(0)


def _grid_modules(model: nn.Module, image_size: int) -> list[str]:
    grids: list[str] = []

    def note(name: str, module: nn.Module, args: tuple, output: object) -> None:
        if (
            isinstance(output, Tensor)
            and output.ndim == 4
            and output.shape[2:].numel() > 1
            and name not in grids
        ):
            grids.append(name)

    hooks = [
        module.register_forward_hook(partial(note, name)) for name, module in model.named_modules() if name
    ]
    parameter = next(model.parameters())
    try:
        with torch.no_grad(), evaluating(model):
            model(parameter.new_zeros(1, 3, image_size, image_size))
    finally:
        for hook in hooks:
            hook.remove()
    return grids
