"""Checkpoints that are either whole or not there."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar_core.files import whole


def save(path: Path, content: dict[str, Any], *, previous: Path | None = None) -> None:
    """Write ``content`` to ``path`` so that a kill at any moment leaves the old file or the new one.

    With ``previous`` the old file is kept under that name; a kill may then leave the old file there only.
    """
    with whole(path, previous=previous) as file:
        torch.save(content, file)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint without unpickling code.

    Raises OSError naming ``path`` where the file is truncated or holds something else.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises a dozen kinds, by what the broken file looks like
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OSError(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise OSError(f"{path} is not a checkpoint of this project: it holds a {type(content).__name__}")
    return content


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
    """Return the weights in what was read from ``path``; where it keeps a moving average, that one.

    Raises OSError for something else than a checkpoint of this project or a state dict.
    """
    state = content.get("state", content)
    weights = state.get("ema", state.get("model", state)) if isinstance(state, dict) else None
    if isinstance(weights, dict) and all(isinstance(name, str) for name in weights):
        weights = {name: value for name, value in weights.items() if name != "n_averaged"}
        if all(name.startswith("module.") for name in weights):  # of AveragedModel, or DataParallel
            weights = {name.removeprefix("module."): value for name, value in weights.items()}
        if weights and all(isinstance(value, Tensor) for value in weights.values()):
            return weights
    raise OSError(f"{path} holds no weights: neither a checkpoint of this project nor a state dict")


def start_from(model: nn.Module, weights: dict[str, Tensor], *, new_head: bool) -> str:
    """Copy ``weights`` into ``model``; return the name of its head where that was left out, else "".

    The head is the last linear layer; with ``new_head`` it may differ, in the number of classes alone, and
    keeps its fresh weights. Raises ValueError naming the first tensor that does not fit.
    """
    own = model.state_dict()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    head = linear[-1] if linear and new_head else ""
    wrong = [name for name in own | weights if _shape(own.get(name)) != _shape(weights.get(name))]
    if not all(name in _of_head(own, weights, head) for name in wrong):
        raise ValueError(
            f"the weights are those of another model: {len(wrong)} tensors do not fit, the first: "
            f"{wrong[0]} is {_shape(weights.get(wrong[0]))}, needed {_shape(own.get(wrong[0]))}"
        )
    model.load_state_dict(own | {name: value for name, value in weights.items() if name not in wrong})
    return head if wrong else ""


def _of_head(own: dict[str, Tensor], weights: dict[str, Tensor], head: str) -> list[str]:
    """Return the head's tensors that differ in their first axis, the classes, at most."""
    names = [f"{head}.weight", f"{head}.bias"]
    shared = [name for name in names if name in own and name in weights]
    return [name for name in shared if own[name].shape[1:] == weights[name].shape[1:]]


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else str(tuple(tensor.shape))
