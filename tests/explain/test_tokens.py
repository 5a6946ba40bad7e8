"""Grad-CAM of networks whose features are tokens (N, L, C) or have channels last (N, H, W, C)."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cifar_core.explain.cams import cam_module
from cifar_core.explain.gradcam import cam_grids, grad_cam
from cifar_core.explain.layout import Layout, layout
from cifar_core.models.timm_bridge import timm_model

NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
VIT = ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4, "depth": 2, "embed_dim": 24})
DEIT = ("deit_tiny_distilled_patch16_224", {"img_size": 32, "patch_size": 4, "depth": 2, "embed_dim": 24})
SWIN = (
    "swin_tiny_patch4_window7_224",
    {
        "img_size": 32,
        "patch_size": 2,
        "window_size": 4,
        "embed_dim": 24,
        "depths": (2, 2),
        "num_heads": (2, 4),
    },
)


def built(name: str, options: dict) -> nn.Module:
    torch.manual_seed(0)
    model = timm_model(name=name, options=options)
    for parameter in model.parameters():  # some heads start at 0
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval().double()


def pictures(count: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def name_of(model: nn.Module, layer: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is layer)


@NEEDS_TIMM
@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
@pytest.mark.parametrize(
    ("model", "layer", "prefix"),
    [
        (VIT, "blocks.1.norm1", 1),
        (VIT, "blocks.0", 1),
        (DEIT, "blocks.1.norm1", 2),
        (SWIN, "layers.1.blocks.1.norm1", None),
        (SWIN, "layers.0.blocks.1", None),
        (SWIN, "patch_embed.proj", None),
    ],
)
def test_maps_are_those_of_pytorch_grad_cam(model, layer: str, prefix: int | None, method: str):
    reference = pytest.importorskip("pytorch_grad_cam")
    targets_of = pytest.importorskip("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    net = built(*model)
    module = net.get_submodule(layer)

    def reshape(tokens: Tensor) -> Tensor:
        if prefix is not None:
            side = int((tokens.shape[1] - prefix) ** 0.5)
            tokens = tokens[:, prefix:].reshape(len(tokens), side, side, -1)
        return tokens.permute(0, 3, 1, 2)

    kind = {"gradcam": reference.GradCAM, "gradcam++": reference.GradCAMPlusPlus}[method]
    transform = None if layer.endswith("proj") else reshape
    labels = torch.tensor([1, 4, 7])
    with kind(model=net, target_layers=[module], reshape_transform=transform) as theirs:
        expected = theirs(input_tensor=pictures(), targets=[targets_of(int(label)) for label in labels])
    (maps,), _ = grad_cam(net, module, pictures(), [labels], method=method)
    assert expected.std() > 0.05  # there is something to see
    # Grad-CAM++ divides by sums that may be near 0, ours in float32.
    np.testing.assert_allclose(maps, expected, atol=1e-5 if method == "gradcam" else 1e-4)


@NEEDS_TIMM
@pytest.mark.parametrize(
    ("name", "options", "layer"),
    [
        (*VIT, "blocks.1.norm1"),
        (*DEIT, "blocks.1.norm1"),
        (*SWIN, "layers.1.blocks.1.norm1"),  # 8 x 8 after patches of 2
        ("mixer_s32_224", {"img_size": 64}, "blocks.7.norm1"),
        ("convnext_atto", {}, "stages.1.downsample.0"),
    ],
)
def test_the_default_is_what_enters_the_last_block(name: str, options: dict, layer: str):
    size = options.get("img_size", 32)
    model = built(name, options)
    found = cam_module(model, "", size)
    assert name_of(model, found) == layer
    (grid,), _ = cam_grids(model, found, pictures(2, size), [torch.tensor([1, 2])])
    assert grid.any()


class Tokens(nn.Module):
    """Patches as tokens, two attentions over them, the class token alone or the mean of all read."""

    def __init__(self, *, mean: bool = False, mixing: bool = True, extra: int = 1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.norms = nn.ModuleList([nn.LayerNorm(6), nn.LayerNorm(6)])
        self.values = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.last = nn.LayerNorm(6)
        self.fc = nn.Linear(6, 10)
        self.tokens = nn.Parameter(torch.randn(1, extra, 6))
        self.mean, self.mixing = mean, mixing

    def forward(self, images: Tensor) -> Tensor:
        features = self.patches(images).flatten(2).transpose(1, 2)
        features = torch.cat([self.tokens.expand(len(images), -1, -1), features], 1)
        for norm, values in zip(self.norms, self.values, strict=True):
            normed = norm(features)
            weights = (normed @ normed.transpose(1, 2)).softmax(-1)
            features = features + (weights @ values(normed) if self.mixing else values(normed))
        features = self.last(features)
        return self.fc(features.mean(1) if self.mean else features[:, 0])


def test_tokens_that_count_for_nothing_are_not_the_default():
    model = Tokens()
    assert cam_module(model, "", 32) is model.values[1]  # `last` has no gradient beside the class token
    model = Tokens(mean=True)
    assert cam_module(model, "", 32) is model.last
    nn.init.zeros_(model.fc.weight)  # as in a fresh network: nothing can be told
    assert cam_module(model, "", 32) is model.last


@NEEDS_TIMM
def test_a_layer_that_no_answer_depends_on_is_refused_with_one_that_does():
    model = built(*VIT)
    with pytest.raises(ValueError, match=r"got 'blocks\.1', after which .*; blocks\.1\.norm1 is one"):
        cam_module(model, "blocks.1", 32)
    nn.init.zeros_(model.get_submodule("head").weight)  # as in a fresh network: nothing can be told
    assert cam_module(model, "blocks.1", 32) is model.get_submodule("blocks.1")


def test_before_any_mixing_of_places_nothing_is_the_default():
    model = Tokens(mean=True, mixing=False)
    with pytest.raises(
        ValueError,
        match=r"^analysis\.layer must be .*got ''; it has: patches, norms.0, values.0, norms.1, .*, last$",
    ):
        cam_module(model, "", 32)
    assert cam_module(model, "patches", 32) is model.patches  # asked for by name


def test_tokens_that_are_no_square_are_refused_by_their_number():
    model = Tokens(extra=5).double()
    with pytest.raises(ValueError, match=r"must give tokens .* got 69 from LayerNorm"):
        cam_grids(model, model.norms[0], pictures(), [torch.zeros(3, dtype=torch.int64)])
    model.num_prefix_tokens = 5
    (grid,), _ = cam_grids(model, model.norms[1], pictures(), [torch.zeros(3, dtype=torch.int64)])
    assert grid.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("shape", "module", "picture", "expected"),
    [
        ((2, 16, 8, 8), nn.Identity(), (32, 32), Layout(8, 8)),
        ((2, 8, 8, 16), nn.Identity(), (32, 32), Layout(8, 8, channels_last=True)),
        ((2, 8, 8, 8), nn.Conv2d(3, 8, 1), (32, 32), Layout(8, 8)),
        ((2, 8, 8, 8), nn.LayerNorm(8), (32, 32), Layout(8, 8, channels_last=True)),
        ((2, 4, 8, 7), nn.Identity(), (32, 28), Layout(8, 7)),
        ((2, 8, 4, 16), nn.Identity(), (64, 32), Layout(8, 4, channels_last=True)),
        ((2, 64, 9), nn.Identity(), (32, 32), Layout(8, 8, True, 0, True)),
        ((2, 65, 9), nn.Identity(), (32, 32), Layout(8, 8, True, 1, True)),
        ((2, 66, 9), nn.Identity(), (32, 32), Layout(8, 8, True, 2, True)),
        ((2, 33, 9), nn.Identity(), (64, 32), Layout(8, 4, True, 1, True)),
    ],
)
def test_how_an_output_is_read(shape, module, picture, expected: Layout):
    output = torch.rand(shape)
    assert layout(nn.Identity(), module, output, picture) == expected
    grid = expected.grid(output)
    assert grid.shape[2:] == (expected.height, expected.width)
    flat = output[:, expected.prefix :] if expected.in_a_row else output
    assert torch.equal(grid.flatten().sort().values, flat.flatten().sort().values)


@pytest.mark.parametrize("output", [torch.rand(2, 5), (torch.rand(2, 3, 4, 4),), torch.rand(2, 40, 3)])
def test_what_is_no_grid_is_refused(output):
    with pytest.raises(ValueError, match="^layer must give "):
        layout(nn.Identity(), nn.Identity(), output, (32, 32))
