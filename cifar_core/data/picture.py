"""A picture file of any kind as 8-bit RGB: suffixes, and how depth, alpha and orientation are read."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps

WHITE = (255, 255, 255)
NO_PICTURES = ("EPS", "MPEG")  # what Pillow opens but does not decode itself: a document, a film
FULL = 65535  # white of 16 bits
TIFF_PHOTOMETRIC, TIFF_BITS, TIFF_FORMAT = 262, 258, 339  # tags
SIGNED = 2  # of TIFF_FORMAT


@dataclass(frozen=True)
class Reading:
    """How picture files become 8-bit RGB, where the file leaves it open."""

    background: tuple[int, int, int] = WHITE  # what transparent pictures are laid over, 0-255
    white: float = 0  # the value that is white in files of more than 8 bits; 0 = as the file type says


PLAIN = Reading()


class DepthError(ValueError):
    """Says which values of a picture no law scales to 8 bits, and what would."""


@functools.cache
def suffixes() -> tuple[str, ...]:
    """Return the suffixes of picture files that the installed Pillow reads, in lower case, sorted.

    Left out are formats that Pillow knows but does not decode itself (EPS, MPEG, WMF, HDF5, GRIB, BUFR).
    """
    Image.init()

    def decodes(name: str) -> bool:
        if name == "MPO":  # opened as JPEG
            name = "JPEG"
        reader = Image.OPEN[name][0] if name in Image.OPEN and name not in NO_PICTURES else None
        stub = isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile)
        return reader is not None and not stub

    known = Image.registered_extensions()
    return tuple(sorted(suffix.lower() for suffix, name in known.items() if decodes(name)))


def is_picture(name: str) -> bool:
    """Return whether a file's name ends as a picture's, in any case."""
    return name.lower().endswith(suffixes())


def decode_picture(path: Path, image_size: int, reading: Reading = PLAIN) -> np.ndarray:
    """Read one picture as uint8 (3, image_size, image_size).

    Raises whatever Pillow's decoders do for a damaged file, DepthError for values without a law.
    """
    return read_picture(path, image_size, reading)[0]


def read_picture(path: Path, image_size: int, reading: Reading) -> tuple[np.ndarray, float]:
    """Return `decode_picture`'s answer and the highest value of a picture of 16 bits, 0 for all others."""
    with Image.open(path) as opened:
        kind, tags = opened.format, getattr(opened, "tag_v2", {})
        deep = any(";16" in str(tile[3]) for tile in getattr(opened, "tile", ()))
        ImageOps.exif_transpose(opened, in_place=True)
        values = _deep(opened, tags)
        if values is None:
            picture = _colours(opened, reading.background, deep)
            highest = _highest(picture, reading.white) if deep else 0.0
        else:
            white = _white(opened.mode, kind, tags)
            turned = kind == "TIFF" and tags.get(TIFF_PHOTOMETRIC) == 0
            grey = _grey(values, white, reading.white, inverted=turned)
            hidden = opened.info.get("transparency")
            alpha = None if hidden is None else np.where(values == hidden, 0, 255)
            picture = _over(Image.fromarray(grey).convert("RGB"), alpha, reading.background)
            highest = float(values.max()) if white == FULL else 0.0
    if picture.size != (image_size, image_size):
        picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1), highest


def _colours(picture: Image.Image, background: Sequence[int], deep: bool) -> Image.Image:
    """Return a picture of 8 bits a sample, or ``deep`` colours that Pillow has cut to them, as RGB."""
    if picture.mode == "LAB":
        return _from_lab(picture)
    if picture.mode in ("La", "RGBa"):  # alpha multiplied in
        picture = picture.convert(picture.mode.upper())
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    if picture.mode == "RGB":
        key = [value >> 8 if deep else value for value in picture.info["transparency"]]
        return _over(picture, np.where((np.asarray(picture) == key).all(axis=2), 0, 255), background)
    rgba = picture.convert("RGBA")
    return _over(rgba.convert("RGB"), np.asarray(rgba.getchannel("A")), background)


def _highest(picture: Image.Image, white: float) -> float:
    """Return how high the 16-bit values of a picture may have been, of which Pillow keeps the higher byte."""
    if white not in (0, FULL):
        raise DepthError(
            f"of 16-bit colour the higher byte alone is read, so data.white={white:g} has no effect on it: "
            "save it with 8 bits, or leave data.white out"
        )
    return float(np.asarray(picture).max()) * 256 + 255


def _deep(picture: Image.Image, tags: Any) -> np.ndarray | None:
    """Return the values of a picture of more than 8 bits a sample, or with a sign; None for all others."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        return np.asarray(picture)
    if picture.mode == "L" and SIGNED in tags.get(TIFF_FORMAT, ()):
        return np.asarray(picture).view(np.int8)
    return None


def _white(mode: str, kind: str | None, tags: Any) -> float:
    """Return the value that the file type says is white, 0 where it says none."""
    if mode.startswith("I;16"):
        return 2 ** tags.get(TIFF_BITS, (16,))[0] - 1
    return FULL if mode == "I" and kind in ("PPM", "PNG") else 0  # Pillow scales PGM of any depth to 16 bits


def _grey(values: np.ndarray, declared: float, given: float, *, inverted: bool) -> np.ndarray:
    """Scale to uint8: of 16 bits the higher byte, as Pillow does with colours, else 255 * value / white."""
    white = given or declared
    if not white:
        raise DepthError(
            "a picture of float, signed or 32-bit values does not say which one is white: give data.white, "
            f"as 1 for values of 0 to 1 (here they go from {values.min():g} to {values.max():g})"
        )
    if not (values.min() >= 0 and values.max() <= white):  # NaN is neither
        raise DepthError(
            f"values must lie between 0 and data.white={white:g}, got {values.min():g} to {values.max():g}"
        )
    if white == FULL and values.dtype.kind in "iu":
        grey = (values.astype(np.int64) >> 8).astype(np.uint8)
    else:
        grey = np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8)
    return 255 - grey if inverted else grey


def _from_lab(picture: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    assert converted is not None  # only in place is there none
    return converted


def _over(rgb: Image.Image, alpha: np.ndarray | None, background: Sequence[int]) -> Image.Image:
    """Lay a picture over one colour; where it is opaque its bits stay."""
    if alpha is None or alpha.min() == 255:
        return rgb
    share = alpha[..., None].astype(np.int64)
    mixed = np.asarray(rgb) * share + np.array(background) * (255 - share)
    return Image.fromarray(((mixed + 127) // 255).astype(np.uint8))
