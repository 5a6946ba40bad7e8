import pytest
import torch
import torch.nn.functional as F
from examples import Net, pictures
from torch import Tensor

from cifar_core.analysis import cams as module
from cifar_core.analysis.cams import cam_module, cams


@pytest.fixture
def model() -> Net:
    torch.manual_seed(3)
    return Net(10).eval()


def reference(model: Net, image: Tensor, targets: list[int]) -> Tensor:
    """Grad-CAM of one normalised picture by autograd, scaled by the strongest evidence of all targets."""
    activations = model.body(model.stem(image[None])).detach().requires_grad_()
    logits = model.fc(activations.mean((2, 3)))[0]
    maps = []
    for target in targets:
        (gradient,) = torch.autograd.grad(logits[target], activations, retain_graph=True)
        maps.append(F.relu((gradient.mean((2, 3), keepdim=True) * activations).sum(1)).detach())
    enlarged = F.interpolate(torch.stack(maps), (32, 32), mode="bilinear")[:, 0]
    return enlarged / enlarged.max() if enlarged.max() > 0 else enlarged


def test_maps_of_one_picture_share_the_scale_of_the_strongest(model: Net):
    data = pictures(list(range(10)))
    preds, labels = torch.arange(10), torch.arange(10).flip(0)
    maps = cams(model, model.body[1], data, data.test.images, [preds, labels])
    assert maps.shape == (2, 10, 32, 32)
    images = data.normalize(data.test.images)
    for i in range(10):
        expected = reference(model, images[i], [int(preds[i]), int(labels[i])])
        torch.testing.assert_close(maps[:, i], expected, atol=1e-5, rtol=1e-5)
    weaker = maps.amax((2, 3)).min(0).values
    assert (weaker < 0.99).any()
    assert maps.amax((0, 2, 3)).max() == 1


def test_batches_do_not_change_the_maps(model: Net, monkeypatch: pytest.MonkeyPatch):
    data = pictures([0, 1, 2, 3, 4])
    arguments = (model, model.body[1], data, data.test.images, [data.test.labels])
    whole = cams(*arguments)
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    torch.testing.assert_close(cams(*arguments), whole, atol=1e-6, rtol=1e-5)


def test_no_pictures_give_no_maps(model: Net):
    data = pictures([0])
    none = torch.zeros(0, dtype=torch.int64)
    assert cams(model, model.stem, data, data.test.images[:0], [none, none]).shape == (2, 0, 32, 32)


def test_a_model_with_nan_gives_empty_maps(model: Net):
    torch.nn.init.constant_(model.stem.weight, torch.nan)
    data = pictures([0, 1])
    assert not cams(model, model.body[1], data, data.test.images, [data.test.labels]).any()


def test_modules_with_a_grid_are_found_at_any_depth(model: Net):
    assert cam_module(model, "body.1", 32) is model.body[1]
    assert cam_module(model, "stem", 32) is model.stem
    with pytest.raises(ValueError, match="got ''; it has: stem, body.0, body.1, body$"):
        cam_module(model, "", 32)
