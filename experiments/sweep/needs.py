"""What all points of a sweep need: pictures, weights, a device; looked for once, not in each trial."""

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cifar_core.data.present import training_pictures
from cifar_core.data.settings import DataSettings
from cifar_core.data.sources import load_data
from cifar_core.train.numerics import set_up
from cifar_core.train.settings import check_batch
from experiments.config import build
from experiments.config.values import Settings, ours, settings


class Needs:
    """What a number of configurations need, each thing once."""

    def __init__(self) -> None:
        self._pictures: dict[str, Settings] = {}
        self._machines: dict[str, Settings] = {}
        self._weights: dict[str, tuple[str, DictConfig]] = {}  # the key of the pictures, a configuration
        self._counts: dict[str, int | None] = {}  # of training pictures, where known, by the same key

    def add(self, cfg: DictConfig) -> None:
        """Note what a checked ``cfg`` needs; raise ValueError where its batches are above its pictures."""
        options = settings(cfg)
        pictures = _key(vars(options.data))
        if pictures not in self._counts:
            self._counts[pictures] = _count(options.data)
        if images := self._counts[pictures]:
            check_batch(options.trainer, images)
        self._pictures.setdefault(pictures, options)
        self._machines.setdefault(_key([options.trainer.device, options.trainer.precision]), options)
        if cfg.model.get("weights"):
            model = OmegaConf.to_container(cfg.model, resolve=True)
            self._weights.setdefault(_key(model) + pictures, (pictures, ours(cfg).copy()))

    def check(self, *, elsewhere: bool = False) -> None:
        """Look for all of it; pictures are decoded into `data.cache`, where the trials find them.

        Raises ValueError or FileNotFoundError for a mistake, OSError for what cannot be read or written.
        Where trials run ``elsewhere``, what is not here is left to them.
        """
        if not elsewhere:
            devices = list(dict.fromkeys(options.trainer.device for options in self._machines.values()))
            if len(devices) > 1:
                raise ValueError(
                    "trainer.device must be the same for all trials, which share its GPUs or cores out, "
                    f"got {', '.join(devices)}"
                )
            for options in self._machines.values():
                set_up(options.trainer)
        for key, options in self._pictures.items():
            try:
                data = load_data(options.data)
                for pictures, cfg in self._weights.values():
                    if pictures == key:
                        build.start_weights(cfg, build.model(cfg, num_classes=data.num_classes), data)
            except OSError:
                if not elsewhere:
                    raise


def _count(data: DataSettings) -> int | None:
    try:
        return training_pictures(data)
    except (OSError, ValueError):  # what is wrong with a folder is told where it is read
        return None


def _key(values: Any) -> str:
    return json.dumps(values, sort_keys=True, default=str)
