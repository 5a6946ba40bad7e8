import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD

from cifar_core.train import optim, schedules
from cifar_core.train.numerics import Numerics
from cifar_core.train.optim import Lookahead, Muon, orthogonalize, quick
from cifar_core.train.state import start
from tests.operations import counted

RATES = {"vectors": {"lr": 0.3, "weight_decay": 0.01}, "matrices": {"lr": 0.2, "weight_decay": 0.02}}


def by_singular_values(matrix, steps):
    """The iteration as it acts on singular values: s -> 3.4445 s - 4.7750 s^3 + 2.0315 s^5, in float64."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ vh


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))


def fill_gradients(model, seed):
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=rng).to(parameter.dtype)


SHAPES = [(8, 27), (27, 8), (16, 16), (1, 9), (9, 1)]


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalize_is_the_polynomial_of_the_singular_values(shape, steps):
    matrix = random(*shape) * 1e-3
    expected = by_singular_values(matrix, steps)
    torch.testing.assert_close(
        orthogonalize([matrix], steps=steps, dtype=torch.float64)[0], expected, rtol=1e-3, atol=1e-4
    )  # the small number that guards against a zero norm is all that differs


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalize_computes_in_bfloat16(shape):
    """After one step: how a sum rounds is the CPU's choice, and each further step multiplies it."""
    matrix = random(*shape)
    expected = by_singular_values(matrix, 1)
    (fast,) = orthogonalize([matrix.float()], steps=1)
    assert fast.dtype == torch.float32
    assert torch.equal(fast, fast.bfloat16().float())
    assert (fast.double() - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_five_steps_bring_singular_values_near_one(dtype):
    singular = torch.linalg.svdvals(orthogonalize([random(32, 288)], steps=5, dtype=dtype)[0])
    assert singular.min() > 0.6
    assert singular.max() < 1.3


def test_orthogonalize_of_zero_is_zero():
    assert not orthogonalize([torch.zeros(4, 9)], steps=3)[0].any()


def test_filters_follow_the_recipe_step_by_step(monkeypatch):
    monkeypatch.setattr(optim, "orthogonalize", partial(orthogonalize, dtype=torch.float64))
    model = net().double()
    optimizer = Muon(model.named_parameters(), lr=0.24, momentum=0.6, weight_decay=0.1, **RATES)
    weight = model[0].weight.detach().clone().flatten(1)
    buffer = torch.zeros_like(weight)
    for step in range(3):
        fill_gradients(model, step)
        gradient = model[0].weight.grad.flatten(1)
        optimizer.step()
        buffer = 0.6 * buffer + gradient
        weight = weight * (8**0.5 / weight.norm()) * (1 - 0.24 * 0.1)
        weight = weight - 0.24 * by_singular_values(gradient + 0.6 * buffer, 3)
        torch.testing.assert_close(model[0].weight.detach().flatten(1), weight, rtol=0, atol=1e-6)


# Of a ResNet, of airbench, depthwise, pointwise either way round, of one axis, and twice the same.
BANKS = [(16, 3, 3, 3), (16, 16, 3, 3), (16, 16, 3, 3), (24, 16, 3, 3), (24, 3, 2, 2), (32, 1, 3, 3)]
BANKS += [(32, 16, 1, 1), (16, 32, 1, 1), (9, 16, 1, 1), (16, 3, 3), (8, 2, 3, 3, 3), (2, 1, 1, 1)]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("of_gradients", [torch.channels_last, torch.contiguous_format])
def test_filters_of_all_shapes_step_together_as_each_would_alone(monkeypatch, layout, of_gradients):
    monkeypatch.setattr(optim, "orthogonalize", partial(orthogonalize, dtype=torch.float64))

    def lying(tensor, kind):
        return tensor.contiguous(memory_format=kind if tensor.ndim == 4 else torch.contiguous_format)

    banks = [nn.Parameter(lying(random(*shape, seed=seed), layout)) for seed, shape in enumerate(BANKS)]
    still = nn.Parameter(random(16, 16, 3, 3))  # gets no gradient
    pairs = [(str(number), bank) for number, bank in enumerate([*banks, still])]
    optimizer = Muon(pairs, lr=0.1, momentum=0.9, ns_steps=2, unit_filters=False, **RATES)
    buffers = [torch.zeros_like(bank) for bank in banks]
    for step in range(2):
        before = [bank.detach().clone() for bank in banks]
        for number, bank in enumerate(banks):
            bank.grad = lying(random(*bank.shape, seed=100 * step + number), of_gradients)
        optimizer.step()
        for number, (bank, old) in enumerate(zip(banks, before, strict=True)):
            buffers[number] = 0.9 * buffers[number] + bank.grad
            update = (bank.grad + 0.9 * buffers[number]).reshape(len(old), -1)
            expected = old - 0.1 * by_singular_values(update, 2).view(old.shape)
            torch.testing.assert_close(bank.detach(), expected, rtol=0, atol=1e-6)
            assert torch.equal(optimizer.state[bank]["momentum_buffer"], buffers[number])
    assert torch.equal(still.detach(), random(16, 16, 3, 3))
    assert still not in optimizer.state


def operations_of_a_step(layers):
    convolutions = [nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last) for _ in range(layers)]
    model = nn.Sequential(*convolutions, nn.Linear(8, 4))
    optimizer = muon(model)
    for seed in range(2):
        fill_gradients(model, seed)
        for convolution in convolutions:  # as autograd makes them
            convolution.weight.grad = convolution.weight.grad.contiguous(memory_format=torch.channels_last)
        with counted() as operations:
            optimizer.step()
    return operations


