import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from cifar_core import checkpoint, schedules, train
from cifar_core.data import Data, Split
from cifar_core.numerics import Numerics, numerics
from cifar_core.settings import TrainerSettings
from tests.conftest import trainer_settings

FP32 = Numerics(torch.device("cpu"), torch.float32, channels_last=True)
SETTINGS = trainer_settings(
    epochs=2,
    batch_size=8,
    eval_batch_size=7,
    precision="fp32",
    checkpoint_seconds=0.0,
    keep="all",
    guards="off",
)


def split(count: int, seed: int, classes: int = 4) -> Split:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=rng)
    noise = torch.randint(64, (count, 3, 8, 8), generator=rng)
    images = (noise + labels.view(-1, 1, 1, 1) * 48).to(torch.uint8)  # brighter with the label
    return Split(images, labels, torch.arange(count), None)


@pytest.fixture
def data() -> Data:
    names = ("a", "b", "c", "d")
    mean, std = (100.0, 100.0, 100.0), (60.0, 60.0, 60.0)
    return Data("made", names, split(50, 0), split(20, 1), split(30, 2), mean, std, "0")


def same(images, *, generator):
    return images


def noisy(images, *, generator):
    return images ^ torch.randint(8, images.shape, generator=generator, dtype=torch.uint8)


def net(dropout: float = 0.0) -> nn.Module:
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(32, 4))


def begin(
    data: Data, settings: TrainerSettings = SETTINGS, *, seed: int = 0, dropout=0.0, where=FP32, lr=0.05
):
    torch.manual_seed(seed)
    model = where.place(net(dropout))
    optimizer = torch.optim.SGD(model.named_parameters(), lr=lr, momentum=0.9)
    steps = train.steps_per_epoch(len(data.train), settings)
    scheduler = schedules.cosine(optimizer, epochs=settings.epochs, steps_per_epoch=steps)
    return train.start(model, optimizer, scheduler, numerics=where, seed=seed, ema_decay=settings.ema_decay)


def weights(state: train.TrainState) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in state.best_model.state_dict().values()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def run(state, data, settings=SETTINGS, **options):
    return list(train.train(state, data, options.pop("augment", same), settings, **options))


def test_results_say_what_happened(data):
    state = begin(data)
    results = run(state, data)
    assert [r.epoch for r in results] == [1, 2]
    assert [r.step for r in results] == [6, 12]  # 50 // 8, the incomplete batch dropped
    assert set(results[0].metrics) == {"train/loss", "train/acc", "val/loss", "val/acc"}
    assert (state.epoch, state.step) == (2, 12)
    logits = train.predict(state.model, data, data.val, FP32, batch_size=100)
    with torch.no_grad():
        direct = state.model.eval()(data.normalize(data.val.images))
    torch.testing.assert_close(logits, direct)
    acc = (direct.argmax(1) == data.val.labels).float().mean().item()
    assert results[-1].metrics["val/acc"] == pytest.approx(acc)
    powers = np.exp(direct.numpy())
    loss = -np.log(powers / powers.sum(1, keepdims=True))[range(20), data.val.labels.numpy()].mean()
    assert results[-1].metrics["val/loss"] == pytest.approx(float(loss), rel=1e-5)


def test_learns(data):
    settings = dataclasses.replace(SETTINGS, epochs=30)
    results = run(begin(data, settings), data, settings)
    assert results[-1].metrics["val/acc"] >= 0.9
    assert results[-1].metrics["train/loss"] < results[0].metrics["train/loss"] / 2


def test_overfits_one_batch(data):
    one = dataclasses.replace(data, train=split(8, 5))
    one.train.labels.copy_(torch.arange(8) % 4)  # labels that the pictures do not explain
    settings = dataclasses.replace(SETTINGS, epochs=150)
    assert run(begin(one, settings, lr=0.1), one, settings)[-1].metrics["train/acc"] == 1.0


def test_same_seed_same_numbers(data):
    def outcome(seed):
        state = begin(data, seed=seed, dropout=0.3)
        return [r.metrics for r in run(state, data, augment=noisy)], weights(state)

    (first, w1), (again, w2), (other, _) = outcome(0), outcome(0), outcome(1)
    assert first == again
    assert equal(w1, w2)
    assert first != other


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_resumed_equals_uninterrupted(data, tmp_path, ema_decay):
    settings = dataclasses.replace(SETTINGS, epochs=4, ema_decay=ema_decay)
    mix = v2.MixUp(alpha=0.2, num_classes=4)
    whole = begin(data, settings, dropout=0.3)
    expected = run(whole, data, settings, augment=noisy, mix=mix)

    stopped = begin(data, settings, dropout=0.3)
    for result in train.train(stopped, data, noisy, settings, mix=mix):
        if result.epoch == 2:
            break
    checkpoint.save(tmp_path / "last.pt", stopped.state_dict())
    torch.rand(7)  # another process has another global stream
    resumed = begin(data, settings, seed=3, dropout=0.3)
    resumed.load_state_dict(checkpoint.load(tmp_path / "last.pt"))
    rest = run(resumed, data, settings, augment=noisy, mix=mix)
    assert [r.metrics for r in rest] == [r.metrics for r in expected[2:]]
    assert equal(weights(whole), weights(resumed))


