"""Each guard on a training that is really broken in its way, and all of them on healthy ones."""

import copy
import dataclasses
import logging
import math
import re
from functools import partial
from pathlib import Path

import albumentations as A
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from cifar_core import guards
from cifar_core.augment.pipeline import augmentation
from cifar_core.data.sources import load_data
from cifar_core.data.split import Data, Split
from cifar_core.train import loop, schedules
from cifar_core.train import state as state_module
from cifar_core.train.numerics import Numerics
from cifar_core.train.settings import TrainerSettings
from experiments.config import build
from experiments.config.compose import compose
from experiments.config.values import settings as groups
from tests.conftest import trainer_settings

CONF = Path(__file__).resolve().parents[1] / "conf"
FP32 = Numerics(torch.device("cpu"), torch.float32, channels_last=True)
SETTINGS = trainer_settings(epochs=12, batch_size=16, eval_batch_size=100, precision="fp32", keep="all")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def split(count: int, seed: int, classes: int) -> Split:
    """Return noisy pictures whose lit rows and columns tell the class."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(100, (count, 3, 8, 8), generator=rng)
    row, column = labels % 8, labels // 8 % 8
    images[torch.arange(count), 0, row] += 130
    images[torch.arange(count), 1, :, column] += 130
    images[:, 2] += (labels // 64 * 100).view(-1, 1, 1)
    return Split(images.to(torch.uint8), labels, torch.arange(count), None)


def made(classes: int = 10, train: int = 320, val: int = 100) -> Data:
    names = tuple(str(label) for label in range(classes))
    splits = split(train, 0, classes), split(val, 1, classes), split(120, 2, classes)
    return Data("made", names, *splits, (65.0, 65.0, 55.0), (50.0, 50.0, 40.0), "0")


def net(classes: int = 10, *ending: nn.Module) -> nn.Sequential:
    stem = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, nn.Flatten(), nn.Linear(16 * 64, classes), *ending)


def same(images, keys):
    return images


def watch(
    data: Data,
    model: nn.Module | None = None,
    *,
    settings: TrainerSettings = SETTINGS,
    lr: float = 0.02,
    parameters=None,
    scheduler=schedules.constant,
    augment=same,
    mix=None,
    criterion=None,
    before: bool = True,
) -> list[guards.Finding]:
    """Train as a run does and return what all guards find, up to the first epoch that they would end."""
    torch.manual_seed(0)
    model = FP32.place(model or net(data.num_classes))
    found = []
    if before:
        found = guards.check_data(data) + guards.check_model(model, data, FP32)
        found += guards.check_augment(augment, data)
    optimizer = torch.optim.SGD(parameters or model.parameters(), lr=lr, momentum=0.9, nesterov=True)
    steps = state_module.steps_per_epoch(len(data.train), settings)
    schedule = scheduler(optimizer, epochs=settings.epochs, steps_per_epoch=steps)
    state = state_module.start(
        model, optimizer, schedule, numerics=FP32, seed=0, ema_decay=settings.ema_decay
    )
    start = guards.fingerprint(model)
    plain = mix is None and settings.label_smoothing == 0
    history = []
    for result in loop.train(state, data, augment, settings, mix=mix, criterion=criterion):
        history.append({"epoch": result.epoch, "step": result.step, **result.metrics, "lr": result.lr})
        found += guards.check_epoch(
            history, data, plain_loss=plain, first_bad_step=result.first_bad_step
        ) + guards.check_weights(model, start, steps=result.step, epoch=result.epoch, lr=result.lr)
        if any(finding.stops for finding in found):
            break
    return found


def the(found: list[guards.Finding], guard: str) -> guards.Finding:
    """Return the finding of the only guard that fired."""
    assert {finding.guard for finding in found} == {guard}
    assert all("\n" not in finding.message for finding in found)
    return found[-1]


def relabelled(data: Data, name: str, labels: torch.Tensor) -> Data:
    return dataclasses.replace(data, **{name: dataclasses.replace(getattr(data, name), labels=labels)})


def with_images(data: Data, name: str, images: torch.Tensor) -> Data:
    return dataclasses.replace(data, **{name: dataclasses.replace(getattr(data, name), images=images)})


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_labels_outside_the_classes(name):
    data = made()
    found = the(guards.check_data(relabelled(data, name, getattr(data, name).labels + 1)), "labels")
    assert found.stops
    assert f"must be 0 to 9 for 10 classes, but {len(getattr(data, name)) // 10} of" in found.message
    assert f"the first is 10 ({name} picture 9)" in found.message


def test_negative_label_is_named_by_its_file():
    data = made()
    data.train.labels[3] = -1
    named = dataclasses.replace(data.train, names=[f"cat/{i}.png" for i in range(len(data.train))])
    found = the(guards.check_data(dataclasses.replace(data, train=named)), "labels")
    assert "1 of 320 in train are not, the first is -1 (cat/3.png)" in found.message


def test_class_without_pictures():
    data = made()
    found = the(guards.check_data(relabelled(data, "train", data.train.labels.clamp(max=7))), "empty_class")
    assert found.stops
    assert "2 of 10 have none (8, 9)" in found.message


@pytest.mark.parametrize("ratio", [255, 130])
def test_normalization_in_other_units(ratio):
    data = made()
    mean, std = ([value / ratio for value in values] for values in (data.mean, data.std))
    found = the(
        guards.check_data(dataclasses.replace(data, mean=tuple(mean), std=tuple(std))), "normalization"
    )
    assert found.stops
    assert "in units of 0-1, not 0-255" in found.message
    mean, std = (
        tuple(map(float, numbers.split(","))) for numbers in re.findall(r"=\[(.*?)\]", found.message)
    )
    pixels = data.train.images.numpy()
    assert mean == pytest.approx(pixels.mean((0, 2, 3)), abs=0.06)
    assert std == pytest.approx(pixels.std((0, 2, 3)), abs=0.06)
    assert guards.check_data(dataclasses.replace(data, mean=mean, std=std)) == []


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((200.0,) * 3, (60.0,) * 3),
        ((65.0,) * 3, (5.0,) * 3),
        ((0.0,) * 3, (1.0,) * 3),
        ((0.5,) * 3, (50.0,) * 3),
    ],
)
def test_unusual_normalization_is_a_note(mean, std):
    found = the(guards.check_data(dataclasses.replace(made(), mean=mean, std=std)), "normalization")
    assert not found.stops
    assert "data.mean=[" in found.message


def test_constant_channel_gives_a_usable_std():
    data = made()
    data.train.images[:, 1] = 7
    found = the(guards.check_data(data), "normalization")
    assert ",1.0," in found.message


def test_shared_pictures_are_counted():
    data = made()
    data.test.images[5:8] = data.train.images[10:13]
    data.test.images[20] = data.val.images[0]
    data.test.images[30] = data.test.images[40]  # twice in one split does no harm
    data.test.labels[5:8], data.test.labels[20] = data.train.labels[10:13], data.val.labels[0]
    found = the(guards.check_data(data), "shared_pictures")
    assert not found.stops
    assert "4 of 120 test pictures" in found.message
    assert "(test picture 5 in train)" in found.message
    assert "3.33%" in found.message


def test_a_picture_in_two_classes_is_named_with_both():
    data = made()
    data.train.images[7] = data.train.images[3]
    data.train.images[30] = data.train.images[20]  # of one class: no contradiction
    named = dataclasses.replace(data.train, names=[f"c/{i}.png" for i in range(len(data.train))])
    found = the(guards.check_data(dataclasses.replace(data, train=named)), "contradictory_labels")
    assert not found.stops
    assert found.message.startswith("1 times one picture stands, pixel for pixel, in two classes: ")
    assert "c/3.png in 3, c/7.png in 7" in found.message


def test_a_class_of_one_picture_alone_is_named_with_its_cause():
    data = made()
    data.train.images[data.train.labels == 4] = data.train.images[4].clone()
    found = the(guards.check_data(data), "same_pictures")
    assert "in 1 of 10 classes (4; 32 as train picture 4)" in found.message
    assert "data.background" not in found.message
    data.train.images[data.train.labels == 4] = 0
    found = {finding.guard: finding.message for finding in guards.check_data(data)}
    assert found.keys() == {"same_pictures", "empty_pictures"}
    assert "colour [0,0,0]: a drawing of the colour of data.background" in found["same_pictures"]
    assert found["empty_pictures"].startswith(
        "32 of 320 train pictures are one flat colour (train picture 4)"
    )


def test_copies_are_not_looked_for_under_wrong_labels():
    data = made()
    data.train.images[7] = data.train.images[3]
    data.train.labels[7] = 99
    assert {finding.guard for finding in guards.check_data(data)} == {"labels"}


def test_one_pixel_makes_another_picture():
    data = made()
    data.test.images[5] = data.train.images[10]
    data.test.images[5, 2, 7, 7] += 1
    assert guards.check_data(data) == []


def test_few_pictures_is_a_note():
    found = the(guards.check_data(made(val=36)), "few_pictures")
    assert not found.stops
    assert "val has 36 pictures" in found.message
    assert "5.0%" in found.message


@pytest.mark.parametrize("head", ["random", "zero"])
def test_softmax_twice_is_found_before_training(head):
    model = net(10, nn.Softmax(1))
    if head == "zero":
        nn.init.zeros_(model[-2].weight)
    found = the(guards.check_model(model, made(), FP32), "softmax_twice")
    assert found.stops
    assert "1.46" in found.message


@pytest.mark.parametrize("ending", [nn.Softmax(1), nn.Sigmoid()])
def test_softmax_twice_is_found_in_the_loss(ending):
    settings = dataclasses.replace(SETTINGS, epochs=40)
    found = the(watch(made(), net(10, ending), settings=settings, before=False), "softmax_twice")
    assert found.stops
    assert "1.46 = ln(e + 10 - 1) - 1" in found.message
    loss = float(found.message.split()[1])
    assert 1.46 <= loss < 1.8


def loss_stands_still(losses, *, acc=0.8, lrs=(0.1,) * 6, plain_loss=True):
    rows = [
        {
            "epoch": n,
            "step": 40 * n,
            "lr": lr,
            "train/loss": loss,
            "train/acc": acc,
            "val/loss": 1,
            "val/acc": 0.8,
        }
        for n, (loss, lr) in enumerate(zip(losses, lrs, strict=True), 1)
    ]
    return guards.check_epoch(rows, made(), plain_loss=plain_loss, first_bad_step=None)


def test_softmax_twice_needs_a_loss_that_stands_still():
    floor = math.log(math.e + 9) - 1
    still = [floor + 0.2] * 6  # a fifth of the pictures wrong
    the(loss_stands_still(still), "softmax_twice")
    assert loss_stands_still([floor + 0.2 + change / 200 for change in (3, 2, 1, 0, -1, -2)]) == []
    assert loss_stands_still(still, acc=0.85) == []
    assert loss_stands_still(still, lrs=[0.1, *[0.001] * 5]) == []  # a schedule at its end
    assert loss_stands_still(still, plain_loss=False) == []


def test_underconfident_training_is_not_called_softmax_twice():
    """A slow run has, for epochs, the very loss and accuracy that softmax applied twice would have."""
    settings = dataclasses.replace(SETTINGS, epochs=25)
    for classes, lr in [(2, 1e-5), (10, 2e-5)]:
        data = made(classes=classes, train=600)
        assert watch(data, lr=lr, settings=settings, scheduler=schedules.cosine, before=False) == []


def test_softmax_in_the_criterion_is_found_in_the_loss():
    def twice(logits, targets):
        return F.cross_entropy(logits.softmax(1), targets)

    settings = dataclasses.replace(SETTINGS, epochs=40)
    the(watch(made(), settings=settings, criterion=twice), "softmax_twice")


@pytest.mark.parametrize(
    ("model", "got"), [(net(1000), r"(32, 1000)"), (nn.Sequential(nn.Conv2d(3, 10, 3)), "(32, 10, 6, 6)")]
)
def test_outputs_of_another_shape(model, got):
    found = the(guards.check_model(model, made(), FP32), "outputs")
    assert found.stops
    assert f"must return logits (32, 10), one a class, for 32 pictures, got {got}" in found.message


def zeroed(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


class Detached(nn.Module):
    def forward(self, features):
        return features.detach()


def test_dead_gradients_are_found_before_training():
    model = zeroed(net())
    found = the(guards.check_model(model, made(), FP32), "dead_gradients")
    assert found.stops
    assert "all gradients of the 2 weight tensors are zero" in found.message


def test_dead_network_does_not_change():
    found = the(watch(made(), zeroed(net()), before=False), "dead_weights")
    assert found.stops
    assert "layers initialised with zeros" in found.message


def test_checking_the_model_leaves_no_trace():
    model = net(10, nn.Dropout(0.5))
    model[1].eval()  # a frozen BatchNorm
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    assert guards.check_model(model, made(), FP32) == []
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_optimizer_with_the_weights_of_another_network():
    found = the(watch(made(), parameters=net().parameters()), "dead_weights")
    assert found.stops
    assert "2 of 2 kernels (0.weight, 4.weight)" in found.message
    assert "the optimizer holds other parameters" in found.message


def test_learning_rate_of_zero():
    found = the(watch(made(), lr=0.0), "dead_weights")
    assert "at lr 0: set optimizer.lr above 0" in found.message


def test_optimizer_with_the_head_only_is_a_note():
    model = net()
    found = the(watch(made(), model, parameters=model[-1].parameters()), "unchanged_weights")
    assert not found.stops
    assert "1 of 2 kernels (0.weight)" in found.message


def test_detached_stem_is_a_note():
    model = net()
    found = the(watch(made(), nn.Sequential(model[:4], Detached(), model[4:])), "unchanged_weights")
    assert "1 of 2 kernels (0.0.weight)" in found.message


def test_frozen_stem_is_healthy():
    model = net()
    model[0].requires_grad_(False)
    assert watch(made(), model) == []


def test_smallest_change_of_a_weight_shows():
    model = net()
    before = guards.fingerprint(model)
    assert guards.fingerprint(model) == before
    with torch.no_grad():
        weight = model[0].weight
        weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    assert {name for name, value in guards.fingerprint(model).items() if value != before[name]} == {
        "0.weight"
    }


@pytest.mark.parametrize("name", ["4.weight", "1.running_var"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite(name, value):
    model = net()
    model.state_dict()[name].view(-1)[-1] = value
    found = the(
        guards.check_weights(model, guards.fingerprint(model), steps=9, epoch=7, lr=0.5), "not_finite_weights"
    )
    assert found.stops
    assert f"({name})" in found.message
    assert "after epoch 7 at lr 0.5" in found.message


def test_mask_of_infinities_is_healthy():
    model = net()
    model.register_buffer("mask", torch.full((4, 4), -math.inf).triu(1))
    assert guards.check_weights(model, {}, steps=9, epoch=1, lr=0.1) == []


def test_raw_logits_in_nll_loss():
    found = the(watch(made(), lr=0.001, criterion=F.nll_loss), "negative_loss")
    assert found.stops
    assert "in epoch 1" in found.message
    assert "nll_loss was given raw logits" in found.message


def test_learning_rate_that_gives_nan():
    found = watch(
        made(), nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10)), lr=1e6
    )
    assert {finding.guard for finding in found} == {"not_finite", "not_finite_weights"}
    assert all(finding.stops for finding in found)
    message = found[0].message
    step = int(message.partition("in step ")[2].partition(",")[0])
    assert 2 <= step <= 20
    assert "epoch 1 at lr 1e+06; afterwards val/loss is nan: lower optimizer.lr" in message


def test_skipped_step_and_evaluation_overflow_are_notes():
    row = {"epoch": 3, "step": 60, "lr": 0.1, "train/loss": math.nan, "train/acc": 0.5}
    row |= {"val/loss": 1.2, "val/acc": 0.6}
    skipped = the(guards.check_epoch([row], made(), plain_loss=True, first_bad_step=41), "not_finite")
    assert not skipped.stops
    assert "in step 41, epoch 3" in skipped.message
    assert "val/loss is 1.2, so the weights are still sound" in skipped.message
    row |= {"train/loss": 1.0, "val/loss": math.inf}
    overflow = the(guards.check_epoch([row], made(), plain_loss=True, first_bad_step=None), "not_finite")
    assert not overflow.stops
    assert "val/loss is inf after epoch 3" in overflow.message


def test_exploding_loss():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10))
    found = the(watch(made(), model, lr=3.0), "exploding_loss")
    assert found.stops
    assert "guessing has 2.30: lr 3 is too high" in found.message


def test_one_bad_epoch_at_the_start_is_no_explosion():
    def row(epoch, loss):
        metrics = {"train/loss": loss, "train/acc": 0.2, "val/loss": 2.2, "val/acc": 0.2}
        return {"epoch": epoch, "step": epoch * 20, "lr": 0.1, **metrics}

    for losses in ([900.0], [900.0, 2.2], [900.0, 200.0, 40.0, 9.0], [2.0, 25.0, 1.9]):
        history = [row(epoch, loss) for epoch, loss in enumerate(losses, 1)]
        for end in range(1, len(history) + 1):
            assert guards.check_epoch(history[:end], made(), plain_loss=True, first_bad_step=None) == []


def test_labels_of_other_pictures_stay_at_chance():
    data = made(train=640)
    labels = data.train.labels[torch.randperm(640, generator=torch.Generator().manual_seed(1))]
    broken = relabelled(data, "train", labels)
    # a global pool and little width: it cannot learn the pictures by heart
    model = nn.Sequential(
        nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 10)
    )
    found = watch(broken, model, lr=0.05)
    last = the(found, "chance")
    assert last.stops
    assert "still at chance (10.00%)" in last.message
    assert "no better than guessing (2.303)" in last.message
    early = [finding for finding in found if not finding.stops]
    assert "after 5 epochs" in early[0].message
    assert "after 10 epochs and 400 steps" in last.message


def test_chance_is_the_commonest_class():
    data = made(classes=2, train=400)
    data = relabelled(data, "train", (torch.arange(400) % 5 == 0).long())
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)

    def after(epochs, loss, acc, rise=0.0):
        metrics = {"train/loss": loss, "train/acc": acc, "val/loss": loss, "val/acc": acc}
        history = [
            {"epoch": n, "step": n * 30, "lr": 0.1 + rise * n, **metrics} for n in range(1, epochs + 1)
        ]
        return guards.check_epoch(history, data, plain_loss=True, first_bad_step=None)

    found = the(after(10, entropy, 0.8), "chance")
    assert found.stops
    assert "chance (80.00%)" in found.message
    assert not the(after(5, entropy, 0.8), "chance").stops
    assert not the(after(30, entropy, 0.8, rise=0.01), "chance").stops  # warm-up
    assert after(4, entropy, 0.8) == after(10, 0.9 * entropy, 0.8) == after(10, entropy, 0.9) == []


FLIP = {"flip": A.HorizontalFlip(p=0.5)}
SPARSE = {"hole": A.CoarseDropout(num_holes_range=(1, 1), p=0.05)}
CROP = {"pad": A.Pad(padding=4, p=1.0), "crop": A.RandomCrop(8, 8, p=1.0)}


@pytest.mark.parametrize("steps", [FLIP, SPARSE, CROP])
def test_frozen_augmentation(steps):
    pipeline = augmentation(steps, backend="auto", image_size=8)

    def frozen(images, keys):
        return pipeline(images, torch.arange(len(images)))

    found = the(guards.check_augment(frozen, made()), "frozen_augmentation")
    assert found.stops
    the(watch(made(), augment=frozen), "frozen_augmentation")


def test_pictures_augmented_once_and_kept():
    pipeline, kept = augmentation(CROP, backend="auto", image_size=8), []

    def once(images, keys):
        if not kept:
            kept.append(pipeline(images, keys))
        return kept[0]

    the(guards.check_augment(once, made()), "frozen_augmentation")


@pytest.mark.parametrize("backend", ["batched", "albumentations"])
@pytest.mark.parametrize(
    "steps",
    [{}, FLIP, SPARSE, CROP, {"grey": A.ToGray(p=1.0)}, {"rare": A.HorizontalFlip(p=0.002)}],
    ids=["none", "flip", "sparse", "crop", "same change always", "rare"],
)
def test_healthy_augmentation(steps, backend):
    augment = augmentation(steps, backend=backend, image_size=8)
    assert guards.check_augment(augment, made()) == []


def test_draws_that_happen_to_be_equal_are_not_called_frozen():
    seen = []

    def rare(images, keys):
        seen.append(int(keys[1]) % 2)
        images[seen[-1]] = 255 - images[seen[-1]]
        return images

    assert guards.check_augment(rare, made()) == []
    assert len(seen) > 2  # the first two were equal


FINDINGS = [
    guards.Finding("first", "one"),
    guards.Finding("second", "two", stops=False),
    guards.Finding("third", "three"),
]


def test_stop_names_every_cause():
    with pytest.raises(guards.GuardError) as error:
        guards.act(FINDINGS, policy="stop", logged=set())
    assert str(error.value).splitlines()[:2] == ["first: one", "third: three"]
    assert "two" not in str(error.value)


def test_warn_tells_each_guard_once(caplog):
    logged = set()
    for _ in range(2):
        guards.act([*FINDINGS, guards.Finding("first", "again")], policy="warn", logged=logged)
    lines = ["first: one", "second: two", "third: three", "first: again"]
    assert [record.getMessage() for record in caplog.records] == lines
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_notes_never_stop(caplog):
    guards.act(FINDINGS[1:2], policy="stop", logged=set())
    assert [record.getMessage() for record in caplog.records] == ["second: two"]


def test_off_is_silent(caplog):
    guards.act(FINDINGS, policy="off", logged=set())
    assert caplog.records == []


SCHEDULES = {
    "constant": schedules.constant,
    "warm-up": partial(schedules.constant, warmup_epochs=6),
    "step": partial(schedules.step, step_size=1, gamma=0.1),
    "multistep": partial(schedules.multistep, milestones=[1, 2]),
    "cosine": schedules.cosine,
    "one_cycle": schedules.one_cycle,
    "plateau": partial(schedules.plateau, patience=0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_healthy_with_every_schedule(name):
    assert watch(made(), scheduler=SCHEDULES[name]) == []


HEALTHY = {
    "hot start": {"lr": 0.5},
    "tiny lr": {"lr": 1e-7, "settings": {"epochs": 2}},
    "one epoch": {"settings": {"epochs": 1}},
    "one step an epoch": {"settings": {"batch_size": 320}, "lr": 1e-4},
    "label smoothing": {
        "settings": {"label_smoothing": 0.42}
    },  # whose floor is that of softmax applied twice
    "heavy label smoothing": {"settings": {"label_smoothing": 0.9, "epochs": 30}},
    "mixup": {"mix": v2.MixUp(alpha=1.0, num_classes=10)},
    "cutmix": {"mix": v2.CutMix(alpha=1.0, num_classes=10)},
    "moving average": {"settings": {"ema_decay": 0.9999}},
    "clipped": {"settings": {"grad_clip": 0.1}},
    "log-softmax": {"model": net(10, nn.LogSoftmax(1))},
    "augmented": {"augment": augmentation(CROP | FLIP, backend="auto", image_size=8)},
    "sparse augmentation": {"augment": augmentation(SPARSE, backend="auto", image_size=8)},
    "no val": {"data": made(val=0)},
    "100 classes": {"data": made(classes=100, train=600, val=200), "settings": {"epochs": 8}},
    "2 classes": {"data": made(classes=2)},
    "by heart": {"settings": {"epochs": 60}, "lr": 0.1},  # gradients vanish, val/loss rises
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy(name):
    options = dict(HEALTHY[name])
    data = options.pop("data", made())
    settings = dataclasses.replace(SETTINGS, **options.pop("settings", {}))
    assert watch(data, copy.deepcopy(options.pop("model", None)), settings=settings, **options) == []


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(groups(compose(["data=digits"])).data)


def test_digits_are_healthy(digits):
    assert guards.check_data(digits) == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "aug").glob("*.yaml")))
def test_shipped_augmentations_are_healthy(name, digits):
    assert guards.check_augment(build.augment(compose([f"aug={name}", "data=digits"])), digits) == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
def test_shipped_models_are_healthy(name, digits):
    torch.manual_seed(0)
    model = build.model(compose([f"model={name}"]), num_classes=10)
    assert guards.check_model(model, digits, FP32) == []
