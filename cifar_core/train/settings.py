"""How the loop runs."""

from dataclasses import dataclass
from typing import Any

from cifar_core.laws import law, one_of


@dataclass
class TrainerSettings:
    """How the loop runs: length, batch, numerics, protocol."""

    epochs: int = 100
    batch_size: int = 128  # pictures per forward pass
    eval_batch_size: int = 1000
    accumulate: int = 1  # forward passes per optimizer step
    label_smoothing: float = 0.0
    alternating_flip: bool = False  # mirror every picture in every second epoch, half of them in the odd ones
    grad_clip: float = 0.0  # largest gradient norm; 0 = no clipping
    ema_decay: float = 0.0  # per optimizer step; 0 = no average of the weights
    early_stop: int = 0  # epochs without a better val/acc; 0 = never
    test: bool = True  # read the test set once, at the end
    evaluate: str = "each_epoch"  # each_epoch, or end: without a validation split the test set is read once
    tta: str = "none"  # views averaged for a second, extra figure at the end: none, mirror, multicrop
    device: str = "auto"  # auto, cpu, mps, cuda, cuda:N
    precision: str = "auto"  # auto, fp32, bf16, fp16
    channels_last: bool = True
    compile: Any = False  # true: torch.compile of steps and evaluations; graphs: CUDA graphs of them
    deterministic: bool = False  # on a GPU only operations that repeat to the bit, which is slower
    threads: int = 0  # CPU threads; 0 = torch's choice
    checkpoint_seconds: float = 60  # last.pt and best.pt are written at most this often, and at the end
    keep: str = "best"  # checkpoints that stay after a finished run: all, best, none
    guards: str = "stop"  # what a check that finds the training broken does: stop, warn, off
    progress: bool = True  # progress bar on a terminal

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
        lawful = isinstance(self.compile, bool) or self.compile == "graphs"
        law(lawful, "trainer.compile", "true, false or graphs", self.compile)
        if self.compile == "graphs":  # each replay writes its gradients over the last one's
            law(self.accumulate == 1, "trainer.accumulate", "1 with trainer.compile=graphs", self.accumulate)
        device, _, number = self.device.partition(":")
        numbered = device == "cuda" and number.isdecimal() and number == str(int(number))
        known = numbered or self.device in ("auto", "cpu", "mps", "cuda")
        law(known, "trainer.device", "auto, cpu, mps, cuda or cuda:N", self.device)


def check_batch(settings: TrainerSettings, images: int) -> None:
    """Raise ValueError, with words to paste, unless ``images`` to train on fill the batches of one step."""
    batch, accumulate = settings.batch_size, settings.accumulate
    if batch * accumulate <= images:
        return
    law, got = "trainer.batch_size", f"{batch}"
    if accumulate > 1:
        law, got = f"{law} * trainer.accumulate", f"{batch} * {accumulate}"
    words = [] if accumulate <= images else ["trainer.accumulate=1"]
    fitting = images if words else images // accumulate
    words.insert(0, f"trainer.batch_size={1 << (fitting.bit_length() - 1)}")
    raise ValueError(f"{law} must be at most the {images:,} training pictures, got {got}: {' '.join(words)}")