def test_a_step_takes_as_many_operations_for_many_layers_of_a_shape_as_for_one():
    one, many = operations_of_a_step(1), operations_of_a_step(12)
    assert one == many
    assert len(one) <= 22 + 10  # of all shapes together; of each, three iterations and the way to float32


def test_vectors_and_matrices_follow_nesterov_sgd():
    model = net()
    twin = copy.deepcopy(model)
    optimizer = Muon(model.named_parameters(), sgd_momentum=0.85, **RATES)
    groups = [
        {"params": [twin[0].bias, *twin[1].parameters(), twin[4].bias], **RATES["vectors"]},
        {"params": [twin[4].weight], **RATES["matrices"]},
    ]
    reference = SGD(groups, lr=1.0, momentum=0.85, nesterov=True)
    for step in range(4):
        fill_gradients(model, step)
        fill_gradients(twin, step)
        optimizer.step()
        reference.step()
    for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        if name == "0.weight":
            assert not torch.equal(parameter, other)
        else:
            torch.testing.assert_close(parameter, other)


def test_a_filter_step_does_not_depend_on_the_scale_of_the_loss():
    small, large = net(), net()
    for model, scale in ((small, 1.0), (large, 1024.0)):
        optimizer = Muon(model.named_parameters(), **RATES)
        fill_gradients(model, 0)
        for parameter in model.parameters():
            parameter.grad *= scale
        optimizer.step()
    torch.testing.assert_close(small[0].weight, large[0].weight)


def test_parameters_without_gradient_stay():
    model = net()
    optimizer = Muon(model.named_parameters(), **RATES)
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({"lr": -1.0}, "lr must be a number at least 0, got -1.0"),
        ({"momentum": 1.0}, r"momentum must be a number in \[0, 1\), got 1.0"),
        ({"ns_steps": 0}, "ns_steps must be a whole number from 1, got 0"),
        ({"ns_steps": 2.5}, "ns_steps must be a whole number from 1, got 2.5"),
        (
            {"vectors": {"lr": 0.1, "decay": 0.0}},
            "vectors must have lr and weight_decay and nothing else, got .*decay",
        ),
        ({"vectors": 3}, "vectors must have lr and weight_decay and nothing else, got 3"),
        (
            {"matrices": {"lr": "abc", "weight_decay": 0.0}},
            "matrices.lr must be a number at least 0, got 'abc'",
        ),
        ({"matrices": {}}, "matrices must have lr and weight_decay and nothing else, got {}"),
        (
            {"matrices": {"lr": 0.1, "weight_decay": -1.0}},
            "matrices.weight_decay must be a number at least 0, got -1.0",
        ),
    ],
)
def test_muon_refuses(options, law):
    with pytest.raises(ValueError, match=law):
        Muon(net().named_parameters(), **(RATES | options))


