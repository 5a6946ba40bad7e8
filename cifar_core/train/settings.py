"""How the loop runs."""

from dataclasses import dataclass

from cifar_core.laws import law, one_of


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
            law(getattr(self, key) >= 1, f"trainer.{key}", "at least 1", getattr(self, key))
        for key in ("grad_clip", "early_stop", "threads", "checkpoint_seconds"):
            law(getattr(self, key) >= 0, f"trainer.{key}", "at least 0", getattr(self, key))
        for key in ("label_smoothing", "ema_decay"):
            law(0 <= getattr(self, key) < 1, f"trainer.{key}", "in [0, 1)", getattr(self, key))
        one_of("trainer.evaluate", ("each_epoch", "end"), self.evaluate)
        one_of("trainer.tta", ("none", "mirror", "multicrop"), self.tta)
        one_of("trainer.precision", ("auto", "fp32", "bf16", "fp16"), self.precision)
        one_of("trainer.keep", ("all", "best", "none"), self.keep)
        one_of("trainer.guards", ("stop", "warn", "off"), self.guards)
        device, _, number = self.device.partition(":")
        known = self.device in ("auto", "cpu", "cuda") or (device == "cuda" and number.isdigit())
        law(known, "trainer.device", "auto, cpu, cuda or cuda:N", self.device)
