"""Checkpoints that are either whole or not there."""

import os
from pathlib import Path
from typing import Any

import torch


def save(path: Path, content: dict[str, Any], *, previous: Path | None = None) -> None:
    """Write ``content`` to ``path`` so that a kill at any moment leaves the old file or the new one.

    With ``previous`` the old file is kept under that name; a kill may then leave the old file there only.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
