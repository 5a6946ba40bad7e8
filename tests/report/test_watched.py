"""The sheet of the same pictures as training goes on."""

import copy
from dataclasses import replace

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from cifar_core.data.split import Data
from cifar_core.report.cards import PREDICTED, TRUE
from cifar_core.report.watched import spread, watched_sheet
from cifar_core.train.numerics import numerics
from cifar_core.train.settings import TrainerSettings
from tests.report.examples import Net, pictures
from tests.report.test_sheets import enlarged, found_at

LABELS = [0, 0, 0, 1, 5, 5, 2, 9]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 20))
@example([0, 0, 1], 2)
def test_the_chosen_pictures_are_shared_out_among_the_classes(labels: list[int], count: int):
    of = torch.tensor(labels)
    rows = spread(of, count)
    assert len(set(rows.tolist())) == len(rows) == min(count, len(labels))
    taken = torch.bincount(of[rows], minlength=6)
    left = torch.bincount(of, minlength=6) - taken
    assert all(taken[label] >= taken.max() - 1 for label in range(6) if left[label])  # none waits twice
    for label in of[rows].unique():  # of each class its first
        assert of[: rows[of[rows] == label].max() + 1].eq(label).sum() == taken[label]


def test_fewer_pictures_than_classes_come_from_all_over_them():
    assert spread(torch.arange(100), 4).tolist() == [0, 25, 50, 75]
    assert spread(torch.arange(100), 0).tolist() == []


def draw(model: Net, data: Data) -> np.ndarray:
    numeric = numerics(TrainerSettings(device="cpu", precision="fp32"))
    options = {"method": "gradcam", "headline": "after epoch 3"}
    return np.asarray(watched_sheet(model, model.body[1], data, data.val, numeric, **options))


def test_every_picture_is_framed_by_whether_it_is_recognised():
    torch.manual_seed(3)
    model, data = Net(10).eval(), pictures(LABELS)
    preds = model(data.normalize(data.val.images)).argmax(1)
    right = torch.arange(len(LABELS)) % 3 == 0
    labels = torch.where(right, preds, (preds + 1) % 10)
    data = replace(data, val=replace(data.val, labels=labels))

    sheet = draw(model, data)
    places = [found_at(sheet, enlarged(image)) for image in data.val.images]
    assert places == sorted(places, key=lambda place: (place[1], place[0]))  # in the order of the pictures
    colors = ["#" + "".join(f"{value:02x}" for value in sheet[y - 2, x]) for x, y in places]
    assert colors == [TRUE if hit else PREDICTED for hit in right]


def test_drawing_leaves_the_network_and_the_random_numbers_as_they_were():
    torch.manual_seed(3)
    model = Net(10).train()
    model.stem.eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    draw(model, pictures(LABELS))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == modes
