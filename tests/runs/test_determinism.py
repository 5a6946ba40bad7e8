"""What has no deterministic form is the user's to leave out: one line with the option, not a traceback."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from cifar_core import guards
from cifar_core.data.split import Data, Split
from cifar_core.train.numerics import Numerics
from experiments.cli import UserError
from experiments.runs import story


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """On a CPU no run switches it on, but torch can."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Puts(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)).put_(torch.tensor([0]), torch.ones(1))


def test_a_network_without_a_deterministic_form_ends_in_one_line():
    pictures = Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 3, torch.arange(4), None)
    data = Data("made", tuple("abc"), pictures, pictures, pictures, (0.0,) * 3, (1.0,) * 3, "0")
    where = Numerics(torch.device("cpu"), torch.float32, channels_last=False)
    line = "trainer.deterministic must be false where put_ is used, which has no deterministic form"
    with pytest.raises(UserError, match=line), story._options_explained():
        guards.check_model(Puts(), data, where)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="no memory"), story._options_explained():
        raise RuntimeError("no memory")
