"""What a run says and looks for before torch is imported."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from cifar_core.data.present import check_present, training_pictures
from cifar_core.train.settings import check_batch
from experiments.config.values import settings
from experiments.runs.result import Result


def begin(cfg: DictConfig, folder: Path) -> None:
    """Say what is about to run and raise what is wrong with its pictures; of a finished run say nothing.

    Raises FileNotFoundError or OSError for absent pictures, ValueError for folders that make no sense and for
    batches larger than the training set.
    """
    earlier = Result.read(folder)
    if earlier is None or not earlier.done:
        check_pictures(cfg)
        print(first_line(cfg, folder), file=sys.stderr)


def check_pictures(cfg: DictConfig) -> None:
    """Raise what can be known to be wrong with the pictures of ``cfg`` before any is read."""
    options = settings(cfg)
    check_present(options.data)
    images = training_pictures(options.data)
    if images is not None:
        check_batch(options.trainer, images)


def first_line(cfg: DictConfig, folder: Path) -> str:
    """Return what is about to run, and where it is written."""
    parts = f"{model_name(cfg)} on {cfg.data.source}, device={cfg.trainer.device}"
    return f"run folder  {folder.resolve()}: {parts}"


def model_name(cfg: DictConfig) -> str:
    """Return what the model is called."""
    return " ".join([cfg.model._target_.rpartition(".")[2], *filter(None, [cfg.model.get("name")])])
