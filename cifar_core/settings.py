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
    alternating_flip: bool  # mirror every picture in every second epoch, half of them in the odd ones
    grad_clip: float  # largest gradient norm; 0 = no clipping
    ema_decay: float  # per optimizer step; 0 = no average of the weights
    early_stop: int  # epochs without a better val/acc; 0 = never
    test: bool  # read the test set once, at the end
    evaluate: str  # each_epoch, or end: without a validation split the test set is read once
    tta: str  # views averaged for a second, extra figure at the end: none, mirror, multicrop
    device: str  # auto, cpu, cuda, cuda:N
    precision: str  # auto, fp32, bf16, fp16
    channels_last: bool
    compile: bool  # torch.compile; adds nothing on CPU
    threads: int  # CPU threads; 0 = torch's choice
    checkpoint_seconds: float  # last.pt is written at epoch ends, at most this often, and at the end
    keep: str  # checkpoints that stay after a finished run: all, best, none
    guards: str  # what a check that finds the training broken does: stop, warn, off
    progress: bool  # progress bar on a terminal

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "eval_batch_size", "accumulate"):
            _law(getattr(self, key) >= 1, f"trainer.{key}", "at least 1", getattr(self, key))
        for key in ("grad_clip", "early_stop", "threads", "checkpoint_seconds"):
            _law(getattr(self, key) >= 0, f"trainer.{key}", "at least 0", getattr(self, key))
        for key in ("label_smoothing", "ema_decay"):
            _law(0 <= getattr(self, key) < 1, f"trainer.{key}", "in [0, 1)", getattr(self, key))
        _one_of("trainer.evaluate", ("each_epoch", "end"), self.evaluate)
        _one_of("trainer.tta", ("none", "mirror", "multicrop"), self.tta)
        _one_of("trainer.precision", ("auto", "fp32", "bf16", "fp16"), self.precision)
        _one_of("trainer.keep", ("all", "best", "none"), self.keep)
        _one_of("trainer.guards", ("stop", "warn", "off"), self.guards)
        device, _, number = self.device.partition(":")
        known = self.device in ("auto", "cpu", "cuda") or (device == "cuda" and number.isdigit())
        _law(known, "trainer.device", "auto, cpu, cuda or cuda:N", self.device)


@dataclass
class AnalysisSettings:
    """What a finished run explains about itself."""

    level: str  # full, light (no matplotlib), none
    layer: str  # module whose grid the CAM uses; empty = the model's own
    method: str  # gradcam, gradcam++
    sheet_size: int  # pictures on a contact sheet

    def __post_init__(self) -> None:
        _one_of("analysis.level", ("full", "light", "none"), self.level)
        _one_of("analysis.method", ("gradcam", "gradcam++"), self.method)
        _law(self.sheet_size >= 1, "analysis.sheet_size", "at least 1", self.sheet_size)


@dataclass
class SlurmSettings:
    """What a trial asks of Slurm; an empty text or 0 leaves it to the cluster's default."""

    partition: str
    account: str
    qos: str
    gpus: int  # per trial
    cpus: int  # per trial
    mem_gb: float  # per trial
    minutes: int  # time limit of a job; a trial that needs longer is requeued and goes on
    on_interrupt: str  # Ctrl-C of the controller: cancel the jobs, or leave them

    def __post_init__(self) -> None:
        for key in ("gpus", "cpus", "mem_gb"):
            _law(getattr(self, key) >= 0, f"sweep.slurm.{key}", "at least 0", getattr(self, key))
        _law(self.minutes >= 1, "sweep.slurm.minutes", "at least 1", self.minutes)
        _one_of("sweep.slurm.on_interrupt", ("cancel", "leave"), self.on_interrupt)


@dataclass
class SweepSettings:
    """How a sweep chooses its points and runs its trials; a single run reads none of it but the name."""

    name: str  # folder and tag; empty = made from the space and the fixed overrides
    sampler: str  # auto, grid, random, tpe, cmaes, qmc
    sampler_seed: int
    n_trials: int  # points of a search; a grid runs them all
    add_trials: int  # further points for a search that is there already
    zip: list[str]  # swept keys whose lists go together, first with first
    pruner: str  # none, median, asha, hyperband
    prune_after: int  # epochs in which no point is pruned
    test: str  # who reads the test set: auto, best, all, none
    refit: bool  # train the winner again on train + val and test that
    backend: str  # local, slurm
    slots: str  # trials at a time: auto or a number
    slots_per_gpu: int
    threads: int  # CPU threads of a trial for slots=auto without a GPU
    timeout: float  # seconds a trial may take; 0 = any
    on_fail: str  # continue, stop
    max_failures: int  # stop after so many failed trials; 0 = never
    retries: int  # further attempts after a kill or out-of-memory
    slurm: SlurmSettings

    def __post_init__(self) -> None:
        _one_of("sweep.sampler", ("auto", "grid", "random", "tpe", "cmaes", "qmc"), self.sampler)
        _one_of("sweep.pruner", ("none", "median", "asha", "hyperband"), self.pruner)
        _one_of("sweep.test", ("auto", "best", "all", "none"), self.test)
        _one_of("sweep.backend", ("local", "slurm"), self.backend)
        _one_of("sweep.on_fail", ("continue", "stop"), self.on_fail)
        for key in ("n_trials", "prune_after", "slots_per_gpu", "threads"):
            _law(getattr(self, key) >= 1, f"sweep.{key}", "at least 1", getattr(self, key))
        for key in ("sampler_seed", "add_trials", "timeout", "max_failures", "retries"):
            _law(getattr(self, key) >= 0, f"sweep.{key}", "at least 0", getattr(self, key))
        number = self.slots.isdigit() and int(self.slots) >= 1
        _law(self.slots == "auto" or number, "sweep.slots", "auto or a number from 1", self.slots)
        _law(
            len(set(self.zip)) == len(self.zip) != 1, "sweep.zip", "two or more keys, or none", list(self.zip)
        )
        plain_name = all(c.isalnum() or c in "._-" for c in self.name) and not self.name.startswith(".")
        _law(plain_name, "sweep.name", "letters, digits, '.', '_' and '-', not starting with '.'", self.name)
