from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cifar_core.report.cards import (
    GAP,
    MARGIN,
    MIN_WIDTH,
    PADDING,
    TILE,
    TOP,
    Card,
    Tile,
    draw_sheet,
    enlarge,
)
from cifar_core.report.heat import inferno, overlay
from cifar_core.report.lettering import font, printable_names, shorten
from tests.report.examples import NAMES, guesses, pictures, run

LABELS = np.random.default_rng(2).integers(0, 10, 150).tolist()


def enlarged(image: Tensor) -> np.ndarray:
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    return np.asarray(picture.resize((128, 128), Image.Resampling.BICUBIC))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def found_at(sheet: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """The only (x, y) at which the sheet shows the picture."""
    height, width = picture.shape[:2]
    starts = np.argwhere((sheet == picture[0, 0]).all(-1))
    places = [
        (int(x), int(y)) for y, x in starts if np.array_equal(sheet[y : y + height, x : x + width], picture)
    ]
    assert len(places) == 1
    return places[0]


@pytest.mark.parametrize(("name", "wrong", "sign"), [("contact", True, -1), ("correct", False, 1)])
def test_cards_show_the_right_pictures_in_order(tmp_path: Path, name: str, wrong: bool, sign: int):
    data, logits = pictures(LABELS), guesses(LABELS)
    run(data, logits, tmp_path, sheet_size=12)
    sheet = pixels(tmp_path / f"{name}_sheet.png")
    probs = torch.softmax(logits.double(), 1).numpy()
    rows = np.flatnonzero((probs.argmax(1) != LABELS) == wrong)
    rows = rows[np.argsort(sign * probs.max(1)[rows])][:12]

    places = [found_at(sheet, enlarged(data.test.images[row])) for row in rows]
    assert places[0] == (MARGIN + PADDING, TOP + PADDING)
    assert places == sorted(places, key=lambda place: (place[1], place[0]))
    assert len({x for x, _ in places}) > 1


def test_the_augmentation_sheet_shows_originals_and_their_draws(tmp_path: Path):
    data = pictures(LABELS)
    run(data, guesses(LABELS), tmp_path, augment=lambda images, keys: 255 - images[..., 4:, 4:])
    sheet = pixels(tmp_path / "augmentations.png")
    x, y = found_at(sheet, enlarged(data.train.images[0]))
    draw = np.asarray(enlarge(255 - data.train.images[0, :, 4:, 4:]))
    assert draw.shape == (112, 112, 3)
    for place in range(8):
        left = x + 128 + GAP + place * (112 + GAP)
        np.testing.assert_array_equal(sheet[y : y + 112, left : left + 112], draw)


@pytest.mark.parametrize(("errors", "columns"), [(1, 1), (2, 2), (100, 3)])
def test_a_sheet_grows_with_its_cards(tmp_path: Path, errors: int, columns: int):
    labels = [1] * 150
    logits = torch.zeros(150, 10)
    logits[:, 1] = 1
    logits[:errors, 0] = 2
    run(pictures(labels), logits, tmp_path, sheet_size=100)
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        width, height = sheet.size
    card_width, card_height = 3 * TILE + 2 * GAP + 2 * PADDING, TILE + 46 + 2 * PADDING
    lines = -(-errors // columns)
    assert width == max(MIN_WIDTH, columns * card_width + (columns - 1) * 14 + 2 * MARGIN)
    assert height == TOP + lines * (card_height + 14) - 14 + MARGIN


def test_without_cards_a_message_is_drawn():
    def sheet(message: str) -> np.ndarray:
        return np.asarray(draw_sheet("title", "subtitle", [], legend=[], heat=True, empty=message))

    blank, told = sheet(""), sheet("No errors")
    assert blank.shape == told.shape
    assert (blank[:TOP] == told[:TOP]).all()
    assert (told[TOP:].min(axis=(0, 1)) < 60).all()  # dark ink


def test_long_names_stay_inside_their_card():
    black = Image.new("RGB", (TILE, TILE))
    spans = [("W" * 300, "#0067a5"), ("→", "#5a6270"), ("ship", "#c44900")]
    sheet = np.asarray(
        draw_sheet("t" * 500, "s", [Card([Tile(black)], spans, "d" * 300)], legend=[], heat=False, empty="")
    )
    card_right = MARGIN + TILE + 2 * PADDING
    assert (sheet[TOP:, card_right:] == sheet[-1, -1]).all()
    assert (sheet[:, -MARGIN:] == sheet[-1, -1]).all()
    caption = sheet[TOP + PADDING + TILE + 8 :, MARGIN + PADDING : card_right - PADDING]
    vermilion = np.abs(caption.astype(int) - (0xC4, 0x49, 0x00)).sum(-1) < 40
    assert vermilion.any()  # the short name is not pushed out by the long one


@pytest.mark.parametrize(
    ("side", "expected"), [(1, 128), (28, 112), (32, 128), (96, 96), (128, 128), (224, 128)]
)
def test_pictures_are_enlarged_by_whole_numbers_or_shrunk(side: int, expected: int):
    assert enlarge(torch.zeros(3, side, side, dtype=torch.uint8)).size == (expected, expected)


def test_inferno_is_close_to_matplotlibs_and_rises_in_lightness():
    values = np.linspace(0, 1, 256)
    colors = inferno(values).astype(int)
    expected = mpl.colormaps["inferno"](values)[:, :3] * 255
    assert np.abs(colors - expected).max() < 10
    lightness = colors[::8] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()
    assert inferno(np.zeros((2, 5))).shape == (2, 5, 3)


def test_heat_covers_a_picture_the_more_the_hotter():
    grey = Image.new("RGB", (128, 128), (100, 100, 100))
    cold, hot = (np.asarray(overlay(grey, np.full((32, 32), value))) for value in (0.0, 1.0))
    np.testing.assert_allclose(cold[64, 64], 0.75 * 100 + 0.25 * np.array([0, 0, 4]), atol=1)
    np.testing.assert_allclose(hot[64, 64], 0.25 * 100 + 0.75 * np.array([252, 255, 164]), atol=1)
    heat = np.zeros((32, 32))
    heat[:8, :8] = 1
    warm = np.asarray(overlay(grey, heat)).astype(int).sum(-1)
    assert np.unravel_index(warm.argmax(), warm.shape) < (32, 32)


def test_names_are_cut_to_the_width():
    face = font(14)
    assert shorten("cat", face, 100) == "cat"
    cut = shorten("long-tailed macaque", face, 80)
    assert cut.endswith("...")
    assert "long-tailed macaque".startswith(cut[:-3])
    assert face.getlength(cut) <= 80 < face.getlength("long-tailed macaque")


def test_names_without_letters_in_the_font_become_their_number():
    names = ("Käfer", "жук", "猫", "a\nb", "", "\udcff", "→")
    assert printable_names(names) == ["Käfer", "жук", "class 2", "a b", "class 4", "class 5", "→"]
    assert printable_names(NAMES) == list(NAMES)
