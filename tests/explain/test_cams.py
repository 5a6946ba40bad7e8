from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.data.split import Data
from cifar_core.explain import cams as cams_module
from cifar_core.explain.cams import Cams, cam_module, cams, evidence
from cifar_core.explain.gradcam import cam_grids
from cifar_core.explain.predictions import Predictions
from tests.report.examples import Net, guesses, pictures, run

LABELS = list(range(10)) * 2


@pytest.fixture
def model() -> Net:
    torch.manual_seed(3)
    return Net(10).eval()


@pytest.fixture
def data() -> Data:
    return pictures(LABELS)


@pytest.fixture
def predictions(model: Net, data: Data) -> Predictions:
    """What the model says, so that maps and predictions belong together; about half is made right."""
    with torch.no_grad():
        logits = model(data.normalize(data.test.images))
    labels = torch.where(torch.arange(len(LABELS)) % 2 == 0, logits.argmax(1), data.test.labels)
    return Predictions.of(labels, logits)


def reference(model: Net, image: Tensor, plus: int, minus: int | None = None) -> Tensor:
    """Grad-CAM (8, 8) of one normalised picture by autograd, for a class or a difference of two."""
    activations = model.body(model.stem(image[None])).detach().requires_grad_()
    logits = model.fc(activations.mean((2, 3)))[0]
    score = logits[plus] if minus is None else logits[plus] - logits[minus]
    (gradient,) = torch.autograd.grad(score, activations)
    return F.relu((gradient.mean((2, 3), keepdim=True) * activations).sum(1)).detach()[0]


def of_all(model: Net, data: Data, predictions: Predictions, **options: str) -> Cams:
    return cams(model, model.body[1], data, data.test, predictions, torch.arange(len(LABELS)), **options)


def test_grids_are_evidence_for_predicted_true_runner_up_and_the_difference(
    model: Net, data: Data, predictions: Predictions
):
    maps = of_all(model, data, predictions)
    assert maps.grids.shape == (4, 20, 8, 8)
    assert predictions.hits.any()
    assert not predictions.hits.all()
    images = data.normalize(data.test.images)
    for i, hit in enumerate(predictions.hits):
        pred, label, second = (
            int(of[i]) for of in (predictions.preds, predictions.labels, predictions.runners_up)
        )
        for grid, targets in zip(
            maps.grids[:, i], [(pred,), (label,), (second,), (pred, second if hit else label)], strict=True
        ):
            torch.testing.assert_close(grid, reference(model, images[i], *targets), atol=1e-5, rtol=1e-4)
    assert maps.agree.all()


def test_gradcam_plus_plus_is_taken_from_the_same_gradients(model: Net, data: Data, predictions: Predictions):
    maps = of_all(model, data, predictions, method="gradcam++")
    images = data.normalize(data.test.images)
    targets = [predictions.preds, predictions.labels, predictions.runners_up]
    expected, _ = cam_grids(model, model.body[1], images, targets, method="gradcam++")
    torch.testing.assert_close(maps.grids[:3], expected)
    assert not torch.allclose(maps.grids, of_all(model, data, predictions).grids)


def test_logits_of_another_model_do_not_agree(model: Net, data: Data, predictions: Predictions):
    other = Predictions.of(predictions.labels, predictions.logits.roll(1, 1))
    assert not of_all(model, data, other).agree.any()


def test_batches_do_not_change_the_maps(
    model: Net, data: Data, predictions: Predictions, monkeypatch: pytest.MonkeyPatch
):
    whole = of_all(model, data, predictions).grids
    monkeypatch.setattr(cams_module, "BATCH_SIZE", 3)
    torch.testing.assert_close(of_all(model, data, predictions).grids, whole, atol=1e-6, rtol=1e-5)


