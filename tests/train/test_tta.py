import pytest
import torch
from torch import nn

from cifar_core.train.tta import averaged


def pixel(images):
    """One "logit" per picture and channel: the pixel at row 1, column 2."""
    return images[:, :, 1, 2]


@pytest.fixture
def images():
    return torch.arange(2 * 3 * 6 * 8, dtype=torch.float32).view(2, 3, 6, 8)


def test_none_is_the_model_itself():
    assert averaged(pixel, "none") is pixel


def test_mirror_is_the_mean_of_both_sides(images):
    expected = (images[:, :, 1, 2] + images[:, :, 1, 8 - 1 - 2]) / 2
    torch.testing.assert_close(averaged(pixel, "mirror")(images), expected)


def test_multicrop_weighs_six_views(images):
    """Shifted one pixel towards either corner, row 1, column 2 shows its diagonal neighbours."""

    def both_sides(row, column):  # of a shifted picture, mirrored after the shift
        return images[:, :, 1 + row, 2 + column] + images[:, :, 1 + row, 5 + column]

    expected = both_sides(0, 0) / 4 + both_sides(-1, -1) / 8 + both_sides(1, 1) / 8
    torch.testing.assert_close(averaged(pixel, "multicrop")(images), expected)


def test_multicrop_fills_the_border_by_reflection(images):
    def corner(images):
        return images[:, :, 0, 0]

    plain = images[:, :, 0, 0] + images[:, :, 0, 7]
    reflected = images[:, :, 1, 1] + images[:, :, 1, 6]  # by either shift, over row 0 and column 0 or 7
    torch.testing.assert_close(averaged(corner, "multicrop")(images), plain / 4 + reflected / 4)


def test_a_model_blind_to_place_is_unchanged(images):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    same = torch.full_like(images, 3.0)
    for kind in ("mirror", "multicrop"):
        torch.testing.assert_close(averaged(model, kind)(same), model(same))


def test_unknown_kind():
    with pytest.raises(ValueError, match="tta must be one of none, mirror, multicrop, got 'flip'"):
        averaged(pixel, "flip")
