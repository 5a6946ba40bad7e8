import pytest
import torch
import torch.nn.functional as F

from cifar_core.models.airbench import NOISE, airbench


@pytest.fixture
def images():
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 3, 20, 20, generator=rng)
    return F.avg_pool2d(noise, 3, stride=1, padding=1) * 3 + torch.tensor([0.5, 0.0, -0.5]).view(3, 1, 1)


def test_whitening_makes_patches_uncorrelated_with_unit_variance(images):
    model = airbench()
    model.init_from_data(images)
    out = F.conv2d(images, model.whiten.weight)
    half = out[:, :12].transpose(0, 1).flatten(1)
    moments = half @ half.T / half.shape[1]
    patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1)
    variances = torch.linalg.eigvalsh(patches.T @ patches / len(patches))
    torch.testing.assert_close(moments, torch.diag(variances / (variances + NOISE)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(out[:, 12:], -out[:, :12])


def test_whitening_filters_are_set_but_never_trained(images):
    model = airbench()
    before = model.whiten.weight.clone()
    model.init_from_data(images)
    assert not torch.equal(model.whiten.weight, before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "whiten.weight" not in trained
    assert not any(name.endswith(("norm1.weight", "norm2.weight")) for name in trained)
    assert {"whiten.bias", "fc.weight", "layer1.norm1.bias", "layer3.conv2.weight"} <= trained


def test_without_whitening_the_first_filters_stay_random_and_are_trained(images):
    model = airbench(whitening=False)
    before = model.whiten.weight.clone()
    model.init_from_data(images)
    assert torch.equal(model.whiten.weight, before)
    assert model.whiten.weight.requires_grad


@pytest.mark.parametrize("name", ["layer1.conv1", "layer1.conv2", "layer2.conv1", "layer3.conv2"])
def test_dirac_init_passes_channels_on(name):
    conv = airbench().get_submodule(name)
    features = torch.randn(2, conv.in_channels, 5, 5)
    passed = min(conv.in_channels, conv.out_channels)
    torch.testing.assert_close(conv(features)[:, :passed], features[:, :passed])
    assert not torch.equal(airbench(dirac_init=False).get_submodule(name)(features)[:, :1], features[:, :1])


def test_head_has_unit_spread_and_is_divided_by_the_channels():
    model = airbench()
    assert model.fc.weight.std().item() == pytest.approx(1.0)
    features = torch.randn(2, 256, 3, 3)
    expected = F.max_pool2d(features, 3).flatten(1) @ model.fc.weight.T / 256
    torch.testing.assert_close(model.forward_head(features), expected)


def test_width_scales_the_groups():
    model = airbench(width=16, in_chans=1)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    assert model.layer3.conv2.weight.shape == (64, 64, 3, 3)
    assert model.whiten.weight.shape == (8, 1, 2, 2)
