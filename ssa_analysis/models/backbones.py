"""ResNets with an ImageNet or a CIFAR stem and a width factor, and a small convnet.

The residual blocks are torchvision's; so are the parameter names, which lets torchvision's files load as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ssa_analysis.errors import SettingsError
from ssa_analysis.registry import unknown_name

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

STEMS = ("cifar", "imagenet")


class ResNet(nn.Module):
    """He et al. 2016. ``forward`` maps ``(n, 3, h, w)`` normalised images to features ``(n, feature_dim)``.

    The CIFAR stem is a 3x3 convolution of stride 1 without max-pooling (Chen et al. 2020, appendix B.9).
    """

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, ...], width: int, stem: str) -> None:
        super().__init__()
        if stem not in STEMS:
            raise unknown_name("stem", stem, list(STEMS))
        self._channels = width
        if stem == "cifar":
            self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(block, width, depths[0], 1)
        self.layer2 = self._stage(block, 2 * width, depths[1], 2)
        self.layer3 = self._stage(block, 4 * width, depths[2], 2)
        self.layer4 = self._stage(block, 8 * width, depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.feature_dim = self._channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, block: type[BasicBlock] | type[Bottleneck], planes: int, depth: int, stride: int) -> nn.Sequential:
        out = planes * block.expansion
        shortcut: nn.Module | None = None
        if stride != 1 or self._channels != out:
            shortcut = nn.Sequential(nn.Conv2d(self._channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        # torchvision's width_per_group counts from 64; without groups the block's width is planes itself
        layers: list[nn.Module] = [block(self._channels, planes, stride, shortcut)]
        self._channels = out
        layers += [block(out, planes) for _ in range(1, depth)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features: Tensor = self.avgpool(x).flatten(1)
        return features


class ConvNet(nn.Module):
    """Three 3x3 convolutions with BatchNorm, strides 1, 2, 2, and global average pooling: small and quick."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for i, stride in enumerate((1, 2, 2)):
            layers += [
                nn.Conv2d(sizes[i], sizes[i + 1], 3, stride, 1, bias=False),
                nn.BatchNorm2d(sizes[i + 1]),
                nn.ReLU(inplace=True),
            ]
        self.blocks = nn.Sequential(*layers)
        self.feature_dim = sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x).mean((2, 3))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Architecture:
    """One row of the table of backbones."""

    summary: str
    default_width: int
    build: Callable[[int, str], nn.Module]


def _resnet(block: str, depths: tuple[int, ...]) -> Callable[[int, str], nn.Module]:
    def build(width: int, stem: str) -> nn.Module:
        from torchvision.models import resnet  # takes two seconds to import

        return ResNet(getattr(resnet, block), depths, width, stem)

    return build


ARCHITECTURES: dict[str, Architecture] = {
    "convnet": Architecture("three convolutions, for small images and quick trials", 16, lambda width, stem: ConvNet(width)),
    "resnet18": Architecture("ResNet-18", 64, _resnet("BasicBlock", (2, 2, 2, 2))),
    "resnet34": Architecture("ResNet-34", 64, _resnet("BasicBlock", (3, 4, 6, 3))),
    "resnet50": Architecture("ResNet-50", 64, _resnet("Bottleneck", (3, 4, 6, 3))),
}


def build_backbone(arch: str, width: int | None = None, stem: str = "cifar") -> nn.Module:
    """A freshly initialised backbone; it has an integer attribute ``feature_dim``.

    Args:
        arch: a name of ``ARCHITECTURES``. width: channels of the first stage. stem: ``cifar`` or ``imagenet``.
    """
    if arch not in ARCHITECTURES:
        raise unknown_name("architecture", arch, list(ARCHITECTURES))
    row = ARCHITECTURES[arch]
    if width is not None and width < 1:
        raise SettingsError(f"the width must be at least 1, got {width}")
    return row.build(width or row.default_width, stem)
