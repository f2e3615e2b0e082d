"""Small networks of tutorials and libraries whose checkpoints are read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from ssa_analysis.errors import MeasureError


class LeNet(nn.Module):
    """Two 5x5 convolutions, each with ReLU and max-pooling, and two linear layers with ReLU: ``(n, 3, 32, 32)`` -> ``(n, d)``."""

    def __init__(self, first: int, second: int, hidden: int, features: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, first, 5), nn.Conv2d(first, second, 5)
        self.fc1, self.fc2 = nn.Linear(25 * second, hidden), nn.Linear(hidden, features)
        self.feature_dim = features

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (32, 32):
            raise MeasureError(f"this network takes images of 32 pixels, got {x.shape[-1]}; pass --image-size 32")
        for layer in (self.conv1, self.conv2):
            x = max_pool2d(relu(layer(x)), 2)
        return relu(self.fc2(relu(self.fc1(x.flatten(1)))))


class PixelMLP(nn.Module):
    """Linear layers with ReLU on the pixels of the first channel; the features are those after the last ReLU.

    Args:
        sizes: of input, hidden layers and features.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.pixels, self.feature_dim = sizes[0], sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] * x.shape[-2] != self.pixels:
            side = round(self.pixels**0.5)
            raise MeasureError(f"this network takes images of {side} pixels, got {x.shape[-1]}; pass --image-size {side}")
        features: Tensor = self.layers(x[:, 0].flatten(1))
        return features


class ConvEncoder(nn.Module):
    """3x3 convolutions, of stride 2 and 1 in turn, each with GELU, and a linear layer on all of the last map.

    Args:
        channels: of the images and of each convolution. features: of the linear layer. flat: numbers that it takes.
    """

    def __init__(self, channels: Sequence[int], features: int, flat: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for place, (a, b) in enumerate(pairwise(channels)):
            layers += [nn.Conv2d(a, b, 3, 1 if place % 2 else 2, 1), nn.GELU()]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, features))
        self.flat, self.feature_dim = flat, features

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.net[:-1](x)
        if maps.shape[1] != self.flat:
            raise MeasureError(f"this network does not take images of {x.shape[-1]} pixels")
        features: Tensor = self.net[-1](maps)
        return features
