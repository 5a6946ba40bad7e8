"""A net below 200,000 parameters: depthwise-separable convolutions, strides and dilation, no pooling layers.

Separable convolutions after Howard et al. 2017 (arXiv:1704.04861), dilation after Yu & Koltun 2015
(arXiv:1511.07122), global average pooling after Lin et al. 2013 (arXiv:1312.4400).
"""

from torch import Tensor, nn


def _norm_relu(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]


def _separable(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    depthwise = nn.Conv2d(
        in_channels,
        in_channels,
        kernel_size=3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        groups=in_channels,
        bias=False,
    )
    pointwise = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
    return nn.Sequential(*_norm_relu(depthwise), *_norm_relu(pointwise))


class EvaSmall(nn.Module):
    """A full 3x3 stem and four stages on grids of 32, 16, 8 and 8 at 32x32; `layer4` is the dilated one.

    A feature of the last stage sees 57 x 57 pixels, so every one sees most of a 32x32 picture.
    """

    def __init__(self, num_classes: int, *, in_chans: int, width: int, drop_rate: float) -> None:
        """Start with `width` channels and end with six times as many."""
        super().__init__()
        w = width
        self.stem = nn.Sequential(*_norm_relu(nn.Conv2d(in_chans, w, kernel_size=3, padding=1, bias=False)))
        self.layer1 = nn.Sequential(_separable(w, 2 * w), _separable(2 * w, 2 * w))
        self.layer2 = nn.Sequential(_separable(2 * w, 4 * w, stride=2), _separable(4 * w, 4 * w))
        self.layer3 = nn.Sequential(_separable(4 * w, 6 * w, stride=2), _separable(6 * w, 6 * w))
        self.layer4 = nn.Sequential(*(_separable(6 * w, 6 * w, dilation=2) for _ in range(2)))
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(6 * w, num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to (N, C, ceil(H / 4), ceil(W / 4))."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(images)))))

    def forward_head(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to logits (N, num_classes)."""
        return self.fc(self.drop(features.mean(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))


def eva_small(
    num_classes: int = 10, *, in_chans: int = 3, width: int = 32, drop_rate: float = 0.0
) -> EvaSmall:
    """Return the small net: 181,962 parameters for ten classes.

    `width` is the channels of the stem, `drop_rate` the dropout before `fc`.
    """
    return EvaSmall(num_classes, in_chans=in_chans, width=width, drop_rate=drop_rate)
