import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from cifar_core.augment.uniforms import uniforms
from cifar_core.data.split import Data, Split
from cifar_core.train import checkpoint, loop, predict, schedules
from cifar_core.train import state as state_module
from cifar_core.train.numerics import Numerics, numerics
from cifar_core.train.settings import TrainerSettings
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


def same(images, keys):
    return images


def noisy(images, keys):
    return images ^ (uniforms(keys, images[0].numel()) * 8).to(torch.uint8).view_as(images)


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
    data: Data, settings: TrainerSettings = SETTINGS, *, seed: int = 0, dropout=0.0, hardware=FP32, lr=0.05
):
    torch.manual_seed(seed)
    model = hardware.place(net(dropout))
    optimizer = torch.optim.SGD(model.named_parameters(), lr=lr, momentum=0.9)
    steps = state_module.steps_per_epoch(len(data.train), settings)
    scheduler = schedules.cosine(optimizer, epochs=settings.epochs, steps_per_epoch=steps)
    return state_module.start(
        model, optimizer, scheduler, numerics=hardware, seed=seed, ema_decay=settings.ema_decay
    )


def weights(state: state_module.TrainState) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in state.best_model.state_dict().values()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def run(state, data, settings=SETTINGS, **options):
    return list(loop.train(state, data, options.pop("augment", same), settings, **options))


def test_results_say_what_happened(data):
    state = begin(data)
    results = run(state, data)
    assert [r.epoch for r in results] == [1, 2]
    assert [r.step for r in results] == [6, 12]  # 50 // 8, the incomplete batch dropped
    assert set(results[0].metrics) == {"train/loss", "train/acc", "val/loss", "val/acc"}
    assert (state.epoch, state.step) == (2, 12)
    metrics = results[0].metrics
    assert list(results[0].row) == ["epoch", "step", *metrics, "lr", "seconds", "images_per_second"]
    assert results[0].row.items() >= metrics.items()
    logits = predict.predict(state.model, data, data.val, FP32, batch_size=100)
    with torch.no_grad():
        direct = state.model.eval()(data.normalize(data.val.images))
    torch.testing.assert_close(logits, direct)
    acc = (direct.argmax(1) == data.val.labels).float().mean().item()
    assert results[-1].metrics["val/acc"] == pytest.approx(acc)
    powers = np.exp(direct.numpy())
    loss = -np.log(powers / powers.sum(1, keepdims=True))[range(20), data.val.labels.numpy()].mean()
    assert results[-1].metrics["val/loss"] == pytest.approx(float(loss), rel=1e-5)


def test_figures_of_training_are_those_of_its_batches(data):
    batches = []

    def noted(logits, targets):
        loss = nn.functional.cross_entropy(logits, targets)
        batches.append((loss.item(), (logits.argmax(1) == targets).sum().item()))
        return loss

    results = run(begin(data), data, criterion=noted)
    for result, epoch in zip(results, (batches[:6], batches[6:]), strict=True):
        losses, hits = zip(*epoch, strict=True)
        assert result.metrics["train/loss"] == pytest.approx(np.mean(losses))
        assert result.metrics["train/acc"] == sum(hits) / 48  # of 50: the incomplete batch is dropped


def test_lr_is_that_of_the_last_step(data):
    state, lrs = begin(data), []
    state.optimizer.register_step_pre_hook(lambda optimizer, *_: lrs.append(optimizer.param_groups[0]["lr"]))
    results = run(state, data)
    assert lrs == sorted(set(lrs), reverse=True)  # the cosine falls with each of the steps
    assert [r.lr for r in results] == [lrs[5], lrs[11]]


def test_plateau_heeds_the_accuracy(data):
    settings = dataclasses.replace(SETTINGS, epochs=6)
    state = begin(data, settings)
    options = {"epochs": 6, "steps_per_epoch": 6, "factor": 0.5, "patience": 0, "threshold": 0.0}
    state.scheduler = schedules.plateau(state.optimizer, **options)
    results = run(state, data, settings)
    best, lr, expected = -1.0, 0.05, []
    for result in results:
        expected.append(lr)
        lr = lr if result.metrics["val/acc"] > best else lr / 2
        best = max(best, result.metrics["val/acc"])
    assert [r.lr for r in results] == expected
    assert expected[-1] > 0.05 / 2**4  # or it would be the same as halving it each time


def test_the_first_step_with_a_bad_loss_is_named(data):
    settings, calls = dataclasses.replace(SETTINGS, accumulate=2), itertools.count()

    def breaking(logits, targets):
        return nn.functional.cross_entropy(logits, targets) * (torch.nan if next(calls) >= 9 else 1)

    results = run(begin(data, settings), data, settings, criterion=breaking)  # of 3 steps, 6 batches each
    assert [r.first_bad_step for r in results] == [None, 5]


