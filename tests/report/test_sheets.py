from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from sklearn.datasets import load_sample_images
from torch import Tensor

from cifar_core.report.cards import (
    CARD,
    GAP,
    MARGIN,
    MIN_WIDTH,
    PADDING,
    PAGE,
    PREDICTED,
    RULE,
    TILE,
    TOP,
    TRUE,
    Card,
    Tile,
    draw_sheet,
    enlarge,
    save_sheet,
)
from cifar_core.report.heat import inferno, overlay
from cifar_core.report.lettering import font, printable_names, shorten
from tests.report.examples import NAMES, guesses, pictures, run

LABELS = np.random.default_rng(2).integers(0, 10, 150).tolist()


def enlarged(image: Tensor) -> np.ndarray:
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    return np.asarray(picture.resize((TILE, TILE), Image.Resampling.BICUBIC))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def photos(count: int, side: int) -> Tensor:
    """Pieces of two photographs, uint8 (count, 3, side, side)."""
    rng = np.random.default_rng(0)
    pieces = []
    for number in range(count):
        photo = load_sample_images().images[number % 2]
        y, x = (int(rng.integers(0, size - 2 * side)) for size in photo.shape[:2])
        piece = Image.fromarray(photo[y : y + 2 * side, x : x + 2 * side])
        pieces.append(np.asarray(piece.resize((side, side), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2)


def found_at(sheet: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """The (x, y) at which the sheet is most like the picture, in the few colours that it has."""
    height, width = (size - side + 1 for size, side in zip(sheet.shape, picture.shape[:2], strict=False))
    green, wanted = sheet[..., 1].astype(np.int32), picture[..., 1]
    apart = np.zeros((height, width), np.int32)
    for y, x in np.ndindex(*(side // 12 for side in wanted.shape)):
        apart += np.abs(green[12 * y :, 12 * x :][:height, :width] - wanted[12 * y, 12 * x])
    y, x = map(int, np.unravel_index(apart.argmin(), apart.shape))
    assert alike(sheet[y : y + picture.shape[0], x : x + picture.shape[1]], picture)
    return x, y


def alike(shown: np.ndarray, picture: np.ndarray) -> bool:
    return bool(np.abs(shown.astype(int) - picture).mean() < 16)


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
    assert draw.shape == (84, 84, 3)
    for place in range(8):
        left = x + TILE + GAP + place * (84 + GAP)
        assert alike(sheet[y : y + 84, left : left + 84], draw)


@pytest.mark.parametrize(("errors", "columns"), [(1, 1), (2, 2), (100, 4)])
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


@pytest.mark.parametrize("side", [32, 96])
def test_a_sheet_of_a_hundred_errors_takes_less_than_a_megabyte_and_a_half(tmp_path: Path, side: int):
    images = photos(100, side)
    heat = np.random.default_rng(1).random((100, 8, 8))
    tiles = [
        [Tile(enlarge(image))] + 2 * [Tile(overlay(enlarge(image), heat[place]), TRUE)]
        for place, image in enumerate(images)
    ]
    cards = [Card(three, [("cat", TRUE)], "index 0") for three in tiles]
    drawn = draw_sheet("t", "s", cards, legend=[("true", TRUE)], heat=True, empty="")
    save_sheet(drawn, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size < 1_500_000
    differs = np.abs(pixels(tmp_path / "sheet.png").astype(int) - np.asarray(drawn))
    assert (differs**2).mean() < 255**2 / 10**3.3  # a peak signal 33 dB above the noise


def test_the_colours_of_a_frame_stay_as_they_are(tmp_path: Path):
    tiles = [
        Tile(enlarge(image), color) for image, color in zip(photos(2, 32), (TRUE, PREDICTED), strict=True)
    ]
    cards = [Card([tile], [("cat", TRUE)]) for tile in tiles]
    drawn = draw_sheet("t", "s", cards, legend=[], heat=True, empty="")
    save_sheet(drawn, tmp_path / "sheet.png")
    before, after = np.asarray(drawn).reshape(-1, 3), pixels(tmp_path / "sheet.png").reshape(-1, 3)
    for color in (PAGE, CARD, RULE, TRUE, PREDICTED):
        same = (before == ImageColor.getrgb(color)).all(-1)
        assert same.any()
        assert (after[same] == ImageColor.getrgb(color)).all()


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
    ("side", "expected"), [(1, 96), (28, 84), (32, 96), (64, 64), (96, 96), (128, 96), (224, 96)]
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
