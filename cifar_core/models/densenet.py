"""DenseNet-BC for small pictures (Huang et al. 2017, arXiv:1608.06993)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseLayer(nn.Module):
    """A bottleneck of 4 * `growth` channels, whose `growth` new ones are appended to what came in."""

    def __init__(self, in_channels: int, growth: int) -> None:
        """Take `in_channels` to `in_channels + growth`."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + growth, H, W)."""
        new = self.conv1(F.relu(self.bn1(features), inplace=True))
        new = self.conv2(F.relu(self.bn2(new), inplace=True))
        return torch.cat((features, new), dim=1)


def _transition(in_channels: int) -> nn.Sequential:
    """Halve channels (the paper's theta, or reduction, of 0.5) and grid."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, in_channels // 2, 1, bias=False),
        nn.AvgPool2d(2),
    )


def _dense(in_channels: int, growth: int, depth: int) -> list[DenseLayer]:
    return [DenseLayer(in_channels + i * growth, growth) for i in range(depth)]


class DenseNet(nn.Module):
    """A 3x3 stem, dense blocks on grids of 32, 16, 8 and 4 at 32x32, BatchNorm, global average pooling, `fc`.

    The blocks have 6, 12, 24 and 16 layers, as in DenseNet-121; `layer2` to `layer4` begin with a transition.
    """

    def __init__(self, num_classes: int, *, in_chans: int, growth: int, drop_rate: float) -> None:
        """Start with twice `growth` channels; each layer adds `growth`."""
        super().__init__()
        k = growth
        self.conv1 = nn.Conv2d(in_chans, 2 * k, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(*_dense(2 * k, k, depth=6))
        self.layer2 = nn.Sequential(_transition(8 * k), *_dense(4 * k, k, depth=12))
        self.layer3 = nn.Sequential(_transition(16 * k), *_dense(8 * k, k, depth=24))
        self.layer4 = nn.Sequential(_transition(32 * k), *_dense(16 * k, k, depth=16))
        self.bn = nn.BatchNorm2d(32 * k)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(32 * k, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward_features(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to (N, C, H // 8, W // 8)."""
        features = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(images)))))
        return F.relu(self.bn(features), inplace=True)

    def forward_head(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to logits (N, num_classes)."""
        return self.fc(self.drop(features.mean(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))


def densenet_cifar(
    num_classes: int = 10, *, in_chans: int = 3, growth: int = 12, drop_rate: float = 0.0
) -> DenseNet:
    """Return DenseNet-BC with blocks of 6, 12, 24 and 16 layers: 1,000,618 parameters for ten classes.

    `growth` is the channels that each layer adds (the paper's k), `drop_rate` the dropout before `fc`.
    """
    return DenseNet(num_classes, in_chans=in_chans, growth=growth, drop_rate=drop_rate)
