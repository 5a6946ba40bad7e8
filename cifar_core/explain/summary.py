"""A model at a glance: modules, shapes, parameters and the cost of one picture."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cifar_core.explain.gradcam import evaluating

# torch's own counter sees every operation, but its import takes a second: more than a short run can spare.
COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def summarize(model: nn.Module, image_size: int) -> str:
    """Return a plain-text table of the two upper levels of modules, then the totals.

    Output shapes are (C, H, W) or (K,), for one picture (3, image_size, image_size). FLOPs are those of its
    forward pass, 2 per multiply-add, in convolutions and linear layers. The model is left as it was.
    """
    modules = {name: module for name, module in model.named_modules() if name and name.count(".") < 2}
    shapes, flops = _measure(model, modules, image_size)
    rows = [("module", "type", "output", "parameters")]
    for name, module in modules.items():
        label = "  " * name.count(".") + name
        parameters = f"{_count(module.parameters()):,}"
        rows.append((label, type(module).__name__, shapes.get(name, "-"), parameters))
    table = _align(rows)
    return "\n".join(
        [
            *table,
            "-" * len(table[0]),
            f"parameters  {_count(model.parameters()):,}",
            f"trainable   {_count(p for p in model.parameters() if p.requires_grad):,}",
            f"forward     {flops / 1e9:.4f} GFLOP per picture of {image_size}x{image_size}",
        ]
    )


def _measure(model: nn.Module, modules: dict[str, nn.Module], image_size: int) -> tuple[dict[str, str], int]:
    shapes: dict[str, str] = {}
    flops: list[int] = []

    def note(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[name] = " x ".join(str(length) for length in output.shape[1:])

    def count(layer: Any, _args: Any, output: Tensor) -> None:
        flops.append(2 * output.numel() * layer.weight[0].numel())  # a row of weights for each output

    image = next(model.parameters(), torch.empty(0)).new_zeros(1, 3, image_size, image_size)
    handles = [module.register_forward_hook(partial(note, name)) for name, module in modules.items()]
    handles += [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, COUNTED)]
    try:
        with evaluating(model), torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return shapes, sum(flops)


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _align(rows: list[tuple[str, str, str, str]]) -> list[str]:
    name, kind, shape, count = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [f"{a:<{name}}  {b:<{kind}}  {c:>{shape}}  {d:>{count}}" for a, b, c, d in rows]
