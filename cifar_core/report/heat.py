"""Colours of heat maps: the inferno scale, ordered in lightness and safe for colour-blind readers."""

import numpy as np
from PIL import Image

# Eleven evenly spaced colours of inferno (Smith & van der Walt 2015, CC0), linear in between.
INFERNO = np.array(
    [
        (0, 0, 4),
        (22, 11, 57),
        (66, 10, 104),
        (106, 23, 110),
        (147, 38, 103),
        (188, 55, 84),
        (221, 81, 58),
        (243, 120, 25),
        (252, 165, 10),
        (246, 215, 70),
        (252, 255, 164),
    ],
    dtype=np.float64,
)


def inferno(values: np.ndarray) -> np.ndarray:
    """Color values in [0, 1] of any shape; uint8 (..., 3)."""
    steps = np.linspace(0, 1, len(INFERNO))
    return (
        np.stack([np.interp(values, steps, channel) for channel in INFERNO.T], axis=-1)
        .round()
        .astype(np.uint8)
    )


def overlay(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """Lay a map (H, W) in [0, 1] over a picture of any size, the more opaque the hotter.

    The map is enlarged smoothly; the picture loses half its colour, so that what is colourful is heat.
    """
    smooth = Image.fromarray(heat.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC)
    values = np.asarray(smooth).clip(0, 1)
    opacity = Image.fromarray((255 * (0.25 + 0.5 * values)).round().astype(np.uint8))
    faded = Image.blend(picture, picture.convert("L").convert("RGB"), 0.5)
    return Image.composite(Image.fromarray(inferno(values)), faded, opacity)
