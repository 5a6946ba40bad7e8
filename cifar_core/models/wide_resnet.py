"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv:1605.07146)."""

import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.models.resnet import conv3x3


class WideBlock(nn.Module):
    """A pre-activation block with dropout between its two convolutions (the paper's section 2.4)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, drop_rate: float) -> None:
        """Take `in_channels` to `out_channels`; the first convolution has the stride."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.drop = nn.Dropout(drop_rate)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        active = F.relu(self.bn1(features), inplace=True)
        shortcut = features if self.shortcut is None else self.shortcut(active)
        residual = F.relu(self.bn2(self.conv1(active)), inplace=True)
        return shortcut + self.conv2(self.drop(residual))


def _stage(in_channels: int, out_channels: int, stride: int, blocks: int, drop_rate: float) -> nn.Sequential:
    first = WideBlock(in_channels, out_channels, stride, drop_rate)
    rest = (WideBlock(out_channels, out_channels, 1, drop_rate) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


class WideResNet(nn.Module):
    """A 3x3 stem, three stages on grids of 32, 16 and 8 at 32x32, BatchNorm, global average pooling, `fc`."""

    def __init__(
        self,
        num_classes: int,
        *,
        depth: int,
        widen: int,
        in_chans: int,
        width: int,
        drop_rate: float,
        block_drop_rate: float,
    ) -> None:
        """Give a stem of `width` channels, then `widen`, 2 and 4 times that; `depth` is 6 blocks + 4."""
        super().__init__()
        blocks, w = (depth - 4) // 6, width * widen
        self.conv1 = conv3x3(in_chans, width)
        self.layer1 = _stage(width, w, 1, blocks, block_drop_rate)
        self.layer2 = _stage(w, 2 * w, 2, blocks, block_drop_rate)
        self.layer3 = _stage(2 * w, 4 * w, 2, blocks, block_drop_rate)
        self.bn = nn.BatchNorm2d(4 * w)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(4 * w, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to (N, C, ceil(H / 4), ceil(W / 4))."""
        features = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return F.relu(self.bn(features), inplace=True)

    def forward_head(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to logits (N, num_classes)."""
        return self.fc(self.drop(features.mean(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))


def wrn16_4(
    num_classes: int = 10,
    *,
    in_chans: int = 3,
    width: int = 16,
    drop_rate: float = 0.0,
    block_drop_rate: float = 0.0,
) -> WideResNet:
    """Return WRN-16-4: 2,748,890 parameters for ten classes.

    `width` is the channels of the stem, a quarter of the first stage's; `drop_rate` the dropout before `fc`,
    `block_drop_rate` the one between the two convolutions of every block.
    """
    return WideResNet(
        num_classes,
        depth=16,
        widen=4,
        in_chans=in_chans,
        width=width,
        drop_rate=drop_rate,
        block_drop_rate=block_drop_rate,
    )


def wrn28_10(
    num_classes: int = 10,
    *,
    in_chans: int = 3,
    width: int = 16,
    drop_rate: float = 0.0,
    block_drop_rate: float = 0.0,
) -> WideResNet:
    """Return WRN-28-10: 36,479,194 parameters for ten classes; options as `wrn16_4`, `width` a tenth."""
    return WideResNet(
        num_classes,
        depth=28,
        widen=10,
        in_chans=in_chans,
        width=width,
        drop_rate=drop_rate,
        block_drop_rate=block_drop_rate,
    )
