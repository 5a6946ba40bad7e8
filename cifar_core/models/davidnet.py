"""The nine-layer net of "How to train your ResNet" (Page 2018, github.com/davidcpage/cifar10-fast)."""

from torch import Tensor, nn


def _conv_bn(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two convolutions beside an identity; nothing follows the sum, unlike in He's block."""

    def __init__(self, channels: int) -> None:
        """Keep the number of channels."""
        super().__init__()
        self.block = nn.Sequential(_conv_bn(channels, channels), _conv_bn(channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return features + self.block(features)


class DavidNet(nn.Module):
    """`prep`, three stages that each end in a halved grid, global max pooling, a scaled head without bias."""

    def __init__(
        self, num_classes: int, *, in_chans: int, width: int, drop_rate: float, logit_scale: float
    ) -> None:
        """Start with `width` channels and double them in every stage."""
        super().__init__()
        w = width
        self.prep = _conv_bn(in_chans, w)
        self.layer1 = nn.Sequential(_conv_bn(w, 2 * w), nn.MaxPool2d(2), Residual(2 * w))
        self.layer2 = nn.Sequential(_conv_bn(2 * w, 4 * w), nn.MaxPool2d(2))
        self.layer3 = nn.Sequential(_conv_bn(4 * w, 8 * w), nn.MaxPool2d(2), Residual(8 * w))
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(8 * w, num_classes, bias=False)
        self.logit_scale = logit_scale

    def forward_features(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to (N, C, H // 8, W // 8)."""
        return self.layer3(self.layer2(self.layer1(self.prep(images))))

    def forward_head(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to logits (N, num_classes); Page's 4x4 max-pool is the whole grid at 32x32."""
        return self.logit_scale * self.fc(self.drop(features.amax(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))


def davidnet(
    num_classes: int = 10,
    *,
    in_chans: int = 3,
    width: int = 64,
    drop_rate: float = 0.0,
    logit_scale: float = 0.125,
) -> DavidNet:
    """Return Page's net: 6,573,120 parameters for ten classes.

    `width` is the channels of `prep`, `drop_rate` the dropout before `fc`; `logit_scale` multiplies the
    logits and so softens the first predictions.
    """
    return DavidNet(num_classes, in_chans=in_chans, width=width, drop_rate=drop_rate, logit_scale=logit_scale)
