"""Where a module's output has its places: channels first, channels last, or tokens in a row."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

CHANNELS_LAST = (nn.LayerNorm, nn.Linear)  # these very classes: some libraries derive channels-first norms


@dataclass(frozen=True)
class Layout:
    """How to read a module's output as a grid."""

    height: int
    width: int
    channels_last: bool = False
    prefix: int = 0  # tokens before the grid, such as a class token
    in_a_row: bool = False  # (N, L, C) with L = prefix + height * width

    def grid(self, output: Tensor) -> Tensor:
        """Return ``output`` as (N, C, height, width)."""
        if self.in_a_row:
            output = output[:, self.prefix :].unflatten(1, (self.height, self.width))
        return output.movedim(-1, 1) if self.channels_last else output


def layout(model: nn.Module, layer: nn.Module, output: object, picture: tuple[int, int]) -> Layout:
    """Tell how ``output``, that of ``layer`` for pictures of this height and width, is to be read.

    Of four axes the two that have the picture's proportions are the grid; where both readings have them,
    channels come last for a LayerNorm, a Linear and what timm calls NHWC. Of three, (N, L, C), the L tokens
    are a grid of the picture's proportions after as many as `num_prefix_tokens` says, or 0, 1 or 2. Raises
    ValueError for anything else.
    """
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    if len(shape) == 4:
        first, last = _like(shape[2], shape[3], picture), _like(shape[1], shape[2], picture)
        nhwc = type(layer) in CHANNELS_LAST or (
            getattr(model, "output_fmt", "") == "NHWC" and not isinstance(layer, nn.Conv2d | nn.BatchNorm2d)
        )
        if last and (nhwc or not first):
            return Layout(shape[1], shape[2], channels_last=True)
        return Layout(shape[2], shape[3])
    if len(shape) == 3:
        known = getattr(model, "num_prefix_tokens", 0)
        for prefix in dict.fromkeys((known if isinstance(known, int) else 0, 0, 1, 2)):
            height = math.isqrt(max(0, shape[1] - prefix) * picture[0] // picture[1])
            width, rest = divmod(shape[1] - prefix, height) if height else (0, 1)
            if not rest and _like(height, width, picture):
                return Layout(height, width, channels_last=True, prefix=prefix, in_a_row=True)
        raise ValueError(
            f"layer must give tokens that are a grid of the picture's proportions, got {shape[1]} from "
            f"{type(layer).__name__}: not {picture[0]}:{picture[1]} with 0, 1 or 2 more before them"
        )
    got = shape or type(output).__name__
    raise ValueError(
        f"layer must give a tensor (N, C, h, w), (N, h, w, C) or (N, L, C), got {got} from "
        f"{type(layer).__name__}"
    )


def _like(height: int, width: int, picture: tuple[int, int]) -> bool:
    """Tell whether a grid has the proportions of the picture, but for a cell of rounding."""
    if picture[0] == picture[1]:
        return height == width
    return (
        abs(height - width * picture[0] / picture[1]) < 1 or abs(width - height * picture[1] / picture[0]) < 1
    )