def test_muon_makes_its_own_groups():
    with pytest.raises(ValueError, match="muon makes its own groups"):
        Muon([{"params": list(net().named_parameters())}], **RATES)


def test_a_position_embedding_is_no_filter():
    model = net()
    model.place = nn.Parameter(torch.full((1, 4, 6), 0.5))
    optimizer = Muon(model.named_parameters(), **RATES)
    optimizer.step()  # without gradients
    model.place.grad = torch.zeros(1, 4, 6)
    optimizer.step()
    torch.testing.assert_close(model.place.detach(), torch.full((1, 4, 6), 0.5), rtol=0.01, atol=0)


def test_filters_of_zeros_stay_finite():
    model = net()
    nn.init.zeros_(model[0].weight)
    optimizer = Muon(model.named_parameters(), **RATES)
    fill_gradients(model, 0)
    optimizer.step()
    assert model[0].weight.isfinite().all()
    assert model[0].weight.any()


def test_lookahead_takes_up_further_parameters():
    model, more = net(), nn.Parameter(torch.ones(3))
    optimizer = Lookahead(list(model.parameters()), lr=0.1, base=SGD, steps=1, alpha=0.5)
    optimizer.add_param_group({"params": [more]})
    more.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(more.detach(), torch.full((3,), 0.95))


def test_muon_needs_filters():
    with pytest.raises(ValueError, match="convolution filters"):
        Muon(nn.Linear(3, 4).named_parameters(), **RATES)


def test_lookahead_averages_every_few_steps():
    model, twin = net(), net()
    optimizer = Lookahead(list(model.named_parameters()), lr=0.1, base=SGD, steps=3, alpha=0.25)
    reference = SGD(twin.parameters(), lr=0.1)
    slow = [parameter.detach().clone() for parameter in twin.parameters()]
    for step in range(1, 8):
        fill_gradients(model, step)
        fill_gradients(twin, step)
        optimizer.step()
        reference.step()
        if step % 3 == 0:
            with torch.no_grad():
                slow = [old + 0.25 * (new - old) for old, new in zip(slow, twin.parameters(), strict=True)]
                for parameter, value in zip(twin.parameters(), slow, strict=True):
                    parameter.copy_(value)
        for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(parameter, other)


@pytest.mark.parametrize("options", [{"steps": 0}, {"alpha": 0.0}, {"alpha": 1.5}])
def test_lookahead_refuses(options):
    (key,) = options
    with pytest.raises(ValueError, match=f"{key} must be"):
        Lookahead(list(net().parameters()), lr=0.1, base=SGD, **options)


def muon(model):
    return Muon(model.named_parameters(), **RATES)


def lookahead(model):
    def base(params, lr):
        return SGD(params, lr=lr, momentum=0.9)

    return Lookahead(list(model.named_parameters()), lr=0.1, base=base, steps=2)


