"""Digits are not mirrored unless somebody asks for it, and then it is said."""

from pathlib import Path

import pytest

from experiments.config.compose import compose
from experiments.config.mirrors import mirrored_signs
from experiments.config.values import plain, with_constants
from experiments.runs.story import run

DIGITS = tuple("0123456789")
NESTED = (
    "+aug.image.some={_target_: albumentations.OneOf, transforms: [{_target_: albumentations.VerticalFlip}]}"
)
TINY = [
    "data=digits",
    "data.image_size=8",
    "model=resnet20",
    "model.width=4",
    "trainer=quick",
    "trainer.epochs=1",
]
TINY += [
    "trainer.batch_size=500",
    "trainer.device=cpu",
    "trainer.guards=off",
    "tracking=none",
    "analysis=none",
]


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["data=digits"], ["pad", "crop"]),
        (["data=cifar10"], ["pad", "crop", "flip"]),
        (["data=folder", "data.root=x"], ["pad", "crop", "flip"]),
        (["data=digits", "aug=crop_flip"], ["pad", "crop", "flip"]),
        (["aug=flip", "data=digits"], ["flip"]),
        (["experiment=quickstart"], []),
        (["experiment=quickstart", "aug=cutout"], ["pad", "crop", "flip", "cutout"]),
    ],
)
def test_the_default_recipe_suits_the_pictures_and_a_chosen_one_wins(words: list[str], steps: list[str]):
    assert list(compose(words).aug.image) == steps


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["aug=crop_flip"], "aug.image.flip mirrors"),
        (["aug=none", NESTED], "aug.image.some mirrors"),
        (["aug=randaugment"], "aug.image.flip mirrors"),
        (["trainer.alternating_flip=true"], "trainer.alternating_flip mirrors"),
        (["trainer.tta=mirror"], "trainer.tta=mirror mirrors"),
        (["aug=flip", "trainer.tta=multicrop"], "aug.image.flip, trainer.tta=multicrop mirrors"),
        ([], ""),
        (["aug=none"], ""),
        (["aug=flip", "aug.image.flip.p=0", "+aug.image.b={_target_: albumentations.Blur}"], ""),
    ],
)
def test_what_mirrors_digits_is_named_at_any_depth(words: list[str], told: str):
    values = plain(compose(["data=digits", *words]))
    line = mirrored_signs(values, "digits", DIGITS)
    assert line.startswith(told) if told else line == ""


def test_letters_in_a_folder_are_signs_and_cats_are_not():
    values = plain(with_constants(compose(["data=folder", "data.root=x"]), [1] * 3, [1] * 3))
    assert mirrored_signs(values, "folder", tuple("abcdefghijk"))
    assert not mirrored_signs(values, "folder", ("cat", "dog"))
    assert not mirrored_signs(values, "folder", ("0", "1"))


def test_a_run_says_it_once(tmp_path: Path):
    run(compose([*TINY, "aug=flip", "aug.workers=0"]), tmp_path / "flip")
    assert (tmp_path / "flip" / "run.log").read_text().count(
        "a mirrored 2 is no digit: '~aug.image.flip'"
    ) == 1
    run(compose(TINY), tmp_path / "plain")
    assert "mirrored 2" not in (tmp_path / "plain" / "run.log").read_text()
