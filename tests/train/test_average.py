import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cifar_core.train.average import Average
from tests.operations import counted


class Net(nn.Module):
    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), *(nn.BatchNorm2d(4) for _ in range(layers))])
        self.head = nn.Linear(4, 2).double()
        self.twin = self.layers[0]  # a module in two places is averaged once
        self.register_buffer("phase", torch.ones(2, dtype=torch.complex64), persistent=False)


class Tabled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(1000).view(10, 100))
        self.register_buffer("mask", torch.tensor([True, False]))


def move(model: nn.Module, seed: int) -> None:
    """Give every tensor of ``model`` other values, as a training step would."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            whole = not (value.is_floating_point() or value.is_complex())
            value.add_(11 if whole else torch.randn(value.shape, generator=rng))


def reference(model: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def assert_same(one: Average | AveragedModel, other: Average | AveragedModel) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value.dtype, value.shape) == (second[name].dtype, second[name].shape), name
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_has_the_bits_of_torchs_own(decay: float):
    model = Net()
    mine, theirs = Average(model, decay), reference(model, decay)
    for step in range(5):
        assert_same(mine, theirs)
        move(model, step)
        mine.update_parameters(model)
        theirs.update_parameters(model)
    assert_same(mine, theirs)
    assert torch.equal(mine.module.phase, theirs.module.phase)


def test_tables_of_whole_numbers_stay_what_they_are():
    model = Tabled()
    average = Average(model, 0.9)
    for _ in range(3):
        average.update_parameters(model)
    assert torch.equal(average.module.table, torch.arange(1000).view(10, 100))
    assert average.module.mask.tolist() == [True, False]


@pytest.mark.parametrize("save", [Average, reference])
@pytest.mark.parametrize("load", [Average, reference])
@pytest.mark.parametrize("updates", [0, 2])
def test_checkpoints_of_either_go_on_as_the_other(save, load, updates: int, tmp_path):
    model = Net()
    whole = save(model, 0.9)
    for step in range(updates):
        move(model, step)
        whole.update_parameters(model)
    torch.save(whole.state_dict(), tmp_path / "average.pt")
    other = load(Net(), 0.9)
    other.load_state_dict(torch.load(tmp_path / "average.pt", weights_only=True))
    assert_same(other, whole)
    move(model, 9)
    whole.update_parameters(model)
    other.update_parameters(model)
    assert_same(other, whole)


def test_an_average_keeps_its_tensors_and_the_state_that_was_loaded_its_own():
    model = Net()
    average = Average(model, 0.9)
    saved = copy.deepcopy(average.state_dict())
    average.load_state_dict(saved)
    average.load_state_dict(saved)  # which the first has not emptied
    assert average.module.layers[0].weight.data_ptr() != saved["module.layers.0.weight"].data_ptr()


def test_an_update_takes_few_operations_whatever_the_number_of_layers():
    for layers in (1, 20):
        model = nn.Sequential(Net(layers), Tabled())
        average = Average(model, 0.9)
        for step in range(2):
            move(model[0], step)
            with counted() as operations:
                average.update_parameters(model)
            assert len(operations) <= 8, operations
