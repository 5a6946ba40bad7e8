"""What `trainer.compile` does to the functions that make up a step and an evaluation."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch


@functools.cache
def compiled(function: Callable[..., Any], how: bool | str) -> Callable[..., Any]:
    """Return ``function`` as it is, compiled (True), or compiled and replayed as CUDA graphs ("graphs").

    The model is an argument of it and stays as it is: hooks, names of weights and copies are the plain ones.
    Arguments of other shapes compile it again. What a graph returns holds until the next call of any.
    """
    if how is False:
        return function
    program = torch.compile(function, dynamic=False, mode="reduce-overhead" if how == "graphs" else None)
    if how != "graphs":
        return program

    def replayed(*args: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return program(*args)

    return replayed


def cannot_compile(error: BaseException) -> bool:
    """Tell whether ``error`` says that torch could not compile something."""
    dynamo = sys.modules.get("torch._dynamo.exc")  # which nothing imports that does not compile
    return dynamo is not None and isinstance(error, dynamo.TorchDynamoException)
