"""Optimizers that torch does not have: Muon for convolution filters, and Lookahead around any other."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Named = Iterable[tuple[str, nn.Parameter]]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of X, X X^T X and (X X^T)^2 X: steep at 0 (Jordan et al. 2024)


def orthogonalize(matrix: Tensor, *, steps: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Push all singular values of ``matrix`` (rows, columns) towards 1, in place of an SVD.

    A quintic Newton-Schulz iteration that trades accuracy for speed: after five steps the singular values
    lie between about 0.7 and 1.2, after three the small ones may still be lower. The arithmetic runs in
    ``dtype``, which the result has too. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(dtype)
    x = x / (x.norm() + 1e-7)  # the Frobenius norm is at least the largest singular value
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(Optimizer):
    """Orthogonalised momentum for convolution filters, SGD with Nesterov momentum for the rest.

    The first parameter group holds the filters, each bank taken as a matrix (out, in * h * w); then come
    ``vectors`` (norms and biases) and ``matrices`` (linear layers), with an lr and an L2 weight_decay each.
    A filter's step has about the same size whatever its gradient's, so ``lr`` does not depend on the loss's
    scale; that of the others does. With ``unit_filters`` every filter bank is first scaled to the norm
    sqrt(out), which normalisation behind it makes harmless. ``weight_decay`` of filters is decoupled.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the defaults are airbench94's.
    """

    def __init__(
        self,
        params: Named,
        *,
        lr: float = 0.24,
        momentum: float = 0.6,
        nesterov: bool = True,
        ns_steps: int = 3,
        unit_filters: bool = True,
        weight_decay: float = 0.0,
        vectors: Mapping[str, float],
        matrices: Mapping[str, float],
        sgd_momentum: float = 0.85,
    ) -> None:
        """Sort (name, parameter) pairs by the parameters' number of axes."""
        pairs = list(params)
        if any(isinstance(pair, dict) for pair in pairs):
            raise ValueError("muon makes its own groups: set vectors.weight_decay for norms and biases")
        for name, given in (("vectors", vectors), ("matrices", matrices)):
            if not isinstance(given, Mapping) or given.keys() != {"lr", "weight_decay"}:
                raise ValueError(f"{name} must have lr and weight_decay and nothing else, got {given!r}")
            _check(given, prefix=f"{name}.")
        if not isinstance(ns_steps, int) or ns_steps < 1:
            raise ValueError(f"ns_steps must be a whole number from 1, got {ns_steps!r}")
        sgd = {"momentum": sgd_momentum, "nesterov": True, "ns_steps": 0, "unit_filters": False}
        groups: list[dict[str, Any]] = [
            {"params": [pair for pair in pairs if _kind(pair[1]) == "filters"]},
            {"params": [pair for pair in pairs if _kind(pair[1]) == "vector"], **sgd, **vectors},
            {"params": [pair for pair in pairs if _kind(pair[1]) == "matrix"], **sgd, **matrices},
        ]
        if not groups[0]["params"]:
            raise ValueError("muon needs a model with convolution filters; this one has none")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "unit_filters": unit_filters,
            "weight_decay": weight_decay,
        }
        groups = [group for group in groups if group["params"]]
        for group in groups:
            _check({**defaults, **group}, prefix="")
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step on the gradients there are; ``closure`` computes them anew first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (self._orthogonal_step if group["ns_steps"] else self._sgd_step)(parameter, group)
        return loss

    def _orthogonal_step(self, filters: Tensor, group: dict[str, Any]) -> None:
        update = self._with_momentum(filters, filters.grad, group)
        if group["unit_filters"]:
            filters.mul_(len(filters) ** 0.5 / filters.norm().clamp_min(1e-7))
        filters.mul_(1 - group["lr"] * group["weight_decay"])
        orthogonal = orthogonalize(update.flatten(1), steps=group["ns_steps"])
        filters.add_(orthogonal.reshape(filters.shape).to(filters.dtype), alpha=-group["lr"])

    def _sgd_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])  # type: ignore[union-attr]
        parameter.add_(self._with_momentum(parameter, gradient, group), alpha=-group["lr"])

    def _with_momentum(self, parameter: Tensor, gradient: Any, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        return gradient.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer


def _kind(parameter: Tensor) -> str:
    """Tell filters (out, in, h, w) from matrices and vectors; (1, N, D) is a position embedding, a vector."""
    if parameter.ndim > 2:
        return "filters" if parameter.shape[0] > 1 else "vector"
    return "matrix" if parameter.ndim == 2 else "vector"


def _check(group: Mapping[str, Any], *, prefix: str) -> None:
    for key in ("lr", "weight_decay", "momentum"):
        value = group.get(key, 0.0)
        law = "in [0, 1)" if key == "momentum" else "at least 0"
        number = isinstance(value, int | float)
        if not number or value < 0 or (key == "momentum" and value >= 1):
            raise ValueError(f"{prefix}{key} must be a number {law}, got {value!r}")


class Lookahead(Optimizer):
    """Another optimizer whose weights are drawn, every few steps, to an average that follows them slowly.

    ``base`` makes the inner optimizer from parameters and ``lr``. Every ``steps`` steps the slow weights move
    by ``alpha`` of the way to the fast ones, which then start again from there. The model holds the fast
    ones, so between two such moments it is those that are evaluated.
    Source: Zhang et al. 2019, arXiv:1907.08610.
    """

    def __init__(
        self, params: Any, *, lr: float, base: Callable[..., Optimizer], steps: int = 5, alpha: float = 0.5
    ) -> None:
        """Start the slow weights at the parameters' values."""
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number from 1, got {steps!r}")
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], got {alpha!r}")
        self.base = base(params, lr=lr)
        self.steps, self.alpha, self.taken = steps, alpha, 0
        self.slow: list[Tensor] = []
        super().__init__(self.base.param_groups, self.base.defaults)
        self.param_groups = self.base.param_groups  # one list, so that a schedule acts on the inner one

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, whose slow weights start at their values."""
        super().add_param_group(param_group)
        self.slow += [parameter.detach().clone() for parameter in param_group["params"]]

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take a step of the inner optimizer and, when it is time, one of the slow weights."""
        loss = self.base.step(closure)
        self.taken += 1
        if self.taken % self.steps == 0:
            for slow, parameter in zip(self.slow, self._parameters(), strict=True):
                slow.lerp_(parameter, self.alpha)
                parameter.copy_(slow)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state, the slow weights and the number of steps taken."""
        return {"base": self.base.state_dict(), "slow": list(self.slow), "taken": self.taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.base.load_state_dict(state_dict["base"])
        self.param_groups = self.base.param_groups
        for slow, saved in zip(self.slow, state_dict["slow"], strict=True):
            slow.copy_(saved)
        self.taken = state_dict["taken"]
