"""A Mac's GPU where there is none: `tests/pretend_cuda.py` with the name and the laws of torch's mps device.

    with pretend_mps():
        torch.zeros(3, device="mps")

What torch refuses there raises here: float64, operations without a kernel for it (as torch's own table of
operations says, which its package has), and all that is CUDA's alone. So does what is known to give wrong
numbers or to crash: a copy up that nobody waits for, convolutions and norms in channels_last. It is no Mac:
Metal's arithmetic, its memory and its speed stay unseen.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from tests import pretend_cuda as pretended

TABLE = "packaged/ATen/native/native_functions.yaml"  # of torchgen, which comes with torch
EVERYWHERE = re.compile(
    r"\b(MPS|Composite(Implicit|Explicit)Autograd(NonFunctional)?)\b"
)  # keys of a kernel for it
WIDE = (torch.float64, torch.complex128)
ANSWERS = {"is_available": False, "is_initialized": False, "device_count": 0}
REFUSED = {  # of torch.cuda
    *("set_device", "get_device_name", "get_device_capability", "get_device_properties", "synchronize"),
    *("is_bf16_supported", "max_memory_allocated", "reset_peak_memory_stats"),
}


@cache
def _lacking() -> frozenset[str]:
    """Return the operations, as name.overload, that torch's table gives no kernel for mps."""
    spec = find_spec("torchgen")
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent / TABLE).read_text(encoding="utf-8")
    entries = {re.split(r"[( ]", entry, maxsplit=1)[0]: entry for entry in text.split("\n- func: ")[1:]}
    lacking = set()
    for name, entry in entries.items():
        delegate = re.search(r"^  structured_delegate: (\S+)", entry, re.MULTILINE)
        kernels = entries[delegate[1]] if delegate else entry
        dispatch = re.search(r"^  dispatch:\n((?:    .*\n?)+)", kernels, re.MULTILINE)
        if dispatch and not EVERYWHERE.search(dispatch[1]):
            lacking.add(name)
    return frozenset(lacking)


def _check_kernel(func: Any) -> None:
    """Raise for an operation that mps lacks; C++ chose those for a CPU, as it sees one."""
    name = func.name().partition("::")[2]
    if not name.endswith("_for_cpu") and name in _lacking():
        raise NotImplementedError(
            f"The operator 'aten::{name}' is not currently implemented for the MPS device"
        )


def _put(result: Any) -> Any:
    if isinstance(result, torch.Tensor) and result.dtype in WIDE:
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it"
        )
    return PUT(result)


def _upload(source: torch.Tensor, *, non_blocking: bool, dtype: torch.dtype | None = None) -> None:
    if non_blocking:
        raise RuntimeError("the source of a copy that nobody waits for may be gone before it is read")
    UPLOAD(source, non_blocking=non_blocking, dtype=dtype)


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError(f"{name}, which is CUDA's alone, was called on a machine without CUDA")

    return refuse


PUT, UPLOAD = pretended._put, pretended._note_upload


def skipped() -> None:
    """Skip the test where torch lacks its table of operations."""
    if find_spec("torchgen") is None:
        pytest.skip("torch without its table of operations")


@contextmanager
def pretend_mps() -> Iterator[pretended.Seen]:
    """Let torch have one GPU, mps:0, and note what happens on it."""
    skipped()
    laws = {
        "GPU": torch.device("mps", 0),
        "_put": _put,
        "_note_upload": _upload,
        "_pin": _refusing("pin_memory"),
    }
    with ExitStack() as stack:
        for name, law in (laws | {"_check_kernel": _check_kernel}).items():
            stack.enter_context(mock.patch.object(pretended, name, law))
        seen = stack.enter_context(pretended.pretend_cuda())
        for name, answer in ANSWERS.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda answer=answer: answer))
        for name in REFUSED:
            stack.enter_context(mock.patch.object(torch.cuda, name, _refusing(name)))
        stack.enter_context(mock.patch.object(torch.backends.mps, "is_available", cache(lambda: True)))
        stack.enter_context(mock.patch.object(torch.backends.mps, "get_name", cache(lambda: "pretended Mac")))
        yield seen
