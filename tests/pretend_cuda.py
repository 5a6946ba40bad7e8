"""A GPU where there is none: tensors that say cuda:0, whose arithmetic is the CPU's.

    with pretend_cuda() as seen:
        tensor = torch.zeros(3, device="cuda")
        tensor.sum().item()
    seen.waits  # ["item  <file>:<line>"]

Operations that mix devices raise as CUDA's do. Copies up, moments at which the host waits for the device and
kernels are noted; a kernel is an operation with a tensor of the device that is no view, so one of foreach's
counts as one. It is no GPU: C++ takes a CPU's way below Python, nothing is asynchronous, so that a value read
too early, a lack of memory, cuDNN's and cuBLAS's own laws and all speed stay unseen.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
OUTSIDE = (__file__, str(Path(torch.__file__).parents[1]))  # lines here and in packages tell nothing

# Beside functions of torch.cuda, what the installed torch must have; without, tests that pretend are skipped.
DISABLED = "torch:_C._disabled_torch_function_impl"
GROUPED = "torch:_C._group_tensors_by_device_and_dtype"
ONE_HOT = "torch:_C._nn.one_hot"
HOOKS = (
    *(DISABLED, GROUPED, ONE_HOT, "torch:_C._DisableTorchDispatch", "torch:_C._nn._parse_to"),
    "torch:_C._dispatch_has_computed_kernel_for_dispatch_key",
    "torch.accelerator:current_stream",
    "torch.optim.optimizer:_foreach_supported_types",
    "torch.utils._foreach_utils:_foreach_supported_types",
)

# After these the host knows something that lay on the device.
READS = {
    *("_local_scalar_dense", "equal", "allclose", "nonzero", "masked_select", "bincount", "histc"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
    *("_linalg_eigh", "_linalg_svd", "_linalg_check_errors"),
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
NO_KERNEL = {  # beside views: what touches no element, or is noted as a copy
    *("_local_scalar_dense", "detach", "alias", "lift_fresh", "set_", "resize_", "resize_as_"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "is_pinned"),
}


@dataclass
class Seen:
    """What happened on the device since the start, or since `clear`; each with its line of code."""

    waits: list[str] = field(default_factory=list)
    uploads: list[tuple[str, int]] = field(default_factory=list)  # (line, bytes)
    kernels: list[str] = field(default_factory=list)  # names of the operations

    def clear(self) -> None:
        """Forget all."""
        for events in (self.waits, self.uploads, self.kernels):
            events.clear()


def _found(hook: str) -> Any:
    """Return a hook, None where the installed torch lacks it."""
    try:
        return resolve_name(hook)
    except (AttributeError, ImportError):
        return None


_seen = Seen()
_pinned: dict[int, torch.Tensor] = {}  # by address; kept alive, as it may be given out again


def _line() -> str:
    """Return the innermost line that is neither in this file nor in a package."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(OUTSIDE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _wait(why: str) -> None:
    _seen.waits.append(f"{why}  {_line()}")


def _is_pinned(tensor: torch.Tensor) -> bool:
    return tensor.untyped_storage().data_ptr() in _pinned


class OnDevice(torch.Tensor):
    """A tensor of the pretended device: to C++ one of the CPU, so that Python must tell what it is."""

    __torch_function__ = _found(DISABLED)
    device = property(lambda self: GPU)
    is_cuda = property(lambda self: GPU.type == "cuda")
    is_cpu = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def cpu(self) -> torch.Tensor:
        return self.to("cpu")

    def to(self, *args: Any, copy: bool = False, **kwargs: Any) -> torch.Tensor:
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        with torch._C.DisableTorchFunction():
            device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None and device.type == "cpu":  # where C++ finds it already
            _wait("copy down")
            return _Down.apply(self).to(dtype or self.dtype)
        layouts = {} if layout is None else {"memory_format": layout}
        return torch.Tensor.to(self, dtype or self.dtype, copy=copy, **layouts)

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __repr__(self, **_: Any) -> str:
        return f"{self.detach().cpu()!r} on {GPU}"

    def __format__(self, form: str) -> str:
        return format(self.detach().cpu(), form)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnDevice":
        twin = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            twin._is_param = True
        memo[id(self)] = twin
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)


