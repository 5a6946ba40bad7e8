"""Optimizers that torch does not have: Muon for convolution filters, and Lookahead around any other."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Named = Iterable[tuple[str, nn.Parameter]]
FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # have a step of one kernel on a GPU
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of X, X X^T X and (X X^T)^2 X: steep at 0 (Jordan et al. 2024)


def orthogonalize(
    matrices: Sequence[Tensor], *, steps: int, dtype: torch.dtype = torch.bfloat16
) -> list[Tensor]:
    """Push all singular values of each matrix (rows, columns) towards 1, in place of an SVD.

    A quintic Newton-Schulz iteration that trades accuracy for speed: after five steps the singular values
    lie between about 0.7 and 1.2, after three the small ones may still be lower. The arithmetic runs in
    ``dtype``, on all matrices of one shape at once; the results have that of the matrices.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.
    """
    tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
    wide = [matrix.mT if turned else matrix for matrix, turned in zip(matrices, tall, strict=True)]
    counts: Counter[torch.Size] = Counter()
    slots = []  # each matrix's stack and its place there
    for matrix in wide:
        slots.append((matrix.shape, counts[matrix.shape]))
        counts[matrix.shape] += 1
    device = wide[0].device
    stacks = {shape: torch.empty(n, *shape, dtype=dtype, device=device) for shape, n in counts.items()}
    stacked = [stacks[shape][place] for shape, place in slots]
    torch._foreach_copy_(stacked, wide)
    norms = torch._foreach_norm(stacked)  # the Frobenius norm is at least the largest singular value
    torch._foreach_add_(norms, 1e-7)
    torch._foreach_div_(stacked, norms)
    done = {shape: _newton_schulz(stack, steps).to(wide[0].dtype) for shape, stack in stacks.items()}
    results = [done[shape][place] for shape, place in slots]
    return [result.mT if turned else result for result, turned in zip(results, tall, strict=True)]


def _newton_schulz(x: Tensor, steps: int) -> Tensor:
    """Return the iteration's result for matrices (N, rows, columns) of norm 1, with rows <= columns."""
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


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
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._orthogonal_step if group["ns_steps"] else self._sgd_step)(parameters, group)
        return loss

    def _orthogonal_step(self, filters: list[Tensor], group: dict[str, Any]) -> None:
        updates = self._with_momentum(filters, [each.grad for each in filters], group)
        if group["unit_filters"]:
            norms = torch._foreach_norm(filters)
            torch._foreach_clamp_min_(norms, 1e-7)
            torch._foreach_div_(norms, [len(each) ** 0.5 for each in filters])
            torch._foreach_div_(filters, norms)
        if group["weight_decay"]:
            torch._foreach_mul_(filters, 1 - group["lr"] * group["weight_decay"])
        matrices = [_as_lying(*pair).flatten(1) for pair in zip(updates, filters, strict=True)]
        orthogonal = orthogonalize(matrices, steps=group["ns_steps"])
        lying = [_as_lying(each, each) for each in filters]
        steps = [step.reshape(each.shape) for step, each in zip(orthogonal, lying, strict=True)]
        torch._foreach_add_(lying, steps, alpha=-group["lr"])

    def _sgd_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients: Any = [parameter.grad for parameter in parameters]
        if group["weight_decay"]:
            gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
        updates = self._with_momentum(parameters, gradients, group)
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _with_momentum(self, parameters: list[Tensor], gradients: Any, group: dict[str, Any]) -> list[Tensor]:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        return (
            list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))
            if group["nesterov"]
            else buffers
        )


def _as_lying(tensor: Tensor, filters: Tensor) -> Tensor:
    """Return ``tensor`` with its axes in the order in which ``filters``, of the same shape, lie in memory.

    So that filters in channels_last are flattened without a copy; in which order columns come is the same
    to the singular values.
    """
    return tensor if filters.is_contiguous() else tensor.movedim(1, -1)


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


def quick(kind: Callable[..., Optimizer], device: torch.device, given: Iterable[str]) -> dict[str, bool]:
    """Return the argument that has ``kind`` step in one kernel where ``device`` is a GPU and it can.

    None where one of ``given``, the arguments that it gets, says how it steps. Torch's others are foreach
    there by themselves.
    """
    told = {"foreach", "fused", "differentiable"} & set(given)
    return {"fused": True} if device.type == "cuda" and kind in FUSED and not told else {}


def start_momentum(optimizer: Optimizer) -> None:
    """Have torch's fused SGD start with a momentum of zero, for a scaler that may leave out the first steps.

    It makes the momentum in its first step, without values, and writes them only where that is taken.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            if group["fused"] and group["momentum"]:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def for_here(saved: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return a ``saved`` state for ``optimizer``, which keeps its own ways to step: they suit its device."""
    if "param_groups" not in saved:  # of Lookahead
        return saved
    groups = [
        {**group, **{key: own[key] for key in ("foreach", "fused") if key in own}}
        for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**saved, "param_groups": groups}


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
