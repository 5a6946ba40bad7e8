"""Cards of pictures and captions on a grid, drawn with Pillow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from cifar_core.report.heat import inferno
from cifar_core.report.lettering import Font, font, shorten

TILE = 96  # largest side of a picture on a sheet, pixels
FRAME = 3  # line around a picture
GAP = 10  # between the pictures of a card
PADDING = 12  # inside a card
SPACING = 14  # between cards
MARGIN = 28  # around the sheet
LINE = 20  # height of a line of text
WIDTH = 1440  # the sheet is filled up to here, and never narrower than MIN_WIDTH
MIN_WIDTH = 1060
TOP = MARGIN + 98  # where the cards begin, below title, subtitle and legend

PAGE, CARD, INK, FAINT, RULE = "#f2f3f5", "#ffffff", "#1b1f24", "#5a6270", "#d9dce1"

TRUE, PREDICTED = "#0067a5", "#c44900"  # blue and vermilion stay apart for colour-blind readers

COLORS = 256  # of a file, the most that a palette holds: a third of the bytes of all colours
NAMED = [ImageColor.getrgb(color) for color in (PAGE, CARD, INK, FAINT, RULE, TRUE, PREDICTED)]
KEPT = np.concatenate([NAMED, inferno(np.linspace(0, 1, 25))]).astype(np.int64)  # the same in all files

Span = tuple[str, str]  # text and its colour


@dataclass(frozen=True)
class Tile:
    """A picture and the colour of the line around it."""

    picture: Image.Image
    frame: str = RULE


@dataclass(frozen=True)
class Card:
    """Tiles side by side; below them a headline of spans and a line of detail."""

    tiles: list[Tile]
    headline: list[Span]
    detail: str = ""


def enlarge(image: Tensor) -> Image.Image:
    """Scale a uint8 picture (3, H, W) smoothly: down to TILE a side, or up by a whole number."""
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    longest = max(picture.size)
    if longest > TILE:
        picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
        return picture
    scale = TILE // longest
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)


def draw_sheet(
    title: str, subtitle: str, cards: Sequence[Card], *, legend: Sequence[Span], heat: bool, empty: str
) -> Image.Image:
    """Lay cards out in rows under a title, a subtitle and a legend; without cards, say `empty`.

    `legend` pairs a text with the colour of its frame; `heat` adds the scale of the maps.
    """
    card_width = max((_card_size(card)[0] for card in cards), default=0)
    card_height = max((_card_size(card)[1] for card in cards), default=4 * LINE)
    columns = (WIDTH - 2 * MARGIN + SPACING) // (card_width + SPACING)
    columns = max(1, min(columns, len(cards)))
    lines = max(1, -(-len(cards) // columns))
    width = max(MIN_WIDTH, 2 * MARGIN + columns * (card_width + SPACING) - SPACING)
    height = TOP + lines * (card_height + SPACING) - SPACING + MARGIN

    sheet = Image.new("RGB", (width, height), PAGE)
    room = width - 2 * MARGIN
    _write(sheet, (MARGIN, MARGIN), room, title, INK, font(22, bold=True))
    _write(sheet, (MARGIN, MARGIN + 34), room, subtitle, FAINT, font(14))
    if not cards:
        _write(sheet, (MARGIN, TOP), room, empty, INK, font(16))
        return sheet
    _draw_legend(sheet, (MARGIN, MARGIN + 64), legend, heat)
    for place, card in enumerate(cards):
        line, column = divmod(place, columns)
        corner = (MARGIN + column * (card_width + SPACING), TOP + line * (card_height + SPACING))
        _draw_card(sheet, corner, (card_width, card_height), card)
    return sheet


def save_sheet(sheet: Image.Image, file: Path | BinaryIO) -> None:
    """Write a sheet as PNG in `COLORS`: those of the frame that it has, and those its pictures need most."""
    few = sheet.resize((max(1, sheet.width // 3), max(1, sheet.height // 3)), Image.Resampling.NEAREST)
    chosen = np.reshape(few.quantize(COLORS - len(KEPT)).getpalette() or [], (-1, 3))
    near = (np.abs(chosen[:, None] - KEPT) < 8).all(-1).any(-1)  # for which Pillow would take either
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([KEPT, chosen[~near]]).ravel().tolist())
    sheet.quantize(palette=palette, dither=Image.Dither.NONE).save(file, "PNG", compress_level=9)


def _card_size(card: Card) -> tuple[int, int]:
    width = sum(tile.picture.width for tile in card.tiles) + GAP * (len(card.tiles) - 1)
    height = max(tile.picture.height for tile in card.tiles)
    text = LINE * (2 if card.detail else 1) + 6
    return width + 2 * PADDING, height + text + 2 * PADDING


def _draw_card(sheet: Image.Image, corner: tuple[int, int], size: tuple[int, int], card: Card) -> None:
    draw = ImageDraw.Draw(sheet)
    left, top = corner
    draw.rounded_rectangle((left, top, left + size[0] - 1, top + size[1] - 1), 6, CARD, RULE)
    x, y = left + PADDING, top + PADDING
    for tile in card.tiles:
        width, height = tile.picture.size
        box = (x - FRAME, y - FRAME, x + width + FRAME - 1, y + height + FRAME - 1)
        draw.rectangle(box, outline=tile.frame, width=FRAME)
        sheet.paste(tile.picture, (x, y))
        x += width + GAP
    y += max(tile.picture.height for tile in card.tiles) + 8
    room = size[0] - 2 * PADDING
    _write_spans(sheet, (left + PADDING, y), room, card.headline)
    _write(sheet, (left + PADDING, y + LINE), room, card.detail, FAINT, font(11))


def _write(
    sheet: Image.Image, corner: tuple[int, int], room: float, text: str, color: str, face: Font
) -> float:
    """Write text, cut to `room` pixels; return the width it took."""
    shown = shorten(text, face, room)
    ImageDraw.Draw(sheet).text(corner, shown, color, face)
    return face.getlength(shown)


def _write_spans(sheet: Image.Image, corner: tuple[int, int], room: float, spans: Sequence[Span]) -> None:
    """Write spans after each other; where they do not fit, the longest are cut."""
    face, space = font(14, bold=True), 7
    longest = _longest([face.getlength(text) for text, _ in spans], room - space * (len(spans) - 1))
    x, y = corner
    for text, color in spans:
        x += space + round(_write(sheet, (x, y), longest, text, color, face))


def _longest(lengths: Sequence[float], room: float) -> float:
    """Return the length at which the longer ones must be cut for all to fit into the room."""
    for place, length in enumerate(sorted(lengths)):
        share = room / (len(lengths) - place)
        if length > share:
            return share
        room -= length
    return max(lengths)


def _draw_legend(sheet: Image.Image, corner: tuple[int, int], legend: Sequence[Span], heat: bool) -> None:
    x, y = corner
    for text, color in legend:
        ImageDraw.Draw(sheet).rectangle((x, y + 1, x + 14, y + 15), outline=color, width=FRAME)
        x += 48 + round(_write(sheet, (x + 22, y), sheet.width, text, INK, font(13)))
    if heat:
        scale = inferno(np.broadcast_to(np.linspace(0, 1, 120), (14, 120)))
        sheet.paste(Image.fromarray(scale), (x + 14, y + 1))
        _write(sheet, (x, y), sheet.width, "0", FAINT, font(13))
        _write(sheet, (x + 140, y), sheet.width, "1 = the strongest evidence in the picture", FAINT, font(13))