class _Down(torch.autograd.Function):
    """The copy to the CPU, with a gradient that goes back up."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        with torch._C._DisableTorchDispatch():
            return torch.Tensor._make_subclass(torch.Tensor, tensor).clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.to(GPU)


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Do an operation on the CPU, with CUDA's laws; its results are on the device where CUDA's would be."""
    name = _name(func)
    there: list[torch.Tensor] = []
    here: list[torch.Tensor] = []
    for value in (*args, *kwargs.values()):
        for leaf in value if isinstance(value, list | tuple) else (value,):
            if isinstance(leaf, torch.Tensor):
                (there if isinstance(leaf, OnDevice) else here).append(leaf)
    made_there = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == GPU.type
    if made_there:
        kwargs = kwargs | {"device": CPU}
    down = name == "copy_" and bool(there) and not isinstance(args[0], OnDevice)
    if name == "_pin_memory" or kwargs.get("pin_memory"):
        return _pin(func, name, args, kwargs)
    if name == "is_pinned":
        return bool(here) and _is_pinned(here[0])
    up = name == "_to_copy" and made_there and here or name == "copy_" and there and here and not down
    if up:
        non_blocking = bool(kwargs.get("non_blocking") or name == "copy_" and args[2:3] == (True,))
        _note_upload(here[0], non_blocking=non_blocking, dtype=kwargs.get("dtype"))
    elif down:
        _wait("copy down")
    elif there and here:
        _check_devices(func, name, args, here)
    if there:
        _note_reads(name, args, kwargs)
    on_device = made_there or bool(there) and not down
    if on_device and not up and not func.is_view and name not in NO_KERNEL:
        _check_kernel(func)
        _seen.kernels.append(name)
    with torch._C._DisableTorchDispatch():
        out = func(*args, **kwargs)
        return _put(out) if on_device else out


def _put(result: Any) -> Any:
    """Let a result be on the device; one written in place is there already."""
    if isinstance(result, list | tuple):
        return type(result)(map(_put, result))
    if not isinstance(result, torch.Tensor) or isinstance(result, OnDevice):
        return result
    return torch.Tensor._make_subclass(OnDevice, result)


