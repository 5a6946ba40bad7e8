from pathlib import Path

import pytest
from PIL import Image

from experiments.config.compose import compose
from experiments.tools import preview as tool
from experiments.tools.preview import preview
from tests.conftest import Cli

DIGITS = ["data=digits", "trainer.epochs=3", "tracking=none"]


@pytest.mark.parametrize("aug", ["cutout", "none", "mixup"])
def test_sheets_of_shipped_recipes(tmp_path: Path, aug: str):
    paths = preview(compose([*DIGITS, f"aug={aug}"]), tmp_path / "sheets")
    expected = ["augmentation.png", "schedule.png", *(["mixing.png"] if aug == "mixup" else [])]
    assert [path.name for path in paths] == expected
    for path in paths:
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_the_same_draws_differ_nowhere_for_an_exact_recipe(tmp_path: Path):
    """The last picture of each card is the difference times 64: black where both agree."""
    seen = []
    draw_sheet = tool.draw_sheet
    tool.draw_sheet = lambda *words, **more: seen.append(words[2]) or draw_sheet(*words, **more)
    try:
        preview(compose([*DIGITS, "aug=cutout"]), tmp_path)
    finally:
        tool.draw_sheet = draw_sheet
    for card in seen[0]:
        assert card.detail == "same draws: 100.0% of pixels equal, largest difference 0/255"
        assert card.tiles[-1].picture.getextrema() == ((0, 0),) * 3


def test_a_recipe_that_is_not_lowered_is_shown_by_albumentations_alone(tmp_path: Path):
    step = "+aug.image.fog={_target_: albumentations.RandomFog, p: 1.0}"
    assert preview(compose([*DIGITS, "aug=flip", step]), tmp_path)[0].exists()


def test_the_command_prints_its_files_and_tells_mistakes(cli: Cli, tmp_path: Path):
    done = cli(*DIGITS, "--out", str(tmp_path / "sheets"), "aug=flip", module="preview")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(tmp_path / "sheets" / name) for name in ("augmentation.png", "schedule.png")
    ]
    wrong = cli("aug=cutuot", module="preview")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "did you mean cutout?" in wrong.stderr
