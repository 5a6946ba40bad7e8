import importlib
import re
import sys
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
import torchvision
import yaml
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual

from cifar_core.explain.cams import cam_module
from cifar_core.models.davidnet import davidnet
from cifar_core.models.densenet import densenet_cifar
from cifar_core.models.eva_small import eva_small
from cifar_core.models.mobilenet_v2 import mobilenet_v2
from cifar_core.models.preact_resnet import preact_resnet18
from cifar_core.models.resnet import resnet18, resnet20, resnet34
from cifar_core.models.timm_bridge import timm_model
from cifar_core.models.vgg import vgg16_bn
from cifar_core.models.wide_resnet import wrn16_4, wrn28_10
from tests.conftest import PROJECT

MODEL_FILES = sorted((PROJECT / "conf" / "model").glob("*.yaml"))
NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
NAMES = [
    pytest.param(path.stem, marks=NEEDS_TIMM) if path.stem == "timm" else path.stem for path in MODEL_FILES
]

# From the papers, or added up by hand from the layers' shapes.
PARAMETERS = {
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet20": 269_722,
    "davidnet": 6_573_120,
    "eva_small": 181_962,
    "airbench": 1_972_792,
    "preact_resnet18": 11_171_146,
    "wrn16_4": 2_748_890,
    "wrn28_10": 36_479_194,
    "vgg16_bn": 14_728_266,
    "mobilenet_v2": 2_296_922,
    "densenet_cifar": 1_000_618,
}
CAM_LAYERS = {
    "resnet18": "layer3",
    "resnet34": "layer3",
    "resnet20": "layer3",
    "davidnet": "layer2",
    "eva_small": "layer4",
    "airbench": "layer2",
    "preact_resnet18": "layer3",
    "wrn16_4": "layer3",
    "wrn28_10": "layer3",
    "vgg16_bn": "layer3",
    "mobilenet_v2": "layers.4",
    "densenet_cifar": "layer3",
    "timm": "",
}


def option(name):
    return yaml.safe_load(next(path for path in MODEL_FILES if path.stem == name).read_text())


def make(name, num_classes=10, **options):
    values = option(name)
    cam_layer = values.pop("cam_layer")
    for key in ("weights", "_convert_"):
        values.pop(key, None)
    module, _, function = values.pop("_target_").rpartition(".")
    torch.manual_seed(0)
    model = getattr(importlib.import_module(module), function)(num_classes=num_classes, **(values | options))
    return model, cam_layer


def make_narrow(name, **options):
    """Return the option as `make` does, but with few channels where it has a width."""
    return make(name, **({"width": 8} if "width" in option(name) else {}), **options)[0]


def droppings():
    """Return (name, options) for every rate of dropout that an option has, set to one half."""
    for path in MODEL_FILES:
        for key, value in option(path.stem).items():
            if isinstance(value, dict):
                yield from ((path.stem, {key: {rate: 0.5}}) for rate in value if key.startswith("drop"))
            elif key.endswith("drop_rate"):
                yield path.stem, {key: 0.5}


