"""VGG-16 with BatchNorm for small pictures (Simonyan & Zisserman 2014, arXiv:1409.1556, configuration D)."""

from torch import Tensor, nn


def _convs(in_channels: int, out_channels: int, depth: int) -> list[nn.Module]:
    # The biases do nothing before a BatchNorm, but the usual form, and its parameter count, has them.
    layers: list[nn.Module] = []
    for channels in (in_channels, *[out_channels] * (depth - 1)):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
    return layers


class VGG(nn.Module):
    """Five stages on grids of 32, 16, 8, 4 and 2 at 32x32, global max pooling, one linear layer."""

    def __init__(self, num_classes: int, *, in_chans: int, width: int, drop_rate: float) -> None:
        """Start with `width` channels and end with eight times as many."""
        super().__init__()
        w = width
        self.layer1 = nn.Sequential(*_convs(in_chans, w, 2))
        self.layer2 = nn.Sequential(nn.MaxPool2d(2), *_convs(w, 2 * w, 2))
        self.layer3 = nn.Sequential(nn.MaxPool2d(2), *_convs(2 * w, 4 * w, 3))
        self.layer4 = nn.Sequential(nn.MaxPool2d(2), *_convs(4 * w, 8 * w, 3))
        self.layer5 = nn.Sequential(nn.MaxPool2d(2), *_convs(8 * w, 8 * w, 3))
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(8 * w, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to (N, C, H // 16, W // 16)."""
        return self.layer5(self.layer4(self.layer3(self.layer2(self.layer1(images)))))

    def forward_head(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to logits (N, num_classes); the last 2x2 max-pool is the whole grid at 32x32."""
        return self.fc(self.drop(features.amax(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))


def vgg16_bn(num_classes: int = 10, *, in_chans: int = 3, width: int = 64, drop_rate: float = 0.0) -> VGG:
    """Return VGG-16 with one linear layer in place of three: 14,728,266 parameters for ten classes.

    `width` is the channels of the first stage, `drop_rate` the dropout before `fc`.
    """
    return VGG(num_classes, in_chans=in_chans, width=width, drop_rate=drop_rate)