def _pin(func: Any, name: str, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    if any(isinstance(arg, OnDevice) for arg in args):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    pinned = args[0].clone() if name == "_pin_memory" else func(*args, **kwargs | {"pin_memory": False})
    _pinned[pinned.untyped_storage().data_ptr()] = pinned
    return pinned


def _note_upload(source: torch.Tensor, *, non_blocking: bool, dtype: torch.dtype | None = None) -> None:
    """Note a copy to the device: the host goes on at once only where torch copies pinned memory as it lies.

    Of pageable memory CUDA's reference says that the driver may wait for the stream to stage it. What has
    gaps, or another order of its axes and dtype than the result, torch lays out anew in pageable memory.
    """
    _seen.uploads.append((_line(), source.numel() * source.element_size()))
    as_it_lies = source.is_contiguous() or dtype in (None, source.dtype) and _is_dense(source)
    if not non_blocking:
        _wait("blocking copy up")
    elif not (_is_pinned(source) and as_it_lies):
        _wait("pageable copy up")


def _is_dense(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor fills its memory without gaps, in whatever order of its axes."""
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.permute(order).is_contiguous()


def _check_devices(func: Any, name: str, args: tuple, here: list[torch.Tensor]) -> None:
    """Raise where an operation has tensors of both devices that torch neither moves nor takes as numbers."""
    if name in INDEXING and isinstance(args[0], OnDevice):
        moved = [tensor for tensor in here if not tensor.is_floating_point() or tensor.ndim == 0]
        masked_number = any(map(_is_mask, args[1])) and _is_number(args[2:3])
        for tensor in moved if not masked_number else []:
            _note_upload(tensor, non_blocking=False)
        here = [tensor for tensor in here if not any(tensor is one for one in moved)]
    numbers = torch.Tag.pointwise in func.tags or name.startswith(("_foreach_", "fill_", "masked_fill"))
    if any(tensor.ndim or not numbers for tensor in here):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cpu and cuda:0, "
            f"in {func}"
        )


def _note_reads(name: str, args: tuple, kwargs: dict[str, Any]) -> None:
    if name in READS or name == "repeat_interleave" and kwargs.get("output_size") is None:
        _wait({"_local_scalar_dense": "item"}.get(name, name))
    elif name in INDEXING and any(map(_is_mask, args[1])) and not _is_number(args[2:3]):
        _wait("index by a mask")  # to count; one number is written without


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def _is_number(values: tuple) -> bool:
    """Tell whether what is written, none or one tensor, is a number of the host's."""
    return any(not isinstance(value, OnDevice) and value.numel() == 1 for value in values)


@cache
def _name(func: Any) -> str:
    """Return an operation's name without namespace and overload."""
    return func._schema.name.partition("::")[2]


@cache
def _check_kernel(func: Any) -> None:
    """Raise for an operation that CUDA lacks; a torch built without CUDA cannot tell."""
    name = func.name()
    known = torch.version.cuda is None or name.endswith("_for_cpu")  # which C++ chose, as it sees a CPU
    if not known and not torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CUDA"):
        raise NotImplementedError(f"Could not run '{name}' with arguments from the 'CUDA' backend")


class _Operations(TorchDispatchMode):
    """Sees operations without a tensor of the device among their arguments, such as those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Sees calls before C++ does, where C++ would ask a driver or a tensor's own device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **kwargs or {})
        args = tuple(_numbered(value) for value in args)
        kwargs = {name: _numbered(value) for name, value in (kwargs or {}).items()}
        out = INSTEAD.get(func, func)(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None and isinstance(out, torch.Tensor) and generator.device != out.device:
            wanted, found = out.device.type, generator.device.type
            raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}'")
        return out


def _numbered(value: Any) -> Any:
    """Turn cuda into cuda:0; else torch asks the driver which device is current."""
    if isinstance(value, torch.device) and value.type == GPU.type:
        return GPU
    return GPU if isinstance(value, str) and value == GPU.type else value


def _from_python(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return `make`, whose numbers begin in the host's memory wherever the tensor is to be."""

    def from_python(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        made = make(*args, **kwargs)
        return made if device is None else made.to(device)

    return from_python


def _new_tensor(self: torch.Tensor, data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
    return torch.tensor(data, **{"dtype": self.dtype} | kwargs).to(device or self.device)


def _to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Ask a tensor given as the goal for its device in Python."""
    if args and isinstance(args[0], torch.Tensor):
        return self.to(args[0].device, args[0].dtype, *args[1:], **kwargs)
    return torch.Tensor.to(self, *args, **kwargs)


def _one_hot(labels: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """On a CPU C++ reads the labels to check them; on CUDA only where it must count the classes."""
    if not isinstance(labels, OnDevice):
        return REAL_ONE_HOT(labels, num_classes)
    classes = num_classes if num_classes >= 0 else int(labels.max()) + 1
    zeros = torch.zeros(*labels.shape, classes, dtype=torch.int64, device=GPU)
    return zeros.scatter_(-1, labels.unsqueeze(-1), 1)


REAL_ONE_HOT = _found(ONE_HOT)
INSTEAD: dict[Any, Callable[..., Any]] = {
    **{make: _from_python(make) for make in (torch.tensor, torch.as_tensor, torch.asarray)},
    torch.Tensor.new_tensor: _new_tensor,
    torch.Tensor.to: _to,
    torch.Tensor.type_as: lambda self, other: self.to(other.device, other.dtype),
    torch.Tensor.cuda: lambda self, *_, **kwargs: self.to(GPU, **kwargs),
    REAL_ONE_HOT: _one_hot,
}


class _DeviceGenerator(torch.Generator):
    """Random numbers of the pretended device."""

    device = property(lambda self: GPU)


class _GeneratorKind(type):
    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        kind = _DeviceGenerator if torch.device(device).type == GPU.type else REAL_GENERATOR
        return kind("cpu")

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, REAL_GENERATOR)


class _Generator(metaclass=_GeneratorKind):
    """Stands for torch.Generator, a class of C++ that would ask for a driver."""


class _Autocast(torch.autocast):
    """Casts by the CPU's lists of operations: C++ sees no other tensors."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu", *args, **kwargs)


REAL_GENERATOR = torch.Generator


def _by_device(lists: Any, with_indices: bool = False) -> Any:
    """Group for foreach with the devices that tensors say in Python."""
    grouped = REAL_GROUPED(lists, with_indices)
    return {(group[0][0][0].device, dtype): group for (_, dtype), group in grouped.items()}


REAL_GROUPED = _found(GROUPED)


def _no_capture(*_: Any) -> SimpleNamespace:
    return SimpleNamespace(is_capturing=lambda: False)


def _synchronize(*_: Any) -> None:
    _wait("synchronize")


# What torch.cuda answers. Its random state is the CPU's, as the pretended device draws from it.
ANSWERS: dict[str, Callable[..., Any]] = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,  # else C++ has it initialized before it makes a tensor
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "get_device_name": lambda device=None: "pretended GPU",
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_properties": lambda device=None: SimpleNamespace(
        name="pretended GPU", major=9, minor=0, total_memory=2**36, multi_processor_count=132, uuid="0"
    ),
    "is_bf16_supported": lambda including_emulation=True: True,
    "is_current_stream_capturing": lambda: False,
    "synchronize": _synchronize,
    "max_memory_allocated": lambda device=None: 0,
    "reset_peak_memory_stats": lambda device=None: None,
    "manual_seed_all": lambda seed: None,
    "get_rng_state": lambda device="cuda": torch.get_rng_state(),
    "set_rng_state": lambda state, device="cuda": torch.set_rng_state(state),
}


def missing() -> list[str]:
    """Return the hooks that the installed torch lacks."""
    return [hook for hook in (*HOOKS, *(f"torch.cuda:{name}" for name in ANSWERS)) if _found(hook) is None]


def _forget_constants() -> None:
    """Empty the caches of the augmentation's functions, which hold tensors of a device."""
    for name, module in list(sys.modules.items()):
        for value in vars(module).values() if name.startswith("cifar_core.augment") else ():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


@contextmanager
def pretend_cuda() -> Iterator[Seen]:
    """Let torch have one GPU, cuda:0, and note what happens on it; skip the test where a hook is missing."""
    if lacking := missing():
        pytest.skip(f"torch {torch.__version__} lacks {', '.join(lacking)}, by which a GPU is pretended")
    patches = [mock.patch.object(torch.cuda, name, answer) for name, answer in ANSWERS.items()]
    patches += [
        # Optimizers ask it whether a graph is being captured.
        mock.patch.object(torch.accelerator, "current_stream", _no_capture),
        mock.patch.object(torch, "Generator", _Generator),
        mock.patch.object(torch, "autocast", _Autocast),
        mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", _by_device),
        # By type they choose foreach, as they do for CUDA's own tensors.
        mock.patch.object(optimizer, "_foreach_supported_types", [OnDevice]),
        mock.patch.object(_foreach_utils, "_foreach_supported_types", [OnDevice]),
    ]
    with ExitStack() as stack:
        _forget_constants()
        stack.callback(_forget_constants)
        for patch in patches:
            stack.enter_context(patch)
        # Module.to gives parameters new tensors; it would put a device's numbers into the CPU's tensor.
        stack.callback(
            torch.__future__.set_overwrite_module_params_on_conversion,
            torch.__future__.get_overwrite_module_params_on_conversion(),
        )
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        stack.callback(_pinned.clear)
        stack.enter_context(_Operations())
        stack.enter_context(_Calls())
        _seen.clear()
        yield _seen
