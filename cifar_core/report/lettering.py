"""Fonts and names for pictures and plots."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
ELLIPSIS = "..."


@cache
def font(size: int, *, bold: bool = False) -> Font:
    """Load DejaVu Sans from matplotlib's files without importing it, or else Pillow's ASCII font."""
    spec = find_spec("matplotlib")
    folder = Path(spec.origin).parent / "mpl-data/fonts/ttf" if spec and spec.origin else Path()
    path = folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(path, size) if path.is_file() else ImageFont.load_default(size)


def printable_names(classes: Sequence[str]) -> list[str]:
    """Names on one line that the font can draw; a name with other characters becomes `class <number>`."""
    names = [" ".join(name.split()) for name in classes]
    return [name if _drawable(name) else f"class {number}" for number, name in enumerate(names)]


def shorten(text: str, face: Font, width: float) -> str:
    """Cut text that is wider than `width` pixels and end it with an ellipsis."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + ELLIPSIS) > width:
        text = text[:-1]
    return text.rstrip() + ELLIPSIS


def _drawable(text: str) -> bool:
    return bool(text) and text.isprintable() and not any(_missing(letter) for letter in set(text) - {" "})


@cache
def _missing(letter: str) -> bool:
    face = font(14)
    return bytes(face.getmask(letter)) == bytes(face.getmask("\U0010ffff"))  # a code point no font has
