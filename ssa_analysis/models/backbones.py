"""ResNets with an ImageNet or a CIFAR stem and a width factor, and a small convnet.

The residual blocks are torchvision's; so are the parameter names, which lets torchvision's files load as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ssa_analysis.errors import SettingsError
from ssa_analysis.registry import unknown_name

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck


@dataclass(frozen=True)
class Stem:
    """What comes before the first block: a convolution with BatchNorm, a ReLU if ``relu``, a 3x3 max-pool if ``max_pool``."""

    kernel: int = 7
    stride: int = 2
    padding: int = 3
    max_pool: bool = True
    relu: bool = True


STEMS = {"cifar": Stem(3, 1, 1, max_pool=False), "imagenet": Stem()}
SHORTCUTS = ("conv", "conv-bias", "pad", "none")


@dataclass(frozen=True)
class ResNetPlan:
    """What a ResNet is built from.

    Attributes:
        bottleneck: blocks of three convolutions. depths: blocks in each stage. width: channels of the stem; planes: of the
            first stage's blocks, doubled in each further one.
        base_width, groups: of bottlenecks, as torchvision counts them (Wide ResNets, ResNeXts).
        shortcut: where a block changes the shape: ``conv`` (1x1 with BatchNorm), ``conv-bias`` (1x1 with a bias and no
            BatchNorm), ``pad`` (every second pixel, zeros for the new channels; He et al.'s option A), or ``none``: no block
            has a skip connection at all.
    """

    bottleneck: bool
    depths: tuple[int, ...]
    width: int
    stem: Stem = STEMS["imagenet"]
    planes: int = 0
    base_width: int = 64
    groups: int = 1
    shortcut: str = "conv"


class _Pad(nn.Module):
    """Option A of He et al. (2016): every second pixel, and zeros for the channels that are new."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


class _Nothing(nn.Module):
    """A shortcut that adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros((), dtype=x.dtype, device=x.device)


class ResNet(nn.Module):
    """He et al. 2016. ``forward`` maps ``(n, 3, h, w)`` normalised images to features ``(n, feature_dim)``.

    The CIFAR stem is a 3x3 convolution of stride 1 without max-pooling (Chen et al. 2020, appendix B.9).
    """

    def __init__(self, plan: ResNetPlan) -> None:
        super().__init__()
        from torchvision.models import resnet  # takes two seconds to import

        block: type[BasicBlock] | type[Bottleneck] = resnet.Bottleneck if plan.bottleneck else resnet.BasicBlock
        if plan.shortcut not in SHORTCUTS:
            raise unknown_name("shortcut", plan.shortcut, list(SHORTCUTS))
        self.plan, stem = plan, plan.stem
        self._channels = plan.width
        self.conv1 = nn.Conv2d(3, plan.width, stem.kernel, stem.stride, stem.padding, bias=False)
        self.bn1 = nn.BatchNorm2d(plan.width)
        self.relu: nn.Module = nn.ReLU(inplace=True) if stem.relu else nn.Identity()
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1) if stem.max_pool else nn.Identity()
        self.stages = [f"layer{number}" for number in range(1, len(plan.depths) + 1)]
        for number, (name, depth) in enumerate(zip(self.stages, plan.depths, strict=True)):
            planes = (plan.planes or plan.width) * 2**number
            self.add_module(name, self._stage(block, planes, depth, 2 if number else 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.feature_dim = self._channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, block: type[BasicBlock] | type[Bottleneck], planes: int, depth: int, stride: int) -> nn.Sequential:
        plan, out = self.plan, planes * block.expansion
        shortcut = self._shortcut(out, stride) if stride != 1 or self._channels != out else None
        more: dict[str, Any] = {"groups": plan.groups, "base_width": plan.base_width} if plan.bottleneck else {}
        layers: list[nn.Module] = [block(self._channels, planes, stride, shortcut, **more)]
        self._channels = out
        layers += [block(out, planes, **more) for _ in range(1, depth)]
        if plan.shortcut == "none":
            for layer in layers:
                layer.downsample = _Nothing()
        return nn.Sequential(*layers)

    def _shortcut(self, out: int, stride: int) -> nn.Module:
        kind = self.plan.shortcut
        if kind == "pad":
            return _Pad(out - self._channels, stride)
        if kind == "conv-bias":
            return nn.Conv2d(self._channels, out, 1, stride)
        return nn.Sequential(nn.Conv2d(self._channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
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


def _resnet(bottleneck: bool, depths: tuple[int, ...]) -> Callable[[int, str], nn.Module]:
    def build(width: int, stem: str) -> nn.Module:
        if stem not in STEMS:
            raise unknown_name("stem", stem, list(STEMS))
        return ResNet(ResNetPlan(bottleneck, depths, width, STEMS[stem]))

    return build


ARCHITECTURES: dict[str, Architecture] = {
    "convnet": Architecture("three convolutions, for small images and quick trials", 16, lambda width, stem: ConvNet(width)),
    "resnet18": Architecture("ResNet-18", 64, _resnet(False, (2, 2, 2, 2))),
    "resnet34": Architecture("ResNet-34", 64, _resnet(False, (3, 4, 6, 3))),
    "resnet50": Architecture("ResNet-50", 64, _resnet(True, (3, 4, 6, 3))),
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
