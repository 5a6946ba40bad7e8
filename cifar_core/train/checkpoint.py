"""Checkpoints that are either whole or not there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cifar_core.files import FORMAT, check_format, whole

# What a checkpoint calls its weights, in the order in which they are taken; "state" is ours.
HOLDERS = (
    *("state", "ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict"),  # moving averages first
    *("model", "state_dict", "model_state_dict", "model_state", "net", "network", "weights", "params"),
)
COUNTS = ("n_averaged", "total_ops", "total_params", "_extra_state")  # of wrappers and profilers, no weights


def save(path: Path, content: dict[str, Any], *, previous: Path | None = None) -> None:
    """Write ``content`` to ``path`` so that a kill at any moment leaves the old file or the new one.

    With ``previous`` the old file is kept under that name; a kill may then leave the old file there only.
    """
    with whole(path, previous=previous) as file:
        torch.save({"format": FORMAT, **content}, file)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint, or a safetensors file, without unpickling code; NumPy's numbers become Python's.

    Raises OSError naming ``path`` where the file is truncated or holds something else, ValueError where it is
    of a later format.
    """
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path, device)
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location=device, weights_only=True)
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:  # torch raises a dozen kinds, by what the broken file looks like
        raise OSError(f"{path} is not a readable checkpoint: {_reason(error, path)}") from error
    if not isinstance(content, dict):
        raise OSError(f"{path} is not a checkpoint of this project: it holds a {type(content).__name__}")
    check_format(path, content.pop("format", 0))
    return content


def _safetensors(path: Path, device: torch.device | str) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"{path} needs the safetensors library: pip install safetensors") from error
    return load_file(path, device=str(device))


def _reason(error: Exception, path: Path) -> str:
    """Return in one line why torch did not read a file."""
    with path.open("rb") as file:
        head = file.read(200).lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, in place of the weights: git lfs pull"
    if head.startswith((b"<!doctype", b"<html")):
        return "it is a web page, in place of the weights: download them again"
    if not head:
        return "it is empty"
    text = str(error)
    if code := re.search(r"GLOBAL (\S+)", text):
        return (
            f"it holds {code[1]}, code that would run on being read; have its owner save the weights alone: "
            "torch.save(model.state_dict(), path)"
        )
    if "TorchScript" in text:
        return "it is a TorchScript archive; save the weights alone: torch.save(model.state_dict(), path)"
    text = text.rpartition("WeightsUnpickler error: ")[2]  # before that torch advises to run the code
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Kind:
    """Stands in for numpy.dtype, whose own unpickling can be made to read any memory."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = (
            code if code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1") else ""
        )

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.code = f"{'>' if state[1] == '>' else '<'}{self.code}"


def _number(kind: _Kind, data: bytes) -> float | int | bool:
    """Stand in for the function that makes NumPy's numbers, such as the accuracy in many a checkpoint."""
    return np.frombuffer(data, kind.code)[0].item()


class _Beside:
    """Stands in for what training scripts keep beside the weights, as arguments and paths; reads nothing."""

    def __new__(cls, *_: object) -> "_Beside":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


