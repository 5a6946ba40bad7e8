"""ResNets for small pictures: no stride and no pooling in the stem (He et al. 2015, arXiv:1512.03385)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Return a padded 3x3 convolution without bias, since a BatchNorm follows."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


@dataclass(frozen=True)
class Drop2d:
    """Shares of whole channels that are dropped in training (Tompson et al. 2014, arXiv:1411.4280)."""

    stem: float = 0.0  # after the stem
    block: float = 0.0  # after each of the two BatchNorms of a block
    shortcut: float = 0.0  # after the BatchNorm of a shortcut that projects
    stage: float = 0.0  # after each stage


class PadShortcut(nn.Module):
    """Option A of section 3.3: skip pixels and fill up with zero channels; no parameters."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        """Add `extra_channels` channels of zeros and keep every `stride`-th pixel."""
        super().__init__()
        self.extra_channels = extra_channels
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + extra_channels, ceil(H / stride), ceil(W / stride))."""
        kept = features[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, 0, self.extra_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which projects (option B) or pads (option A) if it must."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, project: bool, drop2d: Drop2d
    ) -> None:
        """Take `in_channels` to `out_channels`; the first convolution has the stride."""
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.drop = nn.Dropout2d(drop2d.block)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = (
                nn.Sequential(
                    nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.Dropout2d(drop2d.shortcut),
                )
                if project
                else PadShortcut(out_channels - in_channels, stride)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        residual = F.relu(self.drop(self.bn1(self.conv1(features))), inplace=True)
        residual = self.drop(self.bn2(self.conv2(residual)))
        return F.relu(residual + self.shortcut(features), inplace=True)


class ResNet(nn.Module):
    """A 3x3 stem, stages `layer1`, `layer2`, ... of basic blocks, global average pooling, `fc`.

    Each stage after the first halves the grid and doubles the channels.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        blocks: Sequence[int],
        width: int,
        project: bool,
        in_chans: int,
        drop_rate: float,
        zero_init_last: bool,
        drop2d: Drop2d,
    ) -> None:
        """Stack `blocks[i]` blocks of `width * 2**i` channels in stage i."""
        super().__init__()
        channels = [width, *(width * 2**i for i in range(len(blocks)))]
        self.conv1 = conv3x3(in_chans, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.drop_stem = nn.Dropout2d(drop2d.stem)
        self.drop_stage = nn.Dropout2d(drop2d.stage)
        self.stages = [f"layer{i}" for i in range(1, len(blocks) + 1)]
        for name, depth, (before, after) in zip(self.stages, blocks, pairwise(channels), strict=True):
            stride = 1 if name == "layer1" else 2
            first = BasicBlock(before, after, stride, project, drop2d)
            rest = [BasicBlock(after, after, 1, project, drop2d) for _ in range(depth - 1)]
            self.add_module(name, nn.Sequential(first, *rest))
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(channels[-1], num_classes)
        self._init_weights(zero_init_last)

    def _init_weights(self, zero_init_last: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock) and zero_init_last:
                nn.init.zeros_(module.bn2.weight)

    def forward_features(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to the last stage's (N, C, h, w)."""
        features = self.drop_stem(F.relu(self.bn1(self.conv1(images)), inplace=True))
        for name in self.stages:
            features = self.drop_stage(self.get_submodule(name)(features))
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to logits (N, num_classes)."""
        return self.fc(self.drop(features.mean(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))


def resnet18(
    num_classes: int = 10,
    *,
    in_chans: int = 3,
    width: int = 64,
    drop_rate: float = 0.0,
    zero_init_last: bool = False,
    drop2d: Mapping[str, float] | None = None,
) -> ResNet:
    """Return ResNet-18 with a 3x3 stem: 11,173,962 parameters for ten classes.

    `width` is the channels of the first stage, `drop_rate` the dropout before `fc`; `zero_init_last` starts
    every block as its shortcut (Goyal et al. 2017, arXiv:1706.02677, section 5.1). `drop2d` has the
    rates of `Drop2d` by name; those left out are 0.
    """
    return ResNet(
        num_classes,
        blocks=(2, 2, 2, 2),
        width=width,
        project=True,
        in_chans=in_chans,
        drop_rate=drop_rate,
        zero_init_last=zero_init_last,
        drop2d=Drop2d(**(drop2d or {})),
    )


def resnet34(
    num_classes: int = 10,
    *,
    in_chans: int = 3,
    width: int = 64,
    drop_rate: float = 0.0,
    zero_init_last: bool = False,
    drop2d: Mapping[str, float] | None = None,
) -> ResNet:
    """Return ResNet-34 with a 3x3 stem: 21,282,122 parameters for ten classes; options as `resnet18`."""
    return ResNet(
        num_classes,
        blocks=(3, 4, 6, 3),
        width=width,
        project=True,
        in_chans=in_chans,
        drop_rate=drop_rate,
        zero_init_last=zero_init_last,
        drop2d=Drop2d(**(drop2d or {})),
    )


def resnet20(
    num_classes: int = 10,
    *,
    in_chans: int = 3,
    width: int = 16,
    drop_rate: float = 0.0,
    zero_init_last: bool = False,
) -> ResNet:
    """Return the paper's own CIFAR net (section 4.2): 269,722 parameters for ten classes.

    Three stages and shortcuts of option A; other options as `resnet18`.
    """
    return ResNet(
        num_classes,
        blocks=(3, 3, 3),
        width=width,
        project=False,
        in_chans=in_chans,
        drop_rate=drop_rate,
        zero_init_last=zero_init_last,
        drop2d=Drop2d(),
    )