def test_maps_of_one_picture_share_the_scale_of_predicted_and_true():
    grids = torch.rand(4, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    grids[1, :3] *= 0.5
    grids[0, 3:] *= 0.5
    grids[3] *= 4
    maps = evidence(grids, (32, 32))
    assert maps.shape == (4, 6, 32, 32)
    enlarged = F.interpolate(grids, (32, 32), mode="bilinear")
    for i in range(6):
        expected = (enlarged[:, i] / enlarged[:2, i].max()).clamp(max=1)
        torch.testing.assert_close(maps[:, i], expected)
    for stronger, weaker in ((maps[0, :3], maps[1, :3]), (maps[1, 3:], maps[0, 3:])):
        assert (stronger.amax((1, 2)) == 1).all()
        assert (weaker.amax((1, 2)) < 0.6).all()


def test_no_evidence_and_nan_give_empty_maps():
    grids = torch.zeros(4, 2, 8, 8)
    grids[:, 1] = torch.nan
    assert not evidence(grids, (32, 32)).any()
    assert evidence(grids[:, :0], (32, 32)).shape == (4, 0, 32, 32)


def test_a_part_of_the_maps_stays_together(model: Net, data: Data, predictions: Predictions):
    maps = of_all(model, data, predictions)
    part = maps[3:5]
    assert part.rows.tolist() == [3, 4]
    assert torch.equal(part.grids, maps.grids[:, 3:5])


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
def test_the_file_holds_raw_grids_and_what_they_belong_to(tmp_path: Path, method: str):
    data, logits = pictures(LABELS), guesses(LABELS)
    numbers = run(data, logits, tmp_path, method=method, layer="stem", sheet_size=2)
    torch.manual_seed(0)
    model = Net(10).eval()
    with np.load(tmp_path / "cams.npz", allow_pickle=False) as file:
        assert (str(file["layer"]), str(file["method"])) == ("stem", method)
        assert file["targets"].tolist() == ["predicted", "true", "runner_up", "difference"]
        assert file["grids"].shape == (4, numbers["errors"] + 2, 16, 16)
        rows = (file["index"] - 1000) // 3
        assert (file["true"] == np.array(LABELS)[rows]).all()
        assert (file["predicted"] == logits.argmax(1).numpy()[rows]).all()
        wrong = file["predicted"] != file["true"]
        assert wrong.tolist() == [True] * numbers["errors"] + [False] * 2
        images = data.normalize(data.test.images[rows])
        targets = [torch.tensor(file[name]) for name in ("predicted", "true", "runner_up")]
        expected, _ = cam_grids(model, model.stem, images, targets, method=method)
        np.testing.assert_allclose(file["grids"][:3], expected, atol=1e-6, rtol=1e-4)
    assert numbers["cam"] == {"layer": "stem", "method": method, "grid": [16, 16]}


def test_modules_with_a_grid_are_found_at_any_depth(model: Net):
    assert cam_module(model, "body.1", 32) is model.body[1]
    assert cam_module(model, "stem", 32) is model.stem
    with pytest.raises(ValueError, match="got 'body.2'; it has: stem, body.0, body.1, body$"):
        cam_module(model, "body.2", 32)


def test_without_a_name_the_last_grid_of_at_least_seven_cells_is_taken(model: Net):
    assert cam_module(model, "", 32) is model.body  # 8 x 8, after body.1
    deeper = nn.Sequential(model.stem, model.body, nn.MaxPool2d(2), nn.Flatten())  # ends with 4 x 4
    assert cam_module(deeper, "", 32) is model.body
    assert cam_module(deeper, "", 14) is model.body[0]  # 7 x 7, while the later ones have 4 and 2
    assert cam_module(deeper, "", 12) is model.body  # 3 x 3: none has 7
    with pytest.raises(ValueError, match="got ''; it has: none$"):
        cam_module(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)), "", 8)


class Attention(nn.Module):
    """Features (N, H, W, C) and an attention matrix (N, 1, H W, H W), as transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.LayerNorm(6)
        self.softmax = nn.Softmax(-1)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.patches(images).permute(0, 2, 3, 1))
        values = features.flatten(1, 2)[:, None]
        attention = self.drop(self.softmax(values @ values.transpose(2, 3)))
        return self.fc((attention @ values).mean(dim=(1, 2)))


def test_without_a_name_neither_attention_nor_patches_are_taken():
    with pytest.raises(ValueError, match="got ''; it has: patches, norm$"):  # neither has seen its neighbours
        cam_module(Attention(), "", 32)


def test_a_model_for_another_size_is_told_in_one_line():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    assert cam_module(model, "", 8) is model[0]
    with pytest.raises(ValueError, match="^the model must take pictures of 9x9, but: .*mat1 and mat2 shapes"):
        cam_module(model, "", 9)
