import copy

import numpy as np
import pytest
import torch
from torch import nn

from cifar_core.explain.cams import cam_module
from cifar_core.explain.gradcam import cam_grid, cam_grids, grad_cam, layer_gradients, upsample
from tests.models.test_models import NAMES, make_narrow, option

METHODS = ("gradcam", "gradcam++")


def shipped(name):
    model = make_narrow(name)
    randomize_norms(model, size=32)
    return model.eval(), cam_module(model, option(name)["cam_layer"], 32)


def randomize_norms(model, size):
    """Give norms the statistics of some pictures, so that signals keep their size, then shake them."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(pictures(8, size))
    for norm in norms:
        norm.running_mean.add_(0.3 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt())
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.5, 1.5))


def small_net(inplace=True, seed=0):
    """Layer 2 is the one explained; an in-place ReLU follows it, BatchNorm and Dropout react to the mode."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(inplace),
        nn.Conv2d(12, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )
    randomize_norms(model, size=16)
    return model.eval()


def pictures(n=4, size=16):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


TARGETS = [torch.tensor([0, 1, 2, 3]), torch.tensor([4, 4, 0, 1])]


def expected_maps(method="gradcam"):
    model = small_net()
    return grad_cam(model, model[2], pictures(), TARGETS, method=method)


def library(model, layer, images, target, method):
    """Return the maps of pytorch-grad-cam and the activations and gradients from which it made them."""
    cam = pytest.importorskip("pytorch_grad_cam")
    outputs = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    kind = {"gradcam": cam.GradCAM, "gradcam++": cam.GradCAMPlusPlus}[method]
    with kind(model=model, target_layers=[layer]) as explain:
        chosen = [outputs.ClassifierOutputTarget(label) for label in target.tolist()]
        maps = torch.from_numpy(explain(input_tensor=images, targets=chosen))
        seen = explain.activations_and_grads
        return maps, seen.activations[0], seen.gradients[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_equals_pytorch_grad_cam_on_shipped_models(name, method):
    model, layer = shipped(name)
    # Grad-CAM++ divides by 2 g^2 + S g^3 + 1e-6, nearly 0 for some gradients g of a channel with a negative
    # sum S: in mobilenet_v2 a relative error of 1e-7, as float32 has on any CPU, becomes one of 5 percent.
    model, images = model.double(), pictures(2, 32).double()
    direct = model(images).detach()
    predicted = direct.argmax(dim=1)
    targets = [predicted, (predicted + 3) % 10]
    activations, gradients, logits = layer_gradients(model, layer, images, targets)
    assert torch.equal(logits, direct.float())
    maps = []
    for gradient, target in zip(gradients, targets, strict=True):
        theirs, *exact = library(model, layer, images, target, method)
        for ours, reference in zip((activations, gradient), exact, strict=True):
            torch.testing.assert_close(ours, reference.float(), rtol=1e-6, atol=1e-10)
        maps.append(upsample(cam_grid(*exact, method=method), (32, 32)))
        torch.testing.assert_close(maps[-1], theirs, rtol=0, atol=1e-5)
    assert (maps[0].amax(dim=(1, 2)) > 0.99).all()
    assert not torch.allclose(maps[0][0], maps[0][1], atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_equals_pytorch_grad_cam_where_the_layer_is_called_twice(method):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3)
            self.shared = nn.Conv2d(6, 6, 3, padding=1)
            self.fc = nn.Linear(6, 5)

        def forward(self, images):
            first = self.shared(self.stem(images)).tanh()
            return self.fc(self.shared(first).relu().mean(dim=(2, 3)))

    torch.manual_seed(0)
    model = Twice()
    maps, _ = grad_cam(model, model.shared, pictures(), TARGETS[:1], method=method)
    theirs, *_ = library(model, model.shared, pictures(), TARGETS[0], method)
    torch.testing.assert_close(maps[0], theirs, rtol=0, atol=1e-5)


class LinearOnMeans(nn.Module):
    """Logits = W mean(A) with A = layer(images): the gradient of logit k by A_c is W[k, c] / (h w)."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.fc = nn.Linear(4, 5)

    def forward(self, images):
        return self.fc(self.layer(images).mean(dim=(2, 3)))


def numpy_net():
    torch.manual_seed(2)
    model = LinearOnMeans()
    activations = model.layer(pictures()).detach().numpy().astype(np.float64)
    gradients = model.fc.weight.detach().numpy().astype(np.float64)[TARGETS[0]] / activations[0, 0].size
    return model, activations, gradients


def test_gradcam_in_closed_form():
    model, activations, gradients = numpy_net()
    grids, logits = cam_grids(model, model.layer, pictures(), TARGETS[:1])
    expected = np.maximum(np.einsum("nc,nchw->nhw", gradients, activations), 0)
    np.testing.assert_allclose(grids[0], expected, atol=1e-7)
    torch.testing.assert_close(logits, model(pictures()).detach())


def test_gradcam_plusplus_in_closed_form():
    model, activations, gradients = numpy_net()
    grids, _ = cam_grids(model, model.layer, pictures(), TARGETS[:1], method="gradcam++")
    total = activations.sum(axis=(2, 3))
    alpha = gradients**2 / (2 * gradients**2 + total * gradients**3 + 1e-6)
    weights = activations[0, 0].size * np.maximum(gradients, 0) * alpha
    expected = np.maximum(np.einsum("nc,nchw->nhw", weights, activations), 0)
    np.testing.assert_allclose(grids[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_grids_come_from_the_layer_gradients_and_lead_to_the_maps(method):
    model = small_net()
    activations, gradients, logits = layer_gradients(model, model[2], pictures(), TARGETS)
    grids, grid_logits = cam_grids(model, model[2], pictures(), TARGETS, method=method)
    assert grids.shape == (2, 4, 8, 8)
    assert grids.dtype == torch.float32
    assert grids.min() >= 0
    for one, gradient in zip(grids, gradients, strict=True):
        assert torch.equal(one, cam_grid(activations, gradient, method=method))
    maps, map_logits = expected_maps(method)
    assert torch.equal(maps, upsample(grids, (16, 16)))
    assert torch.equal(logits, map_logits)
    assert torch.equal(grid_logits, map_logits)


def test_each_target_is_explained_as_if_alone():
    model = small_net()
    maps, _ = grad_cam(model, model[2], pictures(), TARGETS)
    for i, target in enumerate(TARGETS):
        for n in range(4):
            alone, _ = grad_cam(model, model[2], pictures()[n : n + 1], [target[n : n + 1]])
            torch.testing.assert_close(alone[0, 0], maps[i, n], rtol=0, atol=1e-5)
    assert not torch.allclose(maps[0], maps[1], atol=0.1)


def test_one_forward_pass_serves_all_targets():
    model = small_net()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    grad_cam(model, model[2], pictures(), TARGETS * 3)
    assert len(calls) == 1


def test_nothing_before_the_layer_is_recorded():
    model = small_net()
    modes = []
    for module in (model[0], model[2], model[4]):
        module.register_forward_pre_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        grad_cam(model, model[2], pictures(), TARGETS)
    assert modes == [False, False, True]
    assert torch.Size([4, 12, 8, 8]) in saved
    assert torch.Size([4, 3, 16, 16]) not in saved


def state(model):
    return {
        "values": copy.deepcopy(model.state_dict()),
        "modes": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad_identities": [id(parameter.grad) for parameter in model.parameters()],
        "grads": [copy.deepcopy(parameter.grad) for parameter in model.parameters()],
        "hooks": [
            (list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks))
            for m in model.modules()
        ],
    }


def assert_same_state(before, after):
    for key in ("modes", "requires_grad", "grad_identities", "hooks"):
        assert before[key] == after[key], key
    torch.testing.assert_close(after["values"], before["values"], rtol=0, atol=0)
    for old, new in zip(before["grads"], after["grads"], strict=True):
        assert (old is None and new is None) or torch.equal(old, new)


def busy_net():
    """A net in the middle of training, one norm frozen in eval mode, one weight frozen, a hook of its own."""
    model = small_net()
    model(pictures()).sum().backward()
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = None
    model[2].register_forward_hook(lambda *_: None)
    return model


def test_the_model_is_left_as_it_was():
    model = busy_net()
    before = state(model)
    maps, logits = grad_cam(model, model[2], pictures(), TARGETS)
    assert_same_state(before, state(model))
    assert not maps.requires_grad
    assert not logits.requires_grad
    torch.testing.assert_close(maps, expected_maps()[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("index", [2, 8])
def test_the_model_is_left_as_it_was_after_an_exception(index):
    model = busy_net()

    def fail(*_):
        raise RuntimeError("broken layer")

    model[index].register_forward_pre_hook(fail)
    before = state(model)
    with pytest.raises(RuntimeError, match="broken layer"):
        grad_cam(model, model[2], pictures(), TARGETS)
    assert_same_state(before, state(model))


@pytest.mark.parametrize("enabled", [True, False])
def test_the_grad_mode_is_left_as_it_was(enabled):
    model = small_net()
    with torch.set_grad_enabled(enabled):
        grad_cam(model, model[2], pictures(), TARGETS)
        assert torch.is_grad_enabled() == enabled
        with pytest.raises(ValueError, match="targets"):
            grad_cam(model, model[2], pictures(), [torch.full((4,), 9)])
        assert torch.is_grad_enabled() == enabled


def test_an_in_place_operation_after_the_layer_changes_nothing():
    kept = small_net(inplace=False)
    expected, expected_logits = grad_cam(kept, kept[2], pictures(), TARGETS)
    maps, logits = expected_maps()
    assert torch.equal(maps, expected)
    assert torch.equal(logits, expected_logits)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_without_gradients_around_it(context):
    model = small_net()
    expected, expected_logits = expected_maps()
    with context():
        images, targets = pictures().clone(), [target.clone() for target in TARGETS]
        maps, logits = grad_cam(model, model[2], images, targets)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits, expected_logits)


def test_works_on_the_picture_itself_in_inference_mode():
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(14), nn.Flatten())
    targets = [target % 4 for target in TARGETS]
    expected, _ = grad_cam(model, model[0], pictures(), targets)
    with torch.inference_mode():
        maps, _ = grad_cam(model, model[0], pictures().clone(), targets)
    torch.testing.assert_close(maps, expected)
    assert expected.any()


def test_works_with_frozen_weights():
    model = small_net().requires_grad_(False)
    maps, _ = grad_cam(model, model[2], pictures(), TARGETS)
    torch.testing.assert_close(maps, expected_maps()[0], rtol=0, atol=1e-6)


def test_works_with_channels_last():
    model = small_net().to(memory_format=torch.channels_last)
    images = pictures().contiguous(memory_format=torch.channels_last)
    maps, _ = grad_cam(model, model[2], images, TARGETS)
    torch.testing.assert_close(maps, expected_maps()[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_maps_and_logits_are_float32_under_bf16_autocast(method):
    model = small_net()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps, logits = grad_cam(model, model[2], pictures(), TARGETS, method=method)
        model(pictures()).float().square().sum().backward()
    expected, expected_logits = expected_maps(method)
    assert maps.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected_logits, rtol=0.05, atol=0.05)
    assert (maps - expected).abs().mean() < 0.02
    # Autocast caches the weights it casts: those cast without a graph must not be reused for training.
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_layer_gradients_are_float32_under_bf16_autocast():
    model = small_net()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        activations, gradients, logits = layer_gradients(model, model[2], pictures(), TARGETS)
    assert {tensor.dtype for tensor in (activations, *gradients, logits)} == {torch.float32}


def test_the_weighted_sum_is_float32_under_bf16_autocast():
    torch.manual_seed(0)
    activations, gradients = torch.rand(2, 64, 8, 8), torch.randn(2, 64, 8, 8)
    expected = cam_grid(activations, gradients)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cam_grid(activations, gradients), expected)


def test_integer_types_and_no_pictures():
    model = small_net()
    maps, _ = grad_cam(model, model[2], pictures(), [target.int() for target in TARGETS])
    assert torch.equal(maps, expected_maps()[0])
    none, logits = grad_cam(model, model[2], pictures()[:0], [target[:0] for target in TARGETS])
    assert none.shape == (2, 0, 16, 16)
    assert logits.shape == (0, 5)


def test_upsample_equals_opencv():
    cv2 = pytest.importorskip("cv2")
    grids = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(0)) * 30 + 4
    maps = upsample(grids, (28, 33))
    for i, n in np.ndindex(2, 3):
        expected = cv2.resize(grids[i, n].numpy(), (33, 28), interpolation=cv2.INTER_LINEAR)
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        np.testing.assert_allclose(maps[i, n], expected, atol=1e-5)


def test_upsample_fills_zero_to_one_and_a_flat_grid_is_zero():
    grids = torch.stack([torch.arange(9.0).view(3, 3), torch.full((3, 3), 5.0)])
    maps = upsample(grids, (9, 9))
    assert maps[0].min() == 0
    assert maps[0].max() == pytest.approx(1, abs=1e-6)
    assert not maps[1].any()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([], "at least one"),
        ([torch.tensor([0, 1])], r"targets must have shape \(4,\), got \(2,\)"),
        ([torch.zeros(4, 1, dtype=torch.long)], r"got \(4, 1\)"),
        ([torch.zeros(4)], "whole numbers, got torch.float32"),
        ([torch.tensor([0, 1, 2, 5])], "between 0 and 4, got 0 to 5"),
        ([torch.tensor([0, 1, 2, -1])], "between 0 and 4, got -1 to 2"),
    ],
)
def test_wrong_targets_are_refused(targets, message):
    model = small_net()
    with pytest.raises(ValueError, match=message):
        grad_cam(model, model[2], pictures(), targets)


def test_wrong_layers_are_refused():
    model = small_net()
    with pytest.raises(ValueError, match="forward pass, got Conv2d"):
        grad_cam(model, nn.Conv2d(3, 3, 3), pictures(), TARGETS)
    with pytest.raises(ValueError, match=r"or \(N, L, C\), got \(4, 12\) from Flatten"):
        grad_cam(model, model[9], pictures(), TARGETS)


def test_a_layer_that_gives_no_tensor_is_refused():
    class Pair(nn.Module):
        def forward(self, images):
            return images, images

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, images):
            return self.pair(images)[0].mean(dim=(2, 3))

    model = Net()
    with pytest.raises(ValueError, match="got tuple from Pair"):
        grad_cam(model, model.pair, pictures(), [TARGETS[0] % 3])


@pytest.mark.parametrize("with_graph", [True, False])
def test_a_layer_without_influence_is_refused(with_graph):
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(3, 5)

        def forward(self, images):
            self.layer(images)
            logits = self.fc(images.mean(dim=(2, 3)))
            return logits if with_graph else logits.detach()

    model = Beside()
    with pytest.raises(ValueError, match="no gradient reaches it"):
        grad_cam(model, model.layer, pictures(), TARGETS)


def test_a_wrong_method_lists_the_right_ones():
    model = small_net()
    with pytest.raises(ValueError, match=r"one of gradcam, gradcam\+\+, got 'scorecam'"):
        grad_cam(model, model[2], pictures(), TARGETS, method="scorecam")
