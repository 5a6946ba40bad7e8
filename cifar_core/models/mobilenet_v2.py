"""MobileNetV2 with the strides of small pictures (Sandler et al. 2018, arXiv:1801.04381)."""

from torch import Tensor, nn

EXPANSION = 6
# Channels at a stem of 32, blocks, stride of the first block: table 2, but with the first two strides 1.
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


def _conv_bn(
    in_channels: int, out_channels: int, size: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(
        in_channels, out_channels, size, stride=stride, padding=size // 2, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel alone, narrow by a 1x1 convolution without activation.

    Unlike the paper, but as in the usual CIFAR form, a block of stride 1 always has a shortcut, which
    projects where the channels change.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        """Take `in_channels` to `out_channels` by way of `expansion * in_channels`."""
        super().__init__()
        wide = expansion * in_channels
        self.expand = nn.Sequential(*_conv_bn(in_channels, wide), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(*_conv_bn(wide, wide, 3, stride, groups=wide), nn.ReLU6(inplace=True))
        self.project = _conv_bn(wide, out_channels)
        self.shortcut: nn.Module | None = None
        if stride == 1:
            same = in_channels == out_channels
            self.shortcut = nn.Identity() if same else _conv_bn(in_channels, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        residual = self.project(self.depthwise(self.expand(features)))
        return residual if self.shortcut is None else residual + self.shortcut(features)


class MobileNetV2(nn.Module):
    """A 3x3 stem, seven stages on grids of 32, 32, 16, 8, 8, 4 and 4 at 32x32, a 1x1 convolution, `fc`."""

    def __init__(self, num_classes: int, *, in_chans: int, width: int, drop_rate: float) -> None:
        """Start with `width` channels; those of all other layers are in proportion."""
        super().__init__()
        self.stem = nn.Sequential(*_conv_bn(in_chans, width, 3), nn.ReLU6(inplace=True))
        self.layers = nn.Sequential()
        before = width
        for channels, depth, stride in STAGES:
            after = channels * width // 32
            expansion = EXPANSION if self.layers else 1
            first = InvertedResidual(before, after, stride, expansion)
            rest = (InvertedResidual(after, after, 1, EXPANSION) for _ in range(depth - 1))
            self.layers.append(nn.Sequential(first, *rest))
            before = after
        self.last = nn.Sequential(*_conv_bn(before, 40 * width), nn.ReLU6(inplace=True))
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(40 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward_features(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to (N, C, ceil(H / 8), ceil(W / 8))."""
        return self.last(self.layers(self.stem(images)))

    def forward_head(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to logits (N, num_classes)."""
        return self.fc(self.drop(features.mean(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))


def mobilenet_v2(
    num_classes: int = 10, *, in_chans: int = 3, width: int = 32, drop_rate: float = 0.0
) -> MobileNetV2:
    """Return MobileNetV2: 2,296,922 parameters for ten classes.

    `width` is the channels of the stem, `drop_rate` the dropout before `fc`.
    """
    return MobileNetV2(num_classes, in_chans=in_chans, width=width, drop_rate=drop_rate)