def with_random_norms(model):
    """Give every BatchNorm a gain, a bias and statistics of its own, and put the model into eval mode."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        for values, low, high in ((norm.weight, 0.5, 1.5), (norm.running_var, 0.5, 1.5)):
            nn.init.uniform_(values, low, high)
        for values in (norm.bias, norm.running_mean):
            nn.init.normal_(values, 0, 0.2)
    return model.eval()


def copy_in_order(source, target):
    """Copy weights between models whose tensors have the same shapes in the same order."""
    pairs = list(zip(source.values(), target.values(), strict=True))
    for given, taken in pairs:
        assert given.shape == taken.shape
        taken.copy_(given)


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


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.stem)
def test_the_file_tells_the_parameter_count(path):
    told = re.search(r"([\d,]+) parameters", path.read_text().splitlines()[0])
    if path.stem == "timm":
        assert told is None
    else:
        model, _ = make(path.stem)
        assert int(told[1].replace(",", "")) == sum(p.numel() for p in model.parameters())


def test_resnet20_count_follows_from_the_layers():
    convs = 3 * 16 * 9 + 6 * 16 * 16 * 9 + (16 * 32 + 5 * 32 * 32) * 9 + (32 * 64 + 5 * 64 * 64) * 9
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    assert convs + norms + 64 * 10 + 10 == PARAMETERS["resnet20"]


@pytest.mark.parametrize(("name", "depth", "widen"), [("wrn16_4", 16, 4), ("wrn28_10", 28, 10)])
def test_wide_resnet_count_follows_from_table_1(name, depth, widen):
    blocks = (depth - 4) // 6
    count = 3 * 16 * 9
    before = 16
    for channels in (16 * widen, 32 * widen, 64 * widen):
        count += before * channels * 9 + (2 * blocks - 1) * channels**2 * 9 + before * channels
        count += 2 * before + 2 * (2 * blocks - 1) * channels
        before = channels
    assert count + 2 * before + before * 10 + 10 == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_parameter_gets_a_finite_gradient(name):
    model = make_narrow(name)
    with_random_norms(model)  # timm starts some gains at 0
    model.train()(pictures(8))  # norms get statistics, so that in eval mode signals keep their size
    # In training mode the bias of a convolution before a BatchNorm has no gradient but rounding.
    logits = model.eval()(pictures(2))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("num_classes", [1, 100])
@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_class_counts(name, num_classes):
    model, _ = make(name, num_classes)
    model.eval()
    for size in (28, 32, 36, 64):
        with torch.no_grad():
            logits = model(pictures(1, size))
        assert logits.shape == (1, num_classes), size
        assert logits.isfinite().all(), size


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_head_of_features_and_deterministic_in_eval(name):
    model, _ = make(name)
    model.eval()
    images = pictures(2)
    with torch.no_grad():
        logits = model(images)
        features = model.forward_features(images)
        assert features.ndim == 4
        assert torch.equal(model.forward_head(features), logits)
        assert torch.equal(model(images), logits)


@pytest.mark.parametrize(("name", "options"), list(droppings()), ids=str)
def test_dropout_acts_in_training_only(name, options):
    plain, model = make_narrow(name), make_narrow(name, **options)
    model.load_state_dict(plain.state_dict())
    images = pictures(2)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), plain.eval()(images))
        assert torch.equal(plain.train()(images), plain(images))
        assert not torch.equal(model.train()(images), model(images))


@pytest.mark.parametrize("name", NAMES)
def test_rates_of_zero_draw_no_random_numbers(name):
    model = make_narrow(name)
    before = torch.get_rng_state()
    model(pictures(2))
    assert torch.equal(torch.get_rng_state(), before)


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
    grid = layer_output(model, cam_module(model, cam_layer, 32), pictures(1)).shape[-1]
    last_grid = model.forward_features(pictures(1)).shape[-1]
    assert grid >= 7
    assert last_grid < 7 or last_grid == grid


@pytest.mark.parametrize(
    "function", [resnet18, resnet20, davidnet, eva_small, preact_resnet18, wrn16_4, vgg16_bn, mobilenet_v2]
)
def test_width_and_input_channels(function):
    model = function(num_classes=4, width=8, in_chans=1)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    assert next(model.parameters()).shape == (8, 1, 3, 3)


def test_growth_and_input_channels_of_densenet():
    model = densenet_cifar(num_classes=4, growth=4, in_chans=1)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    assert next(model.parameters()).shape == (8, 1, 3, 3)
    features = torch.rand(2, 8, 6, 6)
    out = model.layer1[0](features)
    assert out.shape == (2, 12, 6, 6)
    assert torch.equal(out[:, :8], features)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_resnet_is_torchvisions_with_another_stem(name):
    torch.manual_seed(0)
    reference = getattr(torchvision.models, name)(num_classes=10)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    with_random_norms(reference)
    model = {"resnet18": resnet18, "resnet34": resnet34}[name]().eval()
    weights = {key.replace("downsample", "shortcut"): value for key, value in reference.state_dict().items()}
    model.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(model(pictures(2)), reference(pictures(2)))


@torch.no_grad()
def test_vgg_is_torchvisions_with_one_linear_layer():
    model = with_random_norms(vgg16_bn(num_classes=7))
    features = torchvision.models.vgg16_bn(weights=None, init_weights=False).features.eval()
    convs = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    copy_in_order(convs, features.state_dict())
    expected = F.linear(features(pictures(2)).flatten(1), model.fc.weight, model.fc.bias)
    torch.testing.assert_close(model(pictures(2)), expected)


@torch.no_grad()
def test_densenet_is_torchvisions_with_another_stem():
    model = with_random_norms(densenet_cifar(num_classes=7))
    reference = torchvision.models.DenseNet(12, (6, 12, 24, 16), num_init_features=24, num_classes=7).eval()
    own, theirs = model.state_dict(), reference.state_dict()
    stems = ("conv1.", "features.conv0.", "features.norm0.")
    copy_in_order(*({k: v for k, v in state.items() if not k.startswith(stems)} for state in (own, theirs)))
    features = model.conv1(pictures(2))
    for layer in list(reference.features)[4:]:  # without the stem's four
        features = layer(features)
    expected = reference.classifier(features.relu().mean((2, 3)))
    torch.testing.assert_close(model(pictures(2)), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mobilenet_blocks_are_torchvisions_where_the_shortcut_does_not_project():
    model = with_random_norms(mobilenet_v2())
    compared = 0
    features = model.stem(pictures(2))
    for block in (block for stage in model.layers for block in stage):
        out = block(features)
        in_channels, channels = features.shape[1], out.shape[1]
        stride = features.shape[-1] // out.shape[-1]
        if stride == 2 or in_channels == channels:
            reference = InvertedResidual(in_channels, channels, stride, expand_ratio=6).eval()
            copy_in_order(block.state_dict(), reference.state_dict())
            torch.testing.assert_close(out, reference(features))
            compared += 1
        else:
            residual = block.project(block.depthwise(block.expand(features)))
            torch.testing.assert_close(out, residual + block.shortcut(features))
        features = out
    assert compared == 13  # of 17


def preact_logits(model, images, final_norm):
    """Compute a pre-activation net from its weights alone, as section 4 of He et al. 2016 has it."""
    state = model.state_dict()

    def norm_relu(x, key):
        mean, var, gain, bias = (
            state[f"{key}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return (gain[:, None, None] * x + bias[:, None, None]).clamp_min(0)

    x = F.conv2d(images, state["conv1.weight"], padding=1)
    for key in dict.fromkeys(re.match(r"layer\d\.\d|", name)[0] for name in state):
        if key:
            stride = 2 if key.endswith(".0") and key != "layer1.0" else 1
            first = norm_relu(x, f"{key}.bn1")
            residual = F.conv2d(first, state[f"{key}.conv1.weight"], stride=stride, padding=1)
            residual = F.conv2d(norm_relu(residual, f"{key}.bn2"), state[f"{key}.conv2.weight"], padding=1)
            if f"{key}.shortcut.weight" in state:
                x = F.conv2d(first, state[f"{key}.shortcut.weight"], stride=stride)
            x = x + residual
    x = norm_relu(x, "bn") if final_norm else x
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize(
    ("function", "final_norm"), [(preact_resnet18, False), (wrn16_4, True), (wrn28_10, True)]
)
def test_preactivation_nets_compute_what_the_paper_says(function, final_norm):
    model = with_random_norms(function(width=4))
    with torch.no_grad():
        logits = model(pictures(2))
    torch.testing.assert_close(logits, preact_logits(model, pictures(2), final_norm), rtol=1e-4, atol=1e-4)


def test_block_drop_rate_is_dropout_between_the_convolutions():
    block = wrn16_4(width=2, block_drop_rate=1.0).layer1[1]
    features = torch.randn(2, 8, 6, 6)
    assert torch.equal(block(features), features)  # a zero map through conv2 adds nothing


def test_drop2d_drops_where_it_says():
    features = torch.rand(2, 8, 6, 6)
    block = resnet18(width=8, drop2d={"block": 1.0}).layer1[0]
    assert torch.equal(block(features), features)
    calls = []
    block.drop.register_forward_hook(lambda *_: calls.append(1))
    block(features)
    assert len(calls) == 2  # after both BatchNorms

    block = resnet18(width=8, drop2d={"shortcut": 1.0}).layer2[0]
    residual = block.bn2(block.conv2(block.bn1(block.conv1(features)).relu()))
    torch.testing.assert_close(block(features), residual.relu())

    model = resnet18(width=8, drop2d={"stage": 1.0})
    assert not model.forward_features(pictures(2)).any()
    model = resnet18(width=8, drop2d={"stem": 1.0})
    inputs = []
    model.layer1.register_forward_hook(lambda _module, args, _output: inputs.append(args[0]))
    model(pictures(2))
    assert not inputs[0].any()


def test_drop2d_drops_whole_channels():
    torch.manual_seed(0)
    model = resnet18(width=32, drop2d={"stage": 0.5})
    for training, low, high in ((True, 0.4, 0.6), (False, 0.0, 0.1)):  # a ReLU ends some channels by itself
        with torch.no_grad():
            features = model.train(training).forward_features(pictures(4, 64))
        assert low <= (features == 0).all(dim=(2, 3)).float().mean() < high


def test_drop2d_refuses_other_keys_and_rates():
    with pytest.raises(TypeError, match="blok"):
        resnet18(width=8, drop2d={"blok": 0.1})
    with pytest.raises(ValueError, match="between 0 and 1"):
        resnet18(width=8, drop2d={"block": 1.5})


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


def test_without_timm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="^this model needs the timm library: pip install timm$"):
        timm_model(name="resnet18")


@NEEDS_TIMM
def test_timm_options_reach_the_model():
    model = timm_model(4, name="resnet18", in_chans=1, options={"drop_rate": 0.25, "zero_init_last": False})
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 4)
    assert model.drop_rate == 0.25
    assert model.layer1[0].bn2.weight.all()


@NEEDS_TIMM
@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k"])
def test_timm_names_may_have_the_tag_of_their_weights(name):
    assert timm_model(name=name).fc.out_features == 10


@NEEDS_TIMM
def test_an_unknown_timm_name_is_told_with_its_neighbours():
    with pytest.raises(
        ValueError, match="^model.name must be a model of timm, got 'resnet181'; near it: .*resnet18"
    ):
        timm_model(name="resnet181")
    with pytest.raises(ValueError, match="near it: none"):
        timm_model(name="qqqqqqqq")


@NEEDS_TIMM
@pytest.mark.parametrize(
    ("name", "options", "layer"),
    [
        ("resnet18", {}, "layer1"),
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4}, "blocks.11.norm1"),
        # features are (N, H, W, C), 8 cells a side in the first stage
        ("swin_tiny_patch4_window7_224", {"img_size": 32}, "layers.0.blocks.1.norm1"),
    ],
)
def test_grad_cam_finds_a_layer_of_timm_models(name, options, layer):
    model = timm_model(name=name, options=options)
    assert cam_module(model, "", 32) is model.get_submodule(layer)
