import importlib
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from cifar_core.models.davidnet import davidnet
from cifar_core.models.eva_small import eva_small
from cifar_core.models.resnet import resnet18, resnet20

MODEL_FILES = sorted((Path(__file__).parents[1] / "conf" / "model").glob("*.yaml"))
NAMES = [path.stem for path in MODEL_FILES]

# From the papers, or added up by hand from the layers' shapes.
PARAMETERS = {
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet20": 269_722,
    "davidnet": 6_573_120,
    "eva_small": 181_962,
}
CAM_LAYERS = {
    "resnet18": "layer3",
    "resnet34": "layer3",
    "resnet20": "layer3",
    "davidnet": "layer2",
    "eva_small": "layer4",
}


def make(name, num_classes=10, **options):
    path = next(path for path in MODEL_FILES if path.stem == name)
    values = yaml.safe_load(path.read_text())
    cam_layer = values.pop("cam_layer")
    module, _, function = values.pop("_target_").rpartition(".")
    torch.manual_seed(0)
    model = getattr(importlib.import_module(module), function)(num_classes=num_classes, **(values | options))
    return model, cam_layer


def drops(name):
    return "drop_rate" in next(path for path in MODEL_FILES if path.stem == name).read_text()


def pictures(n, size=32):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def layer_output(model, layer, images):
    outputs = []
    handle = layer.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    with torch.no_grad():
        model(images)
    handle.remove()
    return outputs[0]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    model, _ = make(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_resnet20_count_follows_from_the_layers():
    convs = 3 * 16 * 9 + 6 * 16 * 16 * 9 + (16 * 32 + 5 * 32 * 32) * 9 + (32 * 64 + 5 * 64 * 64) * 9
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    assert convs + norms + 64 * 10 + 10 == PARAMETERS["resnet20"]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_finite_gradient(name):
    model, _ = make(name)
    logits = model(pictures(2))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("num_classes", [1, 100])
@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_class_counts(name, size, num_classes):
    model, _ = make(name, num_classes)
    with torch.no_grad():
        logits = model.eval()(pictures(1, size))
    assert logits.shape == (1, num_classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_head_of_features_and_deterministic_in_eval(name):
    model, _ = make(name, **({"drop_rate": 0.5} if drops(name) else {}))
    model.eval()
    images = pictures(2)
    with torch.no_grad():
        logits = model(images)
        features = model.forward_features(images)
        assert features.ndim == 4
        assert torch.equal(model.forward_head(features), logits)
        assert torch.equal(model(images), logits)


@pytest.mark.parametrize("name", [name for name in NAMES if drops(name)])
def test_drop_rate_acts_in_training_only(name):
    model, _ = make(name, drop_rate=0.5)
    with torch.no_grad():
        features = model.forward_features(pictures(2))
        assert not torch.equal(model.forward_head(features), model.forward_head(features))


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_gives_the_same_logits(name):
    model, _ = make(name)
    model.eval()
    images = pictures(2)
    with torch.no_grad():
        expected = model(images)
        model.to(memory_format=torch.channels_last)
        features = model.forward_features(images.contiguous(memory_format=torch.channels_last))
        assert features.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model.forward_head(features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_autocast_stays_near_fp32(name):
    model, _ = make(name)
    model.eval()
    images = pictures(2)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images)
    assert logits.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits; errors grow with depth, so the bound is on the vector as a whole.
    assert (logits.float() - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("name", NAMES)
def test_cam_layer_is_the_last_with_a_grid_of_seven(name):
    model, cam_layer = make(name)
    model.eval()
    assert cam_layer == CAM_LAYERS.get(name, cam_layer)
    grid = layer_output(model, model.get_submodule(cam_layer), pictures(1)).shape[-1]
    last_grid = model.forward_features(pictures(1)).shape[-1]
    assert grid >= 7
    assert last_grid < 7 or last_grid == grid


@pytest.mark.parametrize("function", [resnet18, resnet20, davidnet, eva_small])
def test_width_and_input_channels(function):
    model = function(num_classes=4, width=8, in_chans=1)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    assert next(model.parameters()).shape == (8, 1, 3, 3)


def test_zero_init_last_starts_blocks_as_their_shortcut():
    block = resnet18(width=8, zero_init_last=True).eval().layer1[0]
    features = torch.rand(2, 8, 6, 6)
    assert torch.equal(block(features), features)


@pytest.mark.parametrize("size", [7, 8])
def test_pad_shortcut_keeps_pixels_and_adds_zero_channels(size):
    shortcut = resnet20().layer2[0].shortcut
    features = torch.rand(2, 16, size, size)
    out = shortcut(features)
    assert torch.equal(out[:, :16], features[:, :, 0::2, 0::2])
    assert out.shape[1] == 32
    assert not out[:, 16:].any()


def test_resnet_convolutions_start_as_he_fan_out():
    conv = resnet18().layer3[1].conv1
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


def test_davidnet_head_is_the_scaled_linear_map_of_the_maximum():
    model = davidnet(width=8, logit_scale=0.5).eval()
    features = torch.randn(2, 64, 4, 4)
    expected = 0.5 * nn.functional.max_pool2d(features, 4).flatten(1) @ model.fc.weight.T
    torch.testing.assert_close(model.forward_head(features), expected)
    assert model.fc.bias is None


def test_eva_small_is_separable_dilated_and_without_pooling():
    model, _ = make("eva_small")
    assert PARAMETERS["eva_small"] < 200_000
    assert not any("Pool" in type(module).__name__ for module in model.modules())
    spatial = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(conv.groups == conv.in_channels for conv in spatial[1:])
    assert all(conv.dilation == (2, 2) for conv in spatial[-2:])


def test_eva_small_receptive_field():
    model, _ = make("eva_small")
    field, jump = 1, 1
    for conv in (module for module in model.modules() if isinstance(module, nn.Conv2d)):
        field += (conv.kernel_size[0] - 1) * conv.dilation[0] * jump
        jump *= conv.stride[0]
    assert field > 44

    # The same number from the gradient: with positive weights no path cancels.
    model.eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.abs() + 0.01
    images = torch.ones(1, 3, 96, 96, requires_grad=True)
    features = model.forward_features(images)
    (gradient,) = torch.autograd.grad(features[0, :, 12, 12].sum(), images)
    seen = gradient[0, 0].abs().sum(0).nonzero()
    assert seen.max() - seen.min() + 1 == field
