"""SimCLR v2's ResNets with selective kernels (Chen et al. 2020b; Li et al. 2019).

Beside the kernels themselves, their stem has three convolutions, and their shortcuts average before they project (Bag of
Tricks, He et al. 2019), padded below and to the right as TensorFlow does.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class SKPlan:
    """What such a network is built from.

    Attributes:
        depths: blocks in each stage. width: channels of the stem; planes: of the first stage's blocks, doubled in each further
            one. ratio: of the squeezed channels to the planes; least: the fewest squeezed channels.
    """

    depths: tuple[int, ...]
    width: int
    planes: int
    ratio: float = 0.0625
    least: int = 32


class _SelectiveKernel(nn.Module):
    """Two 3x3 convolutions, mixed for each channel with weights from the pooled sum of both."""

    def __init__(self, planes: int, stride: int, squeezed: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(planes, 2 * planes, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * planes)
        self.squeeze = nn.Conv2d(planes, squeezed, 1, bias=False)
        self.squeeze_bn = nn.BatchNorm2d(squeezed)
        self.select = nn.Conv2d(squeezed, 2 * planes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        both = self.bn(self.conv(x)).relu().unflatten(1, (2, -1))
        pooled = both.sum(1).mean((2, 3), keepdim=True)
        share = self.select(self.squeeze_bn(self.squeeze(pooled)).relu()).unflatten(1, (2, -1)).softmax(1)
        out: Tensor = (both * share).sum(1)
        return out


class _Block(nn.Module):
    def __init__(self, channels: int, planes: int, stride: int, squeezed: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.sk = _SelectiveKernel(planes, stride, squeezed)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.downsample: nn.Module = nn.Identity()
        if project:
            pooled = nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, stride)
            self.downsample = nn.Sequential(*pooled, nn.Conv2d(channels, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.sk(self.bn1(self.conv1(x)).relu())
        out: Tensor = (self.downsample(x) + self.bn3(self.conv3(inner))).relu()
        return out


class SKResNet(nn.Module):
    """``(n, 3, h, w)`` normalised images -> features ``(n, feature_dim)``."""

    def __init__(self, plan: SKPlan) -> None:
        super().__init__()
        half, layers = plan.width // 2, []
        for a, b, stride in ((3, half, 2), (half, half, 1), (half, plan.width, 1)):
            layers += [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.stem = nn.Sequential(*layers, nn.MaxPool2d(3, 2, 1))
        self.stages, channels = [f"layer{number}" for number in range(1, len(plan.depths) + 1)], plan.width
        for number, (name, depth) in enumerate(zip(self.stages, plan.depths, strict=True)):
            planes = plan.planes * 2**number
            squeezed = max(int(planes * plan.ratio), plan.least)
            blocks = []
            for block in range(depth):
                first = block == 0
                blocks.append(_Block(channels, planes, 2 if first and number else 1, squeezed, project=first))
                channels = 4 * planes
            self.add_module(name, nn.Sequential(*blocks))
        self.feature_dim = channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for name in self.stages:
            x = getattr(self, name)(x)
        features: Tensor = x.mean((2, 3))
        return features