def test_accumulated_gradients_are_those_of_the_large_batch(data):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))  # without BatchNorm, which sees single batches

    def trained(batch_size, accumulate):
        settings = dataclasses.replace(SETTINGS, batch_size=batch_size, accumulate=accumulate, epochs=1)
        own = copy.deepcopy(model)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.01)
        steps = train.steps_per_epoch(len(data.train), settings)
        scheduler = schedules.constant(optimizer, epochs=1, steps_per_epoch=steps)
        state = train.start(own, optimizer, scheduler, numerics=FP32, seed=0)
        (result,) = run(state, data, settings)
        return result, own[1].weight

    large, small = trained(16, 1), trained(4, 4)
    assert large[0].step == small[0].step == 3
    torch.testing.assert_close(large[1], small[1])
    assert large[0].metrics["train/loss"] == pytest.approx(small[0].metrics["train/loss"], rel=1e-5)


def test_ema_is_the_average_of_the_weights(data):
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=25, ema_decay=0.75)
    state = begin(data, settings)
    seen = []
    hook = state.optimizer.register_step_post_hook(
        lambda *_: seen.append(state.model[0].weight.detach().clone())
    )
    run(state, data, settings)
    hook.remove()
    torch.testing.assert_close(state.ema.module[0].weight, 0.75 * seen[0] + 0.25 * seen[1])
    assert state.best_model is state.ema.module


def test_gradients_are_clipped(data):
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=50, grad_clip=0.01)
    state = begin(data, settings)
    before = [p.detach().clone() for p in state.model.parameters()]
    state.optimizer.param_groups[0]["lr"] = 1.0
    state.scheduler.base_lrs = [1.0]
    run(state, data, settings)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, state.model.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_label_smoothing_reaches_the_loss(data):
    plain = run(begin(data), data, dataclasses.replace(SETTINGS, epochs=1))[0].metrics["train/loss"]
    smoothed = dataclasses.replace(SETTINGS, epochs=1, label_smoothing=0.5)
    assert run(begin(data), data, smoothed)[0].metrics["train/loss"] > plain


def test_without_val_the_test_set_is_watched(data):
    empty = dataclasses.replace(data, val=split(0, 0))
    assert set(run(begin(empty), empty)[0].metrics) == {"train/loss", "train/acc", "test/loss", "test/acc"}


def test_every_picture_once_an_epoch(data):
    seen = []

    def note(images, *, generator):
        seen.append(images.clone())
        return images

    run(begin(data), data, dataclasses.replace(SETTINGS, epochs=1, batch_size=10), augment=note)
    order = torch.cat(seen).flatten(1)
    assert sorted(map(tuple, order.tolist())) == sorted(map(tuple, data.train.images.flatten(1).tolist()))
    assert not torch.equal(order, data.train.images.flatten(1))


def shown_mirrored(data, settings, seed=0):
    """Return, for every epoch, which of the training pictures (N,) were shown mirrored."""
    shown = []

    def note(images, *, generator):
        shown.extend(images)
        return images

    run(begin(data, settings, seed=seed), data, settings, augment=note)
    epochs = [shown[start : start + 48] for start in range(0, len(shown), 48)]

    def mirrored(image, epoch):
        seen = (
            [torch.equal(other, image) for other in epoch],
            [torch.equal(other, image.flip(-1)) for other in epoch],
        )
        return None if not any(map(any, seen)) else any(seen[1])

    return [[mirrored(image, epoch) for image in data.train.images[:40]] for epoch in epochs]


def test_alternating_flip_shows_both_sides_in_two_epochs(data):
    settings = dataclasses.replace(SETTINGS, epochs=4, alternating_flip=True)
    first, second, third, fourth = shown_mirrored(data, settings)
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if None not in (a, b)]
    assert len(pairs) > 30  # the incomplete last batch was dropped
    assert all(a != b for a, b in pairs)
    assert 5 < sum(a for a, _ in pairs) < 35  # about half of them
    for early, late in ((first, third), (second, fourth)):
        assert all(a == b for a, b in zip(early, late, strict=True) if None not in (a, b))
    assert shown_mirrored(data, settings, seed=1)[0] != first


def test_predict_averages_over_the_views(data):
    state = begin(data)
    plain, both = (
        train.predict(state.model, data, data.val, FP32, batch_size=7, tta=tta) for tta in ("none", "mirror")
    )
    turned = dataclasses.replace(data.val, images=data.val.images.flip(-1))
    mirrored = train.predict(state.model, data, turned, FP32, batch_size=7)
    torch.testing.assert_close(both, (plain + mirrored) / 2)
    assert not torch.equal(plain, both)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_learns(data, precision):
    settings = dataclasses.replace(SETTINGS, epochs=30, precision=precision)
    where = numerics(settings)
    state = begin(data, settings, where=where)
    assert state.scaler.is_enabled() == (precision == "fp16")
    assert run(state, data, settings)[-1].metrics["val/acc"] >= 0.9
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}


def test_training_flag_is_kept(data):
    state = begin(data)
    for training in (True, False):
        state.model.train(training)
        train.predict(state.model, data, data.val, FP32, batch_size=8)
        assert state.model.training == training


def test_batch_larger_than_the_data_is_refused(data):
    with pytest.raises(ValueError, match=r"at most the training set, 50 pictures, got 32 \* 2"):
        train.steps_per_epoch(50, dataclasses.replace(SETTINGS, batch_size=32, accumulate=2))


def test_missing_device_is_refused():
    if torch.cuda.device_count() > 7:
        pytest.skip("this machine has the device")
    with pytest.raises(ValueError, match="trainer.device must be a device of this machine, got 'cuda:7'"):
        numerics(dataclasses.replace(SETTINGS, device="cuda:7"))
