"""The pretended GPU sees the mistakes that a real one would punish: each is made here once, on purpose."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import optimizer

from cifar_core.data.split import Data, Split
from cifar_core.train.numerics import Numerics
from cifar_core.train.predict import predict
from tests import pretend_cuda as pretended
from tests.conftest import PROJECT
from tests.pretend_cuda import pretend_cuda
from tests.train.test_loop import net

HERE = __file__


def values() -> Tensor:
    """Return 1, 2, 3 on the device, made there."""
    return torch.arange(1.0, 4.0, device="cuda")


READS: dict[str, Callable[[], object]] = {
    "item": lambda: values().sum().item(),
    "float": lambda: float(values()[0]),
    "int": lambda: int(values().argmax()),
    "a tensor as a condition": lambda: bool(values().any()),
    "a tensor as an index": lambda: [0, 1, 2, 3][values().argmax()],
    "a format": lambda: f"{values()[0]:.1f}",
    "print": lambda: str(values()),
    "cpu": lambda: values().cpu(),
    "to": lambda: values().to("cpu", non_blocking=True),
    "copy_ into a tensor of the host": lambda: torch.zeros(3).copy_(values()),
    "tolist": lambda: values().tolist(),
    "numpy, asked for it": lambda: values().numpy(force=True),
    "save": lambda: torch.save(values(), io.BytesIO()),
    "nonzero": lambda: values().nonzero(),
    "where": lambda: torch.where(values() > 1),
    "a mask": lambda: values()[values() > 1],
    "a mask to write to": lambda: values().index_put_((values() > 1,), values()[:2]),
    "masked_select": lambda: values().masked_select(values() > 1),
    "unique": lambda: values().unique(),
    "bincount": lambda: values().long().bincount(),
    "repeat_interleave by a tensor": lambda: values().repeat_interleave(values().long()),
    "equal": lambda: torch.equal(values(), values()),
    "allclose": lambda: torch.allclose(values(), values()),
    "in": lambda: 2.0 in values(),
    "an eigenvalue": lambda: torch.linalg.eigh(values().diag()),
    "synchronize": lambda: torch.cuda.synchronize(),
}
UPLOADS: dict[str, Callable[[], object]] = {
    "to": lambda: torch.arange(3.0).to("cuda"),
    "cuda": lambda: torch.arange(3.0).cuda(),
    "to the device of another": lambda: torch.arange(3.0).to(values()),
    "to, pinned but told to wait": lambda: torch.arange(3.0).pin_memory().to("cuda"),
    "to, not told to wait but pageable": lambda: torch.arange(3.0).to("cuda", non_blocking=True),
    "to, pinned but with gaps": lambda: torch.zeros(2, 3).pin_memory()[:, 1:].to("cuda", non_blocking=True),
    "to, pinned but turned and converted": lambda: (
        torch.zeros(2, 3).pin_memory().T.to("cuda", torch.float64, non_blocking=True)
    ),
    "a list": lambda: torch.tensor([1, 2, 3], device="cuda"),
    "a number": lambda: torch.tensor(1.0, device="cuda"),
    "as_tensor": lambda: torch.as_tensor([1, 2, 3], device="cuda"),
    "new_tensor": lambda: values().new_tensor([1, 2, 3]),
    "copy_": lambda: values().copy_(torch.zeros(3)),
    "an index of the host": lambda: values()[torch.tensor([0, 2])],
    "an index from a list": lambda: values()[[0, 2]],
    "a mask of the host": lambda: values()[torch.tensor([True, False, True])],
}
ERRORS: dict[str, tuple[Callable[[], object], str]] = {
    "two devices": (lambda: values() + torch.ones(3), "same device"),
    "a number of the device beside a tensor of the host": (
        lambda: torch.ones(3) * values()[0],
        "same device",
    ),
    "two devices in a list": (lambda: torch.cat([values(), torch.ones(1)]), "same device"),
    "a number of the host in a list": (lambda: torch.stack([values()[0], torch.tensor(1.0)]), "same device"),
    "index_select of the host": (lambda: values().index_select(0, torch.tensor([0])), "same device"),
    "gather of the host": (lambda: values().gather(0, torch.tensor([0])), "same device"),
    "an index of the device": (lambda: torch.ones(3)[values().long()], "same device"),
    "values of the host": (lambda: values().index_put_((values() > 1,), torch.ones(2)), "same device"),
    "a target of the host": (
        lambda: nn.functional.cross_entropy(values()[None], torch.tensor([0])),
        "same device",
    ),
    "weights of the host": (lambda: nn.Linear(3, 3)(values()), "same device"),
    "numpy": (lambda: values().numpy(), "numpy"),
    "a generator of the host": (
        lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
        "for generator but found 'cpu'",
    ),
    "a generator of the device": (
        lambda: torch.randperm(3, generator=torch.Generator("cuda")),
        "for generator but found 'cuda'",
    ),
    "pinning what is on the device": (lambda: values().pin_memory(), "cannot pin"),
    "a buffer left behind": (lambda: _left_behind()(values().view(1, 3, 1, 1)), "same device"),
}


def _left_behind() -> nn.Module:
    """Return a network on the device with a tensor that does not move along."""
    norm = nn.BatchNorm2d(3)
    del norm.running_mean
    norm.running_mean = torch.zeros(3)  # no buffer any more
    return norm.to("cuda").eval()


@pytest.mark.parametrize("mistake", READS)
def test_a_read_of_the_device_is_a_wait_at_its_line(mistake: str):
    with pretend_cuda() as seen:
        values()
        assert not seen.waits
        READS[mistake]()
        assert seen.waits
        assert all(HERE in wait for wait in seen.waits)


@pytest.mark.parametrize("mistake", UPLOADS)
def test_an_upload_that_waits_is_one_of_each(mistake: str):
    with pretend_cuda() as seen:
        UPLOADS[mistake]()
        assert [line.partition(":")[0] for line, _ in seen.uploads] == [HERE]
        assert any("copy up" in wait for wait in seen.waits)


@pytest.mark.parametrize("mistake", ERRORS)
def test_a_mixture_of_devices_is_an_error(mistake: str):
    act, message = ERRORS[mistake]
    with pretend_cuda(), pytest.raises((RuntimeError, TypeError), match=message):
        act()


def test_an_operation_that_cuda_lacks_is_an_error():
    if torch.version.cuda is None:
        pytest.skip("a torch built without CUDA does not know its operations")
    with pretend_cuda(), pytest.raises(NotImplementedError, match="histogram"):
        torch.histogram(values(), 3)


def test_what_stays_on_the_device_waits_for_nothing():
    with pretend_cuda() as seen:
        torch.zeros(2, 3).pin_memory().T.to("cuda", non_blocking=True)
        images = torch.arange(3.0).pin_memory().to("cuda", torch.float16, non_blocking=True)
        assert [size for _, size in seen.uploads] == [24, 12]
        rows = torch.randperm(3, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
        taken = images[rows] * torch.tensor(2.0)  # a number may come from anywhere
        taken[taken > 3] = 0  # one number, so no rows are counted
        taken[:2] = 1
        nn.functional.one_hot(rows, 3).sum(0).cumsum(0).sort()
        assert (taken.device, taken.is_cuda, taken.is_cpu) == (torch.device("cuda", 0), True, False)
        assert torch.zeros(2).device == torch.device("cpu")
        assert len(seen.uploads) == 2
        assert not seen.waits


def test_kernels_are_operations_on_the_device_that_are_no_views():
    with pretend_cuda() as seen:
        zeros = torch.zeros(2, 3, device="cuda")
        zeros.T[0].view(-1).add_(1)
        torch.empty(3, device="cuda")
        torch.zeros(3) + 1
        assert seen.kernels == ["zeros", "add_"]
        assert zeros.tolist() == [[1, 0, 0], [1, 0, 0]]


def test_a_network_moves_trains_and_is_copied_whole():
    torch.manual_seed(0)
    model, images = nn.Linear(3, 2), torch.randn(4, 3)
    model(images).square().mean().backward()
    with pretend_cuda() as seen:
        moved = copy.deepcopy(model).to("cuda")
        moved.zero_grad()
        moved(images.to("cuda")).square().mean().backward()
        twin = copy.deepcopy(moved)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
        twin(images.to("cuda")).sum().backward()
        seen.clear()
        optimizer.step()
        assert not seen.waits
        assert {kernel[:9] for kernel in seen.kernels} <= {"_foreach_", "clone"}  # as for CUDA's own tensors
        for here, there, other in zip(model.parameters(), moved.parameters(), twin.parameters(), strict=True):
            assert isinstance(there, nn.Parameter)
            assert there.device.type == "cuda"
            assert torch.equal(there.grad.cpu(), here.grad)
            assert torch.equal(there.cpu(), here)
            assert not torch.equal(other, there)
        model.load_state_dict(twin.state_dict())
        assert torch.equal(model.weight, twin.weight.cpu())


def test_a_planted_read_in_a_prediction_is_found_at_its_line():
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    split = Split(images, torch.zeros(4, dtype=torch.int64), torch.arange(4), None)
    model = net().append(Reading())
    data = Data("made", ("a", "b", "c", "d"), split, split, split, (100.0,) * 3, (60.0,) * 3, "")
    with pretend_cuda() as seen:
        there, numerics = data.to("cuda"), Numerics(torch.device("cuda"), torch.float32, True)
        seen.clear()
        predict(numerics.place(model), there, there.test, numerics, batch_size=2)
        reads = [wait for wait in seen.waits if wait.startswith("item")]
        assert len(reads) == 2  # one a batch
        assert all(HERE in read for read in reads)


class Reading(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits if logits.sum() > 0 else -logits


def test_afterwards_nothing_is_pretended():
    def replaced() -> tuple[object, ...]:
        return torch.cuda.is_available, torch.Generator, torch.autocast, optimizer._foreach_supported_types

    before = replaced()
    with pretend_cuda():
        assert torch.cuda.is_available()
        assert replaced() != before
    assert replaced() == before


def test_where_torch_lacks_a_hook_the_test_is_skipped_and_says_which(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(torch.accelerator, "current_stream")
    with (
        pytest.raises(pytest.skip.Exception, match=r"lacks torch\.accelerator:current_stream"),
        pretend_cuda(),
    ):
        pass


def test_the_pinned_torch_has_all_hooks():
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    if f"torch=={torch.__version__.partition('+')[0]}" in lines:
        assert pretended.missing() == []
