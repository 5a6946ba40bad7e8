"""Grad-CAM and Grad-CAM++: where in a picture a layer finds evidence for a class.

Grad-CAM is Selvaraju et al. 2017 (arXiv:1610.02391), Grad-CAM++ Chattopadhay et al. 2018 (arXiv:1710.11063).
Normalisation, resizing and the constants follow pytorch-grad-cam, so that its maps can be compared with ours.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.explain.layout import layout


def grad_cam(
    model: nn.Module,
    layer: nn.Module,
    images: Tensor,
    targets: Sequence[Tensor],
    *,
    method: str = "gradcam",
) -> tuple[Tensor, Tensor]:
    """Return one map per target and picture, and the logits, from one forward pass.

    `images` are normalised (N, 3, H, W), `targets` label vectors (N,), `layer` a module of `model` that gives
    (N, C, h, w), (N, h, w, C) or tokens (N, L, C), of which a class token is left out; `method` is gradcam or
    gradcam++. Maps are float32 (len(targets), N, H, W) in [0, 1],
    logits float32 (N, K). The model computes in eval mode and is left as it was, without new gradients.
    """
    grids, logits = cam_grids(model, layer, images, targets, method=method)
    height, width = images.shape[-2:]
    return upsample(grids, (height, width)), logits


def cam_grids(
    model: nn.Module,
    layer: nn.Module,
    images: Tensor,
    targets: Sequence[Tensor],
    *,
    method: str = "gradcam",
) -> tuple[Tensor, Tensor]:
    """Return the maps of `grad_cam` as the layer's own grids (len(targets), N, h, w), and the logits.

    Grids are float32, at least 0 and not normalised, so grids of one picture can be compared.
    """
    activations, gradients, logits = layer_gradients(model, layer, images, targets)
    grids = [cam_grid(activations, gradient, method=method) for gradient in gradients]
    return torch.stack(grids), logits


def cam_grid(activations: Tensor, gradients: Tensor, *, method: str = "gradcam") -> Tensor:
    """Return relu(sum of weighted channels) (N, h, w) from what `layer_gradients` gives for one target."""
    if method not in WEIGHTS:
        raise ValueError(f"method must be one of {', '.join(WEIGHTS)}, got {method!r}")
    weights = WEIGHTS[method](activations, gradients)
    return (weights[:, :, None, None] * activations).sum(dim=1).relu()


def upsample(grids: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale each grid of (..., h, w) to [0, 1] and resize it bilinearly to `size` = (H, W).

    A grid without contrast becomes 0 everywhere.
    """
    flat = _min_max(grids.float()).flatten(0, -3).unsqueeze(1)
    resized = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    # Interpolation between cell centres misses the extremes, hence the second scaling.
    return _min_max(resized).reshape(*grids.shape[:-2], *size)


def layer_gradients(
    model: nn.Module, layer: nn.Module, images: Tensor, targets: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return the layer's output, the gradient of each target's logit by it, and the logits.

    Output and gradients are float32 (N, C, h, w), one gradient per target; logits are float32 (N, K). The
    graph is cut at the layer: nothing before it is recorded or differentiated. If the model calls the layer
    more than once, the first call counts. Compiled code does not see the hook that cuts: pass the model as it
    was before torch.compile. Raises ValueError where layer or targets do not fit.
    """
    _check_shapes(images, targets)
    leaf, logits = _forward_from_leaf(model, layer, images)
    height, width = images.shape[-2:]
    grid = layout(model, layer, leaf, (height, width)).grid
    gradients = [grid(_logit_gradient(logits, target.to(logits.device), leaf)) for target in targets]
    return grid(leaf.detach().float()), gradients, logits.detach().float()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode; afterwards give every submodule its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _forward_from_leaf(model: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _args: Any, output: Any) -> Tensor | None:
        if leaves:
            return None
        layout(model, layer, output, (images.shape[-2], images.shape[-1]))
        # A copy, since an inference tensor cannot require gradients.
        leaves.append(output.clone().requires_grad_())
        torch.set_grad_enabled(True)  # until the surrounding no_grad ends
        return leaves[0].clone()  # what follows may write into its input

    handle = layer.register_forward_hook(cut)
    try:
        with torch.inference_mode(False), torch.no_grad(), evaluating(model):
            logits = model(images)
    finally:
        handle.remove()
    if not leaves:
        kind = type(layer).__name__
        raise ValueError(f"layer must take part in the (uncompiled) model's forward pass, got {kind}")
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must return logits (N, K) alone in eval mode, got {got}")
    return leaves[0], logits


def _logit_gradient(logits: Tensor, target: Tensor, leaf: Tensor) -> Tensor:
    num_classes = logits.shape[1]
    if target.numel() and (target.min() < 0 or target.max() >= num_classes):
        got = f"{target.min().item()} to {target.max().item()}"
        raise ValueError(f"targets must lie between 0 and {num_classes - 1}, got {got}")
    # Pictures do not mix in eval mode: one backward pass of the summed logits serves all of them.
    chosen = F.one_hot(target.long(), num_classes).to(logits.dtype)
    gradient = None
    if logits.requires_grad:
        (gradient,) = torch.autograd.grad(logits, leaf, chosen, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("layer must lead to the logits, but no gradient reaches it")
    return gradient.float()


def _check_shapes(images: Tensor, targets: Sequence[Tensor]) -> None:
    if not targets:
        raise ValueError("targets must hold at least one label vector, got none")
    for target in targets:
        if target.shape != (len(images),):
            raise ValueError(f"targets must have shape ({len(images)},), got {tuple(target.shape)}")
        if target.is_floating_point() or target.dtype == torch.bool:
            raise ValueError(f"targets must be whole numbers, got {target.dtype}")


def _gradcam_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    return gradients.mean(dim=(2, 3))


def _gradcam_plusplus_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    # Equation 19 of the paper, whose score is exp(logit): its derivatives are powers of the logit's gradient.
    squares = gradients**2
    total = activations.sum(dim=(2, 3), keepdim=True)
    alpha = squares / (2 * squares + total * squares * gradients + 1e-6)
    return torch.where(gradients > 0, gradients * alpha, 0).sum(dim=(2, 3))


WEIGHTS = {"gradcam": _gradcam_weights, "gradcam++": _gradcam_plusplus_weights}


def _min_max(maps: Tensor) -> Tensor:
    maps = maps - maps.amin(dim=(-2, -1), keepdim=True)
    return maps / (1e-7 + maps.amax(dim=(-2, -1), keepdim=True))
