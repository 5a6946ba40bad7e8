import pytest
import torch
from torch import nn

from cifar_core.explain.summary import summarize
from cifar_core.models.davidnet import davidnet
from cifar_core.models.eva_small import eva_small
from cifar_core.models.resnet import resnet18, resnet20


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.depthwise = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=False)
        self.unused = nn.Linear(7, 2)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 5)

    def forward(self, images):
        features = self.depthwise(self.stem(images))
        return self.fc(self.drop(features.mean(dim=(2, 3))))


SMALL_NET_TABLE = """\
module     type            output  parameters
stem       Sequential   4 x 8 x 8         120
  stem.0   Conv2d       4 x 8 x 8         112
  stem.1   BatchNorm2d  4 x 8 x 8           8
  stem.2   ReLU         4 x 8 x 8           0
depthwise  Conv2d       4 x 4 x 4          36
unused     Linear               -          16
drop       Dropout              4           0
fc         Linear               5          25
---------------------------------------------
parameters  197
trainable   85
forward     0.0000 GFLOP per picture of 8x8"""


def test_table_of_a_small_net():
    model = SmallNet()
    model.stem[0].requires_grad_(False)
    assert summarize(model, 8).splitlines() == SMALL_NET_TABLE.splitlines()


def gigaflops(model, image_size):
    return float(summarize(model, image_size).splitlines()[-1].split()[1])


def test_flops_of_a_small_net_by_hand():
    # Per pixel of the output: the stem 3 * 9 * 4 multiply-adds, the depthwise convolution 9 * 4.
    by_hand = 2 * (512 * 512 * 3 * 9 * 4 + 256 * 256 * 9 * 4 + 4 * 5)
    assert gigaflops(SmallNet(), 512) == pytest.approx(by_hand / 1e9, abs=6e-5)


def conv_flops(model, image_size):
    """Count from the layers' own settings and the shapes that plain arithmetic gives them."""
    total = 0

    def add(module, args, output):
        nonlocal total
        if isinstance(module, nn.Linear):
            total += 2 * module.in_features * module.out_features
        else:
            fan_in = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            total += 2 * fan_in * output[0].numel()

    handles = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model.eval()(torch.zeros(1, 3, image_size, image_size))
    for handle in handles:
        handle.remove()
    return total / 1e9


@pytest.mark.parametrize("function", [resnet18, resnet20, davidnet, eva_small])
def test_flops_of_shipped_models(function):
    model = function()
    assert gigaflops(model, 32) == pytest.approx(conv_flops(model, 32), abs=6e-5)


def test_flops_of_resnet18_as_published():
    assert gigaflops(resnet18(), 32) == 1.1108


def test_resnet18_lines():
    lines = [line.split() for line in summarize(resnet18(), 32).splitlines()]
    assert ["layer3", "Sequential", "256", "x", "8", "x", "8", "2,099,712"] in lines
    assert ["layer4.1", "BasicBlock", "512", "x", "4", "x", "4", "4,720,640"] in lines
    assert ["parameters", "11,173,962"] in lines
    assert ["trainable", "11,173,962"] in lines


def snapshot(model):
    values = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return values, modes, hooks, [parameter.grad for parameter in model.parameters()]


def test_the_model_and_the_random_stream_are_left_as_they_were():
    model = SmallNet().train()
    model.stem[1].eval()
    rng = torch.get_rng_state()
    values, *rest = snapshot(model)
    summarize(model, 8)
    assert torch.equal(torch.get_rng_state(), rng)
    values_after, *rest_after = snapshot(model)
    assert rest_after == rest
    torch.testing.assert_close(values_after, values, rtol=0, atol=0)


def test_the_model_is_left_as_it_was_after_an_exception():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(5, 2)).train()
    _, *rest = snapshot(model)
    with pytest.raises(RuntimeError, match="shapes"):
        summarize(model, 8)
    _, *rest_after = snapshot(model)
    assert rest_after == rest


def test_other_precisions_and_nets_without_parameters():
    assert summarize(SmallNet().to(torch.bfloat16), 8).endswith("8x8")
    assert "parameters  0" in summarize(nn.Sequential(nn.AvgPool2d(8), nn.Flatten()), 8)
