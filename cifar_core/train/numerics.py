"""Where and in which number format a network runs."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cifar_core.train.settings import TrainerSettings

AMPERE = (8, 0)  # the first GPUs with matrix units for bf16 and TF32
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Numerics:
    """A device, the dtype of autocast (float32 = none) and the memory format."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    deterministic: bool = False  # no operation whose result depends on the order of a GPU's threads

    def autocast(self) -> AbstractContextManager:
        """Return the context the forward pass runs in."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if enabled else None, enabled=enabled)

    def place(self, model: nn.Module) -> nn.Module:
        """Move ``model`` to the device and into the memory format, in place."""
        return model.to(self.device).to(memory_format=self.memory_format)

    def lay_out(self, images: Tensor) -> Tensor:
        """Return ``images`` (N, C, H, W) in the memory format."""
        return images.contiguous(memory_format=self.memory_format)

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of weights and activations."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        """Describe it in one line for the log."""
        name = _name(self.device)
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        dtype = next(name for name, dtype in DTYPES.items() if dtype == self.dtype)
        layout = "channels_last" if self.channels_last else "channels_first"
        return ", ".join([f"{self.device} ({name}{threads})", dtype, layout, *self._extras()])

    def _extras(self) -> list[str]:
        """Return what `set_up` has switched on for it."""
        if self.device.type == "cpu":
            return ["deterministic, as always on a CPU"] if self.deterministic else []
        if self.device.type == "mps":
            return []
        tf32 = ["TF32"] if torch.cuda.get_device_capability(self.device) >= AMPERE else []
        order = "deterministic" if self.deterministic else "cudnn.benchmark"
        return [*tf32, order, "fused or foreach optimizer"]


def numerics(settings: TrainerSettings) -> Numerics:
    """Choose device and dtype: what ``settings`` name, and for `auto` what the hardware does well.

    Raises ValueError where the named device is not there, or cannot do what is asked of it.
    """
    device = _device(settings.device)
    if device.type == "mps" and settings.deterministic:
        raise ValueError(
            "trainer.deterministic must be false on mps, which promises no order of its sums, got true; "
            "trainer.device=cpu repeats to the bit"
        )
    dtype = _fast_dtype(device) if settings.precision == "auto" else DTYPES[settings.precision]
    # On mps norms fail on channels_last: https://github.com/pytorch/pytorch/pull/188371
    channels_last = settings.channels_last and device.type != "mps"
    return Numerics(device, dtype, channels_last, settings.deterministic)


def set_up(settings: TrainerSettings) -> Numerics:
    """Return `numerics` after setting up torch for them, for the whole process.

    That is the thread count, TF32 where a GPU multiplies float32, the current GPU, and how it chooses its
    algorithms: by trying them (cudnn.benchmark) or, with ``deterministic``, those that repeat to the bit.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision("high")  # of products; convolutions use TF32 by themselves
    chosen = numerics(settings)
    on_gpu = chosen.device.type == "cuda"
    if on_gpu and settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    deterministic = on_gpu and settings.deterministic
    if deterministic != torch.are_deterministic_algorithms_enabled():  # to set it imports torch's compiler
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = on_gpu and not settings.deterministic
    if chosen.device.index is not None:
        torch.cuda.set_device(chosen.device)
    return chosen


def indeterminate(error: BaseException) -> str:
    """Return the operation that, as ``error`` says, has no deterministic form; "" for any other error."""
    name, says_so, _ = str(error).partition(" does not have a deterministic implementation")
    return name if says_so else ""


def _name(device: torch.device) -> str:
    if device.type == "mps":
        return torch.backends.mps.get_name()
    return "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)


def _device(name: str) -> torch.device:
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    if name == "mps" and not has_mps:
        raise ValueError(
            f"trainer.device must be a device of this machine, got {name!r}; "
            f"torch {torch.__version__} sees no GPU of a Mac"
        )
    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():  # torch takes cuda:256 for cuda:0
        raise ValueError(
            f"trainer.device must be a device of this machine, got {name!r}; "
            f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
        )
    return torch.device(name)


def _fast_dtype(device: torch.device) -> torch.dtype:
    if device.type == "mps":
        return torch.float32
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= AMPERE:
            return torch.bfloat16
        return torch.float16 if capability >= (7, 0) else torch.float32
    # Where only emulated, bf16 is slower than fp32 on a CPU.
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
