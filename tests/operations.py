"""Counts what a device would be told to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Counting(TorchDispatchMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_tensors = any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((args, kwargs)))
        name = func._schema.name.removeprefix("aten::")
        if on_tensors and not func.is_view and name not in ("detach", "alias"):
            self.seen.append(name)
        return func(*args, **kwargs)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Note each operation on tensors that is no view; one on a list of tensors (foreach) counts once."""
    seen: list[str] = []
    with _Counting(seen):
        yield seen
