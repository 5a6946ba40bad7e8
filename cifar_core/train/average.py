"""The moving average of a network's weights."""

import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """A copy of a model that holds the exponential moving average of its weights and buffers.

    The first update takes the model's values, each later one moves by 1 - ``decay`` of the way to them. Of
    whole numbers, single ones (counters) are averaged and rounded down; tables, such as indices, are taken.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copy ``model``."""
        self.module = copy.deepcopy(model)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in what ``model`` holds now, in few kernels and without waiting for the device."""
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        if self.updates == 0:
            _copy(pairs)
        else:
            whole = [pair for pair in pairs if _is_whole(pair[0])]
            _lerp([pair for pair in pairs if not _is_whole(pair[0])], 1 - self.decay)
            _average_counters([pair for pair in whole if pair[0].ndim == 0], self.decay)
            _copy([pair for pair in whole if pair[0].ndim > 0])
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of updates, named as torch's AveragedModel names them."""
        state = _named(self.module).state_dict()
        state["n_averaged"] = torch.tensor(self.updates)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up, in place, what `state_dict` returned."""
        weights = copy.copy(state)  # with the versions of its modules
        self.updates = int(weights.pop("n_averaged"))
        _named(self.module).load_state_dict(weights)


Pairs = list[tuple[Tensor, Tensor]]  # of the average, of the model


def _tensors(model: nn.Module) -> list[Tensor]:
    return list(chain(model.parameters(), model.buffers()))


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def _named(model: nn.Module) -> nn.Module:
    return nn.ModuleDict({"module": model})


def _lists(pairs: Pairs) -> tuple[list[Tensor], list[Tensor]]:
    return [mine for mine, _ in pairs], [theirs for _, theirs in pairs]


def _copy(pairs: Pairs) -> None:
    if pairs:
        torch._foreach_copy_(*_lists(pairs))


def _lerp(pairs: Pairs, share: float) -> None:
    if pairs:
        torch._foreach_lerp_(*_lists(pairs), share)


def _average_counters(pairs: Pairs, decay: float) -> None:
    if pairs:
        mine, theirs = _lists(pairs)
        means = torch.stack(mine) * decay + torch.stack(theirs) * (1 - decay)
        torch._foreach_copy_(mine, means.unbind())
