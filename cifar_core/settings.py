"""Typed settings of the groups whose options differ by values; `conf/` alone holds the values."""

from dataclasses import dataclass
from typing import Any

SOURCES = ("cifar10", "cifar100", "folder", "digits")


def _law(holds: bool, key: str, law: str, got: Any) -> None:
    if not holds:
        raise ValueError(f"{key} must be {law}, got {got!r}")


def _one_of(key: str, choices: tuple[str, ...], got: str) -> None:
    _law(got in choices, key, "one of " + ", ".join(choices), got)


def _share_or_count(key: str, got: float) -> None:
    whole = float(got).is_integer()
    _law(got >= 0 and (got < 1 or whole), key, "0, a share below 1, or a whole number of pictures", got)


@dataclass
class DataSettings:
    """Which pictures, how they are split and how they are normalised."""

    source: str  # one of SOURCES
    root: str  # folder of the archive (cifar10, cifar100) or of train/ and test/ (folder)
    cache: str  # folder for decoded pictures
    download: bool  # fetch what is missing from the network
    image_size: int  # pixels a side; other sizes are resized once
    mean: list[float]  # per channel, 0-255
    std: list[float]  # per channel, 0-255
    val_size: float  # split off the training set; below 1 a share, else a number of pictures; 0 = none
    test_size: float  # the same, for sources that come without a test set
    split_seed: int  # the splits' own seed, apart from the run's

    def __post_init__(self) -> None:
        _one_of("data.source", SOURCES, self.source)
        _law(bool(self.root), "data.root", "a folder", self.root)
        _law(bool(self.cache), "data.cache", "a folder", self.cache)
        _law(self.image_size >= 8, "data.image_size", "at least 8", self.image_size)
        for key, values in (("data.mean", self.mean), ("data.std", self.std)):
            _law(len(values) == 3, key, "three numbers, one a channel", list(values))
            _law(all(0 <= v <= 255 for v in values), key, "between 0 and 255", list(values))
        _law(all(v > 0 for v in self.std), "data.std", "above 0", list(self.std))
        _share_or_count("data.val_size", self.val_size)
        _share_or_count("data.test_size", self.test_size)
        _law(self.split_seed >= 0, "data.split_seed", "at least 0", self.split_seed)


@dataclass
class TrainerSettings:
    """How the loop runs: length, batch, numerics, protocol."""

    epochs: int
    batch_size: int  # pictures per forward pass
    eval_batch_size: int
    accumulate: int  # forward passes per optimizer step
    label_smoothing: float
    grad_clip: float  # largest gradient norm; 0 = no clipping
    ema_decay: float  # per optimizer step; 0 = no average of the weights
    early_stop: int  # epochs without a better val/acc; 0 = never
    test: bool  # read the test set once, at the end
    device: str  # auto, cpu, cuda, cuda:N
    precision: str  # auto, fp32, bf16, fp16
    channels_last: bool
    compile: bool  # torch.compile; adds nothing on CPU
    threads: int  # CPU threads; 0 = torch's choice
    checkpoint_seconds: float  # last.pt is written at epoch ends, at most this often, and at the end
    keep: str  # checkpoints that stay after a finished run: all, best, none
    progress: bool  # progress bar on a terminal

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "eval_batch_size", "accumulate"):
            _law(getattr(self, key) >= 1, f"trainer.{key}", "at least 1", getattr(self, key))
        for key in ("grad_clip", "early_stop", "threads", "checkpoint_seconds"):
            _law(getattr(self, key) >= 0, f"trainer.{key}", "at least 0", getattr(self, key))
        for key in ("label_smoothing", "ema_decay"):
            _law(0 <= getattr(self, key) < 1, f"trainer.{key}", "in [0, 1)", getattr(self, key))
        _one_of("trainer.precision", ("auto", "fp32", "bf16", "fp16"), self.precision)
        _one_of("trainer.keep", ("all", "best", "none"), self.keep)
        device, _, number = self.device.partition(":")
        known = self.device in ("auto", "cpu", "cuda") or (device == "cuda" and number.isdigit())
        _law(known, "trainer.device", "auto, cpu, cuda or cuda:N", self.device)


@dataclass
class AnalysisSettings:
    """What a finished run explains about itself."""

    level: str  # full, light (no matplotlib), none
    layer: str  # module whose grid the CAM uses; empty = the model's own
    sheet_size: int  # pictures on a contact sheet

    def __post_init__(self) -> None:
        _one_of("analysis.level", ("full", "light", "none"), self.level)
        _law(self.sheet_size >= 1, "analysis.sheet_size", "at least 1", self.sheet_size)
