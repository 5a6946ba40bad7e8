"""Trains a model in one call, as a run without a configuration does: `for epoch in fit(model, data): ...`."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifar_core.augment.protocol import Augment
from cifar_core.data.split import Data
from cifar_core.memory import TRAINING, memory_explained
from cifar_core.train import schedules
from cifar_core.train.loop import EpochResult, Mix, train
from cifar_core.train.numerics import set_up
from cifar_core.train.optim import quick
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.state import TrainState, start, steps_per_epoch

Schedule = Callable[..., LRScheduler]  # (optimizer, epochs=, steps_per_epoch=), as those of `schedules`

# The values of conf/optimizer/sgd.yaml and conf/scheduler/cosine.yaml.
sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
cosine = partial(schedules.cosine, final_factor=0.0, warmup_epochs=1)

# What TrainerSettings has for those who run this loop: they stop early, test, check and save.
CALLERS = ("early_stop", "test", "tta", "checkpoint_seconds", "keep", "guards")


def fit(
    model: nn.Module,
    data: Data,
    *,
    augment: Augment | None = None,
    mix: Mix | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Schedule | None = None,
    seed: int = 0,
    **settings: Any,
) -> Iterator[EpochResult]:
    """Train ``model`` in place and yield a result after each epoch.

    ``settings`` are those of `TrainerSettings`, with its defaults: epochs, batch_size, device, ema_decay, ...
    ``optimizer`` holds the model's parameters; None is `sgd`. ``scheduler`` is called with it, ``epochs`` and
    ``steps_per_epoch``; None is `cosine`. None as ``augment`` leaves pictures as they are.
    ``seed`` decides order, augmentation and dropout; the model comes with its weights.

    The model is moved to the device, ``data`` copied there. With ``ema_decay`` the model gets the average of
    its weights when the generator ends, also after a break. Sets torch up for the process (`set_up`), its
    global seed too. Raises TypeError for a setting that only a run heeds, such as early_stop: break out of
    the loop instead; the generator raises MemoryError where memory is lacking, whatever torch or CUDA raised.
    """
    unheeded = [name for name in CALLERS if name in settings]
    if unheeded:
        raise TypeError(f"fit() takes no {', '.join(unheeded)}: that is up to the loop around it")
    options = TrainerSettings(**settings)
    numerics = set_up(options)
    numerics.place(model)
    steps = steps_per_epoch(len(data.train), options)
    if optimizer is None:
        optimizer = sgd(model.named_parameters(), **quick(sgd.func, numerics.device, sgd.keywords))
    schedule = (scheduler or cosine)(optimizer, epochs=options.epochs, steps_per_epoch=steps)
    state = start(model, optimizer, schedule, numerics=numerics, seed=seed, ema_decay=options.ema_decay)
    return _epochs(state, data.to(numerics.device), augment or _unchanged, options, mix)


def _epochs(
    state: TrainState, data: Data, augment: Augment, settings: TrainerSettings, mix: Mix | None
) -> Iterator[EpochResult]:
    try:
        with memory_explained(TRAINING):
            yield from train(state, data, augment, settings, mix=mix)
    finally:
        if state.ema is not None:
            state.model.load_state_dict(state.best_model.state_dict())


def _unchanged(images: Tensor, keys: Tensor) -> Tensor:
    return images