def test_a_model_in_eval_mode_is_trained_all_the_same(data):
    first, second = begin(data, dropout=0.3), begin(data, dropout=0.3)
    second.model.eval()
    assert [r.metrics for r in run(first, data)] == [r.metrics for r in run(second, data)]
    assert equal(weights(first), weights(second))


def test_every_batch_may_end_the_training(data):
    calls = []
    run(begin(data), data, between_batches=lambda: calls.append(1))
    assert len(calls) == 2 * (6 + 3)  # 50 // 8 of training, the 20 of validation in parts of 7

    def third():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    calls.clear()
    state = begin(data)
    with pytest.raises(KeyboardInterrupt):
        run(state, data, between_batches=third)
    assert state.step == 2


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


def draws(data, seed):
    """Return what each epoch drew: order of the pictures, the augmentation's stream, the global one."""
    drawn = {"order": [], "augmentation": [], "global": []}

    def augment(images, keys):
        drawn["order"].append(images.clone())
        drawn["augmentation"].append(keys)
        return images

    def mix(images, labels):
        drawn["global"].append(torch.rand(3))
        return images, labels

    run(begin(data, seed=seed), data, augment=augment, mix=mix)
    return {stream: torch.cat(of).chunk(2) for stream, of in drawn.items()}


@pytest.mark.parametrize("stream", ["order", "augmentation", "global"])
def test_every_epoch_of_every_seed_draws_anew(data, stream):
    drawn = draws(data, 0)[stream] + draws(data, 1)[stream]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_dropout_does_not_follow_the_augmentation(data):
    seeds, drawn = [], []

    def note(images, keys):
        order = torch.randperm(50, generator=torch.Generator().manual_seed(torch.initial_seed()))[:48]
        drawn.append(torch.equal(images, data.train.images[order]))
        seeds.append(torch.initial_seed())
        return images

    run(begin(data), data, augment=note)
    assert len(set(seeds)) == 2  # epochs
    assert drawn == [False, False]  # the order is not what the global stream's seed gives


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_resumed_equals_uninterrupted(data, tmp_path, ema_decay):
    settings = dataclasses.replace(SETTINGS, epochs=4, ema_decay=ema_decay)
    mix = v2.MixUp(alpha=0.2, num_classes=4)
    whole = begin(data, settings, dropout=0.3)
    expected = run(whole, data, settings, augment=noisy, mix=mix)

    stopped = begin(data, settings, dropout=0.3)
    for result in loop.train(stopped, data, noisy, settings, mix=mix):
        if result.epoch == 2:
            break
    checkpoint.save(tmp_path / "last.pt", stopped.state_dict())
    torch.rand(7)  # another process has another global stream
    resumed = begin(data, settings, seed=3, dropout=0.3)
    resumed.load_state_dict(checkpoint.load(tmp_path / "last.pt"))
    rest = run(resumed, data, settings, augment=noisy, mix=mix)
    assert [r.metrics for r in rest] == [r.metrics for r in expected[2:]]
    assert equal(weights(whole), weights(resumed))
    assert (resumed.epoch, resumed.step) == (whole.epoch, whole.step) == (4, 24)


def test_the_scale_of_float16_is_resumed(data):
    hardware = numerics(dataclasses.replace(SETTINGS, precision="fp16"))
    state, other = begin(data, hardware=hardware), begin(data, hardware=hardware)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**9)
    other.load_state_dict(state.state_dict())
    assert other.scaler.get_scale() == 2.0**9


def test_first_steps_that_a_scale_of_float16_leaves_out_are_no_warning(data):
    hardware = numerics(dataclasses.replace(SETTINGS, precision="fp16"))
    state = begin(data, hardware=hardware)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # no gradient fits float16 so
    before = weights(state)
    results = run(state, data)  # warnings are errors
    assert state.scaler.get_scale() < 2.0**40
    assert results[0].lr != results[1].lr
    assert torch.equal(before[0], weights(state)[0])


def test_accumulated_gradients_are_those_of_the_large_batch(data):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))  # without BatchNorm, which sees single batches

    def trained(batch_size, accumulate):
        settings = dataclasses.replace(SETTINGS, batch_size=batch_size, accumulate=accumulate, epochs=1)
        own = copy.deepcopy(model)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.01)
        steps = state_module.steps_per_epoch(len(data.train), settings)
        scheduler = schedules.constant(optimizer, epochs=1, steps_per_epoch=steps)
        state = state_module.start(own, optimizer, scheduler, numerics=FP32, seed=0)
        (result,) = run(state, data, settings)
        return result, own[1].weight

    large, small = trained(16, 1), trained(4, 4)
    assert large[0].step == small[0].step == 3
    torch.testing.assert_close(large[1], small[1])
    assert large[0].metrics["train/loss"] == pytest.approx(small[0].metrics["train/loss"], rel=1e-5)


