"""A lack of memory is told apart from everything that only looks like one."""

import errno
import os

import pytest
import torch

from cifar_core.memory import LackOfMemory, memory_explained, out_of_memory
from experiments.cli import UserError, exit_codes, user_mistakes


class DistBackendError(RuntimeError):
    """As torch.distributed's, which a build without it lacks."""


LACKS = {
    "allocator": torch.OutOfMemoryError(  # c10/cuda/CUDACachingAllocator.cpp
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 15.48 GiB of which "
        "17.75 MiB is free. Including non-PyTorch memory, this process has 15.45 GiB memory in use."
    ),
    "before torch 1.13": RuntimeError(  # github.com/fudan-zvg/Semantic-Segment-Anything/issues/43
        "CUDA out of memory. Tried to allocate 16.00 MiB (GPU 0; 47.54 GiB total capacity; 537.07 MiB already"
    ),
    "runtime": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    "runtime, old": RuntimeError(  # github.com/pytorch/pytorch/issues/958
        "cuda runtime error (2) : out of memory at torch/lib/THC/generic/THCStorage.cu:66"
    ),
    "driver": RuntimeError(
        "CUDA driver error: out of memory"
    ),  # github.com/deepmodeling/deepmd-kit/pull/3857
    "driver's name": RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),  # CUresult 2 in cuda.h
    "kernels": RuntimeError("Triton Error [CUDA]: out of memory"),  # triton's driver.c
    "cuBLAS": RuntimeError(  # github.com/QwenLM/Qwen3/issues/873
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "cuDNN 8": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),  # pytorch/issues/20123
    "cuDNN 9": RuntimeError(  # cudnn_graph.h, since 9.0
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
    ),
    "cuDNN 9, host": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    "cuSOLVER": RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"),
    "NCCL": DistBackendError(  # github.com/pytorch/pytorch/issues/152302
        "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled cuda error\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
    ),
    "AMD": RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."),
    "Apple": RuntimeError("MPS backend out of memory (MPS allocated: 5.05 GB, other allocations: 2.29 GB)"),
    "file": RuntimeError("unable to mmap 1024 bytes from file </torch_1_2>: Cannot allocate memory (12)"),
    "C++": RuntimeError("std::bad_alloc"),
    "Python": MemoryError(),
    "fork": OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
}

OTHERS = {
    "a user's": ValueError("the memory bank is out of memory slots: CUDA out of memory. Tried to allocate"),
    "a network's": RuntimeError("out of memory slots"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),  # a faulty card: pytorch/issues/51382
    "cuBLAS": RuntimeError(  # also after a label out of range: the context is broken, not full
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
    ),
    "a kernel": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "shared memory": RuntimeError("out of resource: shared memory, Required: 180224, Hardware limit: 101376"),
    "disk": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "words": OSError("Cannot allocate memory"),  # without the number of the machine's own error
    "signal": KeyboardInterrupt("CUDA out of memory"),
}


@pytest.mark.parametrize("error", LACKS.values(), ids=LACKS)
def test_every_librarys_lack_of_memory_is_one(error: Exception):
    assert out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS.values(), ids=OTHERS)
def test_what_only_looks_like_it_is_none(error: BaseException):
    assert not out_of_memory(error)


def test_torch_itself_tells_of_it_so():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert out_of_memory(caught.value)


def chained(how: str) -> Exception:
    """A ValueError that came of a lack of memory, as its author chose to say."""
    try:
        try:
            raise LACKS["cuBLAS"]
        except RuntimeError as error:
            if how == "cause":
                raise ValueError("the model must take pictures") from error
            if how == "denied":
                raise ValueError("the model must take pictures") from None
            raise ValueError("the model must take pictures")  # noqa: B904
    except ValueError as error:
        return error


@pytest.mark.parametrize(("how", "lacks"), [("cause", True), ("context", True), ("denied", False)])
def test_an_error_that_was_made_of_it_counts(how: str, lacks: bool):
    assert out_of_memory(chained(how)) == lacks
    with (
        pytest.raises(MemoryError if lacks else UserError, match="the model must take pictures"),
        user_mistakes(),
    ):
        raise chained(how)


def test_an_error_that_names_itself_as_its_cause_ends_the_search():
    error = ValueError("no")
    error.__cause__ = error
    assert not out_of_memory(error)


def test_the_innermost_advice_holds_and_other_errors_pass():
    with (
        pytest.raises(
            LackOfMemory, match=r"^out of memory: fewer \(cuDNN error: CUDNN_STATUS_ALLOC_FAILED\)$"
        ),
        memory_explained("smaller"),
        memory_explained("fewer"),
    ):
        raise LACKS["cuDNN 8"]
    with pytest.raises(KeyError), memory_explained("smaller"):
        raise KeyError(1)


def test_a_command_ends_with_one_line_and_the_machines_exit_code(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end, exit_codes():
        raise LACKS["runtime"]
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        "error: CUDA error: out of memory CUDA kernel errors might be asynchronously reported\n"
    )
