"""Everything one run works with, built from its configuration and its folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from cifar_core.augment.protocol import Augment
from cifar_core.data.sources import load_data
from cifar_core.data.split import Data
from cifar_core.history import Row
from cifar_core.train.loop import Mix
from cifar_core.train.state import TrainState
from experiments.cli import user_mistakes
from experiments.config import build
from experiments.config.schema import origin
from experiments.config.values import Settings, asks_for_constants, plain, settings, with_constants
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.folder import RunFolder
from experiments.runs.guards import Guards
from experiments.runs.origin import begin
from experiments.runs.watch import Watch


@dataclass
class Job:
    """The parts of one run."""

    cfg: DictConfig
    values: dict[str, Any]  # the configuration as plain values
    settings: Settings
    folder: RunFolder
    state: TrainState
    data: Data
    augment: Augment
    mix: Mix | None
    checkpoints: Checkpoints
    guards: Guards
    watch: Watch
    history: list[Row]  # of all epochs, those before a resume included
    environment: dict[str, Any]  # as in environment.json; empty before it is written

    @property
    def protocol(self) -> str:
        """What the run's figures stand for: who saw which pictures when."""
        if len(self.data.val):
            return "validation"
        return "test_each_epoch" if self.settings.trainer.evaluate == "each_epoch" else "test_once"

    @property
    def explained(self) -> str:
        """The split to analyse: test, unless the run must not read it and has another."""
        return "test" if self.settings.trainer.test or not len(self.data.val) else "val"


def set_up(cfg: DictConfig, folder: RunFolder, overrides: Sequence[str] = ()) -> Job:
    """Build all parts and take up the last checkpoint if there is one.

    Where ``cfg`` leaves `data.mean` or `data.std` to be measured, the job's has the figures, and only now is
    it written to the folder, with ``overrides`` as they were asked for.
    Raises UserError where configuration, data and folder do not fit together, OSError for a full disk.
    """
    options = settings(cfg)
    with user_mistakes():
        data = None
        if asks_for_constants(plain(cfg)):
            data = load_data(options.data)
            cfg = with_constants(cfg, data.mean, data.std)
            folder.claim(plain(cfg), overrides)
        resumes = folder.last.exists() or folder.previous.exists()
        built = build.training(cfg, options, data=data, resumes=resumes or origin(cfg) is not None)
        identity = {"config": folder.identity, "data": built.data.fingerprint}
        checkpoints = Checkpoints(folder, identity, every_seconds=options.trainer.checkpoint_seconds)
        history = checkpoints.resume(built.state)
        if resumes and not built.state.epoch:  # no checkpoint could be read
            built = build.training(cfg, options, data=data)
        if not built.state.epoch and (began := origin(cfg)):
            begin(built.state, began, checkpoints)
        analysed = options.analysis.level != "none"
        layer = build.cam_module(cfg, built.state.best_model, built.data.image_size) if analysed else None
    checkpoints.check_space(built.state)
    folder.write_history(history)
    return Job(
        cfg=cfg,
        values=plain(cfg),
        settings=options,
        folder=folder,
        state=built.state,
        data=built.data,
        augment=built.augment,
        mix=built.mix,
        checkpoints=checkpoints,
        guards=Guards(options.trainer, built.data, mixes=built.mix is not None),
        watch=Watch(options.analysis, built.state, built.data, layer, folder),
        history=history,
        environment={},
    )
