"""The pre-activation ResNet for small pictures (He et al. 2016, arXiv:1603.05027)."""

import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.models.resnet import conv3x3


class PreActBlock(nn.Module):
    """BatchNorm and ReLU before each of two convolutions; nothing follows the sum.

    Where the shape changes, the shortcut projects what follows the first ReLU, without a BatchNorm.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Take `in_channels` to `out_channels`; the first convolution has the stride."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        active = F.relu(self.bn1(features), inplace=True)
        shortcut = features if self.shortcut is None else self.shortcut(active)
        residual = F.relu(self.bn2(self.conv1(active)), inplace=True)
        return shortcut + self.conv2(residual)


class PreActResNet(nn.Module):
    """A 3x3 stem, four stages of two blocks, global average pooling, `fc`.

    The paper ends with one more BatchNorm and ReLU; this common CIFAR form does without.
    """

    def __init__(self, num_classes: int, *, in_chans: int, width: int, drop_rate: float) -> None:
        """Start with `width` channels and double them in each stage after the first."""
        super().__init__()
        w = width
        self.conv1 = conv3x3(in_chans, w)
        self.layer1 = nn.Sequential(PreActBlock(w, w, 1), PreActBlock(w, w, 1))
        self.layer2 = nn.Sequential(PreActBlock(w, 2 * w, 2), PreActBlock(2 * w, 2 * w, 1))
        self.layer3 = nn.Sequential(PreActBlock(2 * w, 4 * w, 2), PreActBlock(4 * w, 4 * w, 1))
        self.layer4 = nn.Sequential(PreActBlock(4 * w, 8 * w, 2), PreActBlock(8 * w, 8 * w, 1))
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(8 * w, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to (N, C, ceil(H / 8), ceil(W / 8))."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(images)))))

    def forward_head(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to logits (N, num_classes)."""
        return self.fc(self.drop(features.mean(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))


def preact_resnet18(
    num_classes: int = 10, *, in_chans: int = 3, width: int = 64, drop_rate: float = 0.0
) -> PreActResNet:
    """Return the pre-activation ResNet-18: 11,171,146 parameters for ten classes.

    `width` is the channels of the first stage, `drop_rate` the dropout before `fc`.
    """
    return PreActResNet(num_classes, in_chans=in_chans, width=width, drop_rate=drop_rate)
