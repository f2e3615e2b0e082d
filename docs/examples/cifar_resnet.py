"""ResNet-56 for CIFAR-10, with shortcuts and without, under the names of Li et al. 2018's published checkpoints.

ssa-analyze inspect resnet56.t7 --model docs/examples/cifar_resnet.py:resnet56 --normalise \
    0.4914,0.4824,0.4467/0.2471,0.2435,0.2616
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm; the shortcut is a 1x1 convolution where the shape changes (He et al. 2016)."""

    def __init__(self, channels: int, planes: int, stride: int, shortcuts: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcuts = shortcuts
        self.shortcut = nn.Sequential()
        if shortcuts and (stride != 1 or channels != planes):
            self.shortcut = nn.Sequential(nn.Conv2d(channels, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x) if self.shortcuts else out)


class ResNet56(nn.Module):
    """Three stages of nine blocks with 16, 32, 64 channels, and a linear classifier of ten classes."""

    def __init__(self, shortcuts: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for stage, planes in enumerate((16, 32, 64), 1):
            blocks = []
            for number in range(9):
                blocks.append(Block(channels, planes, 2 if stage > 1 and number == 0 else 1, shortcuts))
                channels = planes
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet56() -> nn.Module:
    """With shortcuts."""
    return ResNet56(shortcuts=True)


def resnet56_no_shortcuts() -> nn.Module:
    """Without any shortcut."""
    return ResNet56(shortcuts=False)