BESIDE = (
    *("argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta"),
    *(f"pathlib{inner}.{kind}Path" for inner in ("", "._local") for kind in ("", "Posix", "Windows")),
)
HARMLESS: list[Any] = [
    *((_Beside, name) for name in BESIDE),
    (_Kind, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


def model_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights in a run folder (its best ones, else its last), a checkpoint or a plain state dict.

    Raises FileNotFoundError or OSError naming ``path``.
    """
    if path.is_dir():
        files = [file for name in ("best", "last") if (file := path / f"{name}.pt").exists()]
        if not files:
            raise FileNotFoundError(f"{path} holds no best.pt and no last.pt")
        path = files[0]
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    return weights_in(load(path), path)


def weights_in(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the weights in what was read from ``path``: those under the first of the names in HOLDERS.

    So where it keeps a moving average, that one. Raises OSError, which says what is there, for something else
    than a checkpoint or a state dict.
    """
    weights = _state_dict(content)
    if weights is None:
        there = ", ".join(f"{name} ({type(value).__name__})" for name, value in [*content.items()][:5])
        raise OSError(
            f"{path} holds no weights: neither a checkpoint of this project nor a state dict, alone or as "
            f"{', '.join(HOLDERS[1:])}; it has {there or 'nothing'}"
        )
    if all(name.startswith("module.") for name in weights):  # of AveragedModel, or DataParallel
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def _state_dict(content: Any, depth: int = 4) -> dict[str, Tensor] | None:
    """Return ``content`` if all of it is named tensors, else the first state dict that it holds."""
    if not isinstance(content, dict) or not depth:
        return None
    named = {
        name.replace("_orig_mod.", ""): value  # of torch.compile, at any level
        for name, value in content.items()
        if isinstance(name, str) and name.rpartition(".")[2] not in COUNTS
    }
    words = all(isinstance(name, str) for name in content)
    if (
        named
        and words
        and HOLDERS[0] not in named
        and all(isinstance(value, Tensor) for value in named.values())
    ):
        return named
    return next((found for key in HOLDERS if (found := _state_dict(content.get(key), depth - 1))), None)


def start_from(model: nn.Module, weights: dict[str, Tensor], *, new_head: bool) -> str:
    """Copy ``weights`` into ``model``; return the name of its head where that was left out, else "".

    Names may have a prefix, as a wrapper gives it: the one with which most of them fit, the first of equals.
    The head is the last linear layer; with ``new_head`` it may differ, in the number of classes alone, and
    keeps its fresh weights. Raises ValueError naming the first tensor that does not fit, and the names.
    """
    own = model.state_dict()
    weights = _unwrapped(own, weights)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    head = linear[-1] if linear and new_head else ""
    uncounted = {name for name in own.keys() - weights.keys() if name.endswith("num_batches_tracked")}
    wrong = [name for name in own | weights if _shape(own.get(name)) != _shape(weights.get(name))]
    wrong = [name for name in wrong if name not in uncounted]  # which torch before 0.4.1 did not save
    if not all(name in _of_head(own, weights, head) for name in wrong):
        raise ValueError(_misfit(own, weights, wrong))
    model.load_state_dict(own | {name: value for name, value in weights.items() if name not in wrong})
    return head if wrong else ""


def _unwrapped(own: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ``weights`` without the prefix, with those under it alone where it makes more names fit."""
    if own.keys() == weights.keys():
        return weights
    ends = tuple(f".{name}" for name in list(own)[:5])
    prefixes = [""] + [name[: -len(end) + 1] for name in weights for end in ends if name.endswith(end)]
    prefix = max(
        dict.fromkeys(prefixes), key=lambda prefix: sum(f"{prefix}{name}" in weights for name in own)
    )
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _misfit(own: dict[str, Tensor], weights: dict[str, Tensor], wrong: list[str]) -> str:
    line = (
        f"the weights are those of another model: {len(wrong)} tensors do not fit, the first: "
        f"{wrong[0]} is {_shape(weights.get(wrong[0]))}, needed {_shape(own.get(wrong[0]))}"
    )
    for has, lacks, names in (
        ("file", "model", weights.keys() - own),
        ("model", "file", own.keys() - weights),
    ):
        if names:
            order = [name for name in (weights if has == "file" else own) if name in names]
            line += f"; the {has} has {len(order)} that the {lacks} lacks: {', '.join(order[:3])}"
            line += ", ..." if len(order) > 3 else ""
    return line


def _of_head(own: dict[str, Tensor], weights: dict[str, Tensor], head: str) -> list[str]:
    """Return the head's tensors that differ in their first axis, the classes, at most."""
    names = [f"{head}.weight", f"{head}.bias"]
    shared = [name for name in names if name in own and name in weights]
    return [name for name in shared if own[name].shape[1:] == weights[name].shape[1:]]


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else str(tuple(tensor.shape))
