"""Pictures and bytes as data URIs, so that one HTML file holds them."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cifar_core.report.heat import overlay

THUMB = 64  # largest side of a picture in the sprite sheet
STILL = 96  # side of the pictures that show without JavaScript
SPRITE_BYTES = 560_000
WIDE = 480  # side of a sheet shrunk, pixels
SHEET_BYTES = 45_000
SHEET_PIXELS = 40_000_000  # at most; of more there is no small picture
ROW_BYTES = 8_000  # of pictures side by side
SMALL = 128 * 128  # pixels, up to which its tables are worth fitting and Pillow's buffer has room for that
QUALITIES = ((90, 0), (80, 0), (60, 2), (30, 2), (10, 2))  # and chroma: 0 = full, 2 = halved both ways


@dataclass(frozen=True)
class Sprite:
    """Pictures of one size side by side in one, row after row."""

    uri: str
    columns: int
    width: int  # of one picture, pixels
    height: int


def sprite(images: Tensor) -> Sprite:
    """Lay uint8 images (M, 3, H, W), M >= 1, out as one JPEG of at most SPRITE_BYTES.

    Sides above THUMB are shrunk, further where the pictures are many.
    """
    for side in (THUMB, THUMB // 2, THUMB // 4, THUMB // 8):
        sheet = _sprite(images, side)
        if len(sheet.uri) <= SPRITE_BYTES * 4 / 3 + 30:  # base64, and what stands before it
            break
    return sheet


def _sprite(images: Tensor, side: int) -> Sprite:
    images = _shrunk(images, side)
    count, _, height, width = images.shape
    columns = max(1, round((count * height / width) ** 0.5))
    cells = images.new_zeros(-(-count // columns) * columns, 3, height, width)
    cells[:count] = images
    sheet = cells.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    return Sprite(uri(to_picture(sheet), SPRITE_BYTES), columns, width, height)


def _shrunk(images: Tensor, side: int) -> Tensor:
    if max(images.shape[2:]) <= side:
        return images
    pictures = [to_picture(image) for image in images]
    for picture in pictures:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def still(image: Tensor, *maps: np.ndarray) -> str:
    """Return a picture and its heat maps (H, W) side by side as a data URI."""
    picture = scaled(image, STILL)
    return row([picture, *(overlay(picture, heat) for heat in maps)], gap=2)


def scaled(image: Tensor, side: int) -> Image.Image:
    """Scale uint8 (3, H, W) smoothly so that its longer side has ``side`` pixels."""
    picture = to_picture(image)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def thumbnail(file: Path) -> str:
    """Return a PNG file, as wide as WIDE and no taller: its top; "" where there is none to be read."""
    try:
        with Image.open(file, formats=["PNG"]) as picture:  # others may start programs: Ghostscript
            if picture.width * picture.height > SHEET_PIXELS:
                return ""
            sheet = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""
    sheet = sheet.crop((0, 0, sheet.width, min(sheet.height, sheet.width)))
    sheet.thumbnail((WIDE, WIDE), Image.Resampling.LANCZOS)
    return uri(sheet, SHEET_BYTES)


def row(pictures: list[Image.Image], gap: int) -> str:
    """Return pictures side by side as a data URI; all are as tall as the first."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    strip = Image.new("RGB", (width, pictures[0].height), "#8a929b")
    x = 0
    for picture in pictures:
        strip.paste(picture, (x, 0))
        x += picture.width + gap
    return uri(strip, ROW_BYTES)


def grid_bytes(grids: Tensor) -> str:
    """Return grids (T, M, h, w) as base64 of uint8 in the order (M, T, h, w), each picture in 0-255."""
    grids = grids.nan_to_num(0, 0, 0)
    strongest = grids.amax(dim=(0, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    steps = (grids / strongest * 255).round().to(torch.uint8)
    return base64.b64encode(steps.transpose(0, 1).contiguous().numpy().tobytes()).decode()


def to_picture(image: Tensor) -> Image.Image:
    """Turn uint8 (3, H, W) into a Pillow picture."""
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def uri(picture: Image.Image, limit: int) -> str:
    """Return a picture as JPEG in a data URI, in the first of QUALITIES that keeps to `limit` bytes."""
    optimize = picture.width * picture.height <= SMALL
    for quality, subsampling in QUALITIES:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, subsampling=subsampling, optimize=optimize)
        if file.tell() <= limit:
            break
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
