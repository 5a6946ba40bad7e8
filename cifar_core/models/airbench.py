"""The net of airbench94 (Jordan 2024, 94 % on CIFAR-10 in 3.29 seconds on one GPU, arXiv:2404.00498)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 256  # pictures whose patches are in memory at a time
NOISE = 5e-4  # added to the variances before whitening, in units of normalised pictures (section 3.1)


def _norm(channels: int) -> nn.BatchNorm2d:
    """Return a normalisation without gain, whose running figures forget fast."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class Group(nn.Module):
    """Two convolutions; the first is followed by pooling, which halves the grid, before its normalisation."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Change the number of channels in the first convolution."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = _norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = _norm(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H // 2, W // 2)."""
        features = F.gelu(self.norm1(self.pool(self.conv1(features))))
        return F.gelu(self.norm2(self.conv2(features)))


class Airbench(nn.Module):
    """`whiten` on 2x2 patches, three groups on grids of 15, 7 and 3 at 32x32, global max pooling, `fc`."""

    def __init__(
        self, num_classes: int, *, in_chans: int, width: int, whitening: bool, dirac_init: bool
    ) -> None:
        """Give the three groups `width`, 4 and 4 times as many channels."""
        super().__init__()
        patch = in_chans * 2 * 2
        self.whiten = nn.Conv2d(in_chans, 2 * patch, 2)
        self.whiten.weight.requires_grad_(not whitening)
        self.layer1 = Group(2 * patch, width)
        self.layer2 = Group(width, 4 * width)
        self.layer3 = Group(4 * width, 4 * width)
        self.fc = nn.Linear(4 * width, num_classes, bias=False)
        with torch.no_grad():
            self.fc.weight /= self.fc.weight.std()
        if dirac_init:
            self._start_as_identity()

    def _start_as_identity(self) -> None:
        """Let the first filters of each 3x3 convolution pass their own channel on; the others stay random."""
        for group in (self.layer1, self.layer2, self.layer3):
            for conv in (group.conv1, group.conv2):
                nn.init.dirac_(conv.weight.detach()[: conv.in_channels])

    @torch.no_grad()
    def init_from_data(self, images: Tensor) -> None:
        """Set the filters of `whiten`, unless they are trained, from normalised pictures (N, in_chans, H, W).

        They are the eigenvectors of the covariance of all 2x2 patches, divided by the standard deviations
        along them, and their negatives (section 3.1; Coates et al. 2011).
        """
        if self.whiten.weight.requires_grad:
            return
        moments, count = images.new_zeros((), dtype=torch.float32), 0
        for some in images.float().split(CHUNK):
            patches = F.unfold(some, 2).transpose(0, 1).flatten(1)  # (patch, N (H - 1) (W - 1))
            moments, count = moments + patches @ patches.T, count + patches.shape[1]
        if moments.device.type == "mps":
            moments = moments.cpu()  # torch 2.11 has no eigh there
        variances, directions = torch.linalg.eigh(moments / count)
        filters = directions.T / (variances + NOISE).sqrt()[:, None]
        self.whiten.weight.copy_(torch.cat((filters, -filters)).view_as(self.whiten.weight))

    def forward_features(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to (N, C, (H - 1) // 8, (W - 1) // 8)."""
        return self.layer3(self.layer2(self.layer1(F.gelu(self.whiten(images)))))

    def forward_head(self, features: Tensor) -> Tensor:
        """Map (N, C, h, w) to logits (N, num_classes); the original's 3x3 pool is the whole grid at 32x32."""
        features = features.amax(dim=(2, 3))
        return self.fc(features) / features.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))


def airbench(
    num_classes: int = 10,
    *,
    in_chans: int = 3,
    width: int = 64,
    whitening: bool = True,
    dirac_init: bool = True,
) -> Airbench:
    """Return airbench94's net: 1,972,792 parameters for ten classes, of which 1,440 are never trained.

    Those are the gains and the filters of `whiten`, which `init_from_data` sets before a training; without
    `whitening` the filters are trained like the rest.
    """
    return Airbench(num_classes, in_chans=in_chans, width=width, whitening=whitening, dirac_init=dirac_init)