@pytest.mark.parametrize("make", [muon, lookahead])
def test_state_survives_a_checkpoint_and_a_schedule_acts(make, tmp_path):
    """Five steps in one go end as do five with all state saved and loaded after the third."""
    whole, first, second = net(), net(), net(seed=1)

    def steps(model, optimizer, scheduler, numbers):
        for number in numbers:
            fill_gradients(model, number)
            optimizer.step()
            scheduler.step()

    def begin(model):
        optimizer = make(model)
        return optimizer, schedules.cosine(optimizer, epochs=5, steps_per_epoch=1)

    steps(whole, *begin(whole), range(5))
    optimizer, scheduler = begin(first)
    steps(first, optimizer, scheduler, range(3))
    saved = {
        "model": first.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    torch.save(saved, tmp_path / "last.pt")
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    optimizer, scheduler = begin(second)
    second.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    steps(second, optimizer, scheduler, range(3, 5))
    assert optimizer.param_groups[0]["lr"] < 0.2 * optimizer.param_groups[0]["initial_lr"]
    for parameter, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(parameter, other)


CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize("kind", optim.FUSED)
def test_on_a_gpu_an_optimizer_that_can_takes_one_kernel_unless_told_otherwise(kind):
    assert quick(kind, CUDA, {"lr": 0.1}) == {"fused": True}
    assert quick(kind, CPU, {"lr": 0.1}) == {}
    for told in ("foreach", "fused", "differentiable"):
        assert quick(kind, CUDA, {"lr": 0.1, told: False}) == {}


@pytest.mark.parametrize("kind", [Muon, Lookahead, torch.optim.RMSprop, torch.optim.NAdam])
def test_other_optimizers_get_nothing_that_they_may_not_take(kind):
    assert quick(kind, CUDA, {}) == {}


@pytest.mark.parametrize("kind", optim.FUSED)
@pytest.mark.parametrize("before", [{}, {"fused": True}, {"foreach": True}])
@pytest.mark.parametrize("after", [{}, {"fused": True}, {"foreach": True}])
def test_a_checkpoint_goes_on_on_a_device_that_steps_otherwise(kind, before, after, tmp_path):
    """A CPU has all three ways, so the way of a GPU can be left and taken up here."""

    def begin(seed, **way):
        model = net(seed)
        momentum = {"momentum": 0.9} if kind is SGD else {}
        optimizer = kind(model.named_parameters(), lr=0.1, **momentum, **way)
        schedule = schedules.cosine(optimizer, epochs=5, steps_per_epoch=1)
        where = Numerics(CPU, torch.float32, channels_last=False)
        return start(model, optimizer, schedule, numerics=where, seed=0)

    def steps(state, numbers):
        for number in numbers:
            fill_gradients(state.model, number)
            state.optimizer.step()
            state.scheduler.step()

    whole, first, second = begin(0), begin(0, **before), begin(1, **after)
    steps(whole, range(4))
    steps(first, range(2))
    torch.save(first.state_dict(), tmp_path / "last.pt")
    second.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
    steps(second, range(2, 4))
    (group,) = second.optimizer.param_groups
    assert {key: group[key] for key in ("fused", "foreach") if group[key]} == after
    assert group["lr"] == whole.optimizer.param_groups[0]["lr"]
    for parameter, other in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(parameter, other)


@pytest.mark.parametrize("kind", optim.FUSED)
def test_an_optimizer_of_one_kernel_starts_as_any_other_where_float16_leaves_out_its_first_steps(
    kind, monkeypatch
):
    # Memory as it may be found.
    monkeypatch.setattr(torch, "empty_like", lambda like, **_: torch.full_like(like, math.nan))

    def trained(fused):
        model = net()
        momentum = {"momentum": 0.9, "nesterov": True} if kind is SGD else {}
        optimizer = kind(model.named_parameters(), lr=0.1, fused=fused, **momentum)
        schedule = schedules.cosine(optimizer, epochs=5, steps_per_epoch=1)
        where = Numerics(CPU, torch.float16, channels_last=False)
        state = start(model, optimizer, schedule, numerics=where, seed=0)
        for number in range(4):
            state.scaler.scale(torch.zeros(()))  # it makes its scale with the first loss
            fill_gradients(model, number)
            for parameter in model.parameters():
                parameter.grad *= math.inf if number < 2 else state.scaler.get_scale()
            state.scaler.step(optimizer)
            state.scaler.update()
        return model.parameters()

    for parameter, other in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(parameter, other)


def test_a_scale_begins_anew_after_a_training_without_one():
    """As where a run on a CPU goes on on a GPU that has no bfloat16."""
    model = net()
    schedule = schedules.cosine(SGD(model.named_parameters(), lr=0.1), epochs=5, steps_per_epoch=1)
    before, after = (
        start(model, schedule.optimizer, schedule, numerics=Numerics(CPU, dtype, False), seed=seed)
        for seed, dtype in enumerate((torch.float32, torch.float16))
    )
    after.load_state_dict(before.state_dict())
    assert after.seed == 0
    assert after.scaler.is_enabled()