def test_ema_is_the_average_of_weights_and_running_statistics(data):
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=25, ema_decay=0.75)
    state = begin(data, settings)
    seen = []
    hook = state.optimizer.register_step_post_hook(
        lambda *_: seen.append(copy.deepcopy(state.model.state_dict()))
    )
    (result,) = run(state, data, settings)
    hook.remove()
    averages = state.ema.module.state_dict()
    for name in ("0.weight", "1.running_mean", "1.running_var"):
        first, second = (step[name] for step in seen)
        assert not torch.equal(first, second)
        torch.testing.assert_close(averages[name], 0.75 * first + 0.25 * second)
    assert state.best_model is state.ema.module
    scores = predict.evaluate(state.ema.module, data, "val", FP32, batch_size=settings.eval_batch_size)
    assert {name: result.metrics[name] for name in scores} == scores


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gradients_are_clipped(data, precision):
    """In float16 too, where they are large multiples of the true ones until they are unscaled."""
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=50, grad_clip=0.01, precision=precision)
    state = begin(data, settings, hardware=numerics(settings))
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
    unread = dataclasses.replace(SETTINGS, evaluate="end")
    assert set(run(begin(empty, unread), empty, unread)[0].metrics) == {"train/loss", "train/acc"}


def test_every_picture_once_an_epoch(data):
    seen = []

    def note(images, keys):
        seen.append(images.clone())
        return images

    run(begin(data), data, dataclasses.replace(SETTINGS, epochs=1, batch_size=10), augment=note)
    order = torch.cat(seen).flatten(1)
    assert sorted(map(tuple, order.tolist())) == sorted(map(tuple, data.train.images.flatten(1).tolist()))
    assert not torch.equal(order, data.train.images.flatten(1))


def shown_mirrored(data, settings, seed=0):
    """Return, for every epoch, which of the training pictures (N,) were shown mirrored."""
    shown = []

    def note(images, keys):
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
        predict.predict(state.model, data, data.val, FP32, batch_size=7, tta=tta)
        for tta in ("none", "mirror")
    )
    turned = dataclasses.replace(data.val, images=data.val.images.flip(-1))
    mirrored = predict.predict(state.model, data, turned, FP32, batch_size=7)
    torch.testing.assert_close(both, (plain + mirrored) / 2)
    assert not torch.equal(plain, both)


class BrighterSide(nn.Module):
    """Says 0 where the left half is the brighter one and 1 where it is the right one."""

    def forward(self, images):
        return torch.stack([half.mean((1, 2, 3)) for half in images.chunk(2, dim=-1)], dim=1)


def test_the_further_figure_is_that_of_the_views(data):
    labels = BrighterSide()(data.test.images.float()).argmax(1)
    turned = dataclasses.replace(data, test=dataclasses.replace(data.test, labels=labels))
    plain = predict.evaluate(BrighterSide(), turned, "test", FP32, batch_size=7)
    assert plain["test/acc"] == 1
    views = dataclasses.replace(SETTINGS, tta="mirror")
    scores = predict.tta_acc(BrighterSide(), turned, "test", FP32, views)
    assert set(scores) == {"test/acc_tta"}
    assert scores["test/acc_tta"] < 0.9  # both sides are as bright on average
    assert predict.tta_acc(BrighterSide(), turned, "test", FP32, SETTINGS) == {}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_learns(data, precision):
    settings = dataclasses.replace(SETTINGS, epochs=30, precision=precision)
    state = begin(data, settings, hardware=numerics(settings))
    assert state.scaler.is_enabled() == (precision == "fp16")
    assert run(state, data, settings)[-1].metrics["val/acc"] >= 0.9
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}


def test_training_flag_is_kept(data):
    state = begin(data)
    for training in (True, False):
        state.model.train(training)
        predict.predict(state.model, data, data.val, FP32, batch_size=8)
        assert state.model.training == training


def test_batch_larger_than_the_data_is_refused(data):
    with pytest.raises(
        ValueError, match=r"at most the 50 training pictures, got 32 \* 2: trainer.batch_size=16"
    ):
        state_module.steps_per_epoch(50, dataclasses.replace(SETTINGS, batch_size=32, accumulate=2))


def test_missing_device_is_refused():
    if torch.cuda.device_count() > 7:
        pytest.skip("this machine has the device")
    with pytest.raises(ValueError, match="trainer.device must be a device of this machine, got 'cuda:7'"):
        numerics(dataclasses.replace(SETTINGS, device="cuda:7"))
