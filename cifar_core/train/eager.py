"""Keeps torch's compiler from being imported, seconds of it, by optimizers that nothing compiles."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

DISABLED = "_disable_dynamo.<locals>.inner"  # the wrappers of torch that import it at their first call
USE_GRAD = "_use_grad_for_differentiable.<locals>._use_grad"


@functools.cache
def spare_compiler() -> None:
    """Have torch's optimizers do without the compiler, whose directions mean nothing where none traces them.

    For a process that compiles no optimizer: it changes torch's classes for good. What this torch does
    otherwise stays as it is.
    """
    for method in vars(Optimizer).values():
        if _wrapper(method) == DISABLED:
            function = method.__wrapped__
            vars(function).setdefault("__dynamo_disable", function)
    for kind in vars(torch.optim).values():
        step: Any = getattr(kind, "step", None)
        if isinstance(kind, type) and _wrapper(step) == USE_GRAD:
            type.__setattr__(kind, "step", _with_grad_mode(step.__wrapped__))


def _wrapper(function: Any) -> str:
    return getattr(getattr(function, "__code__", None), "co_qualname", "")


def _with_grad_mode(step: Callable[..., Any]) -> Callable[..., Any]:
    """Do what torch's own wrapper does, but for breaking a graph that nobody draws."""

    @functools.wraps(step)
    def stepped(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return stepped
