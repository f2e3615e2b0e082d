"""A perfect extractor, and data that it can read the class off."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from ssa_analysis.data.datasets import Data
from ssa_analysis.models.encoder import Encoder


class Oracle(nn.Module):
    """Features that are a one-hot code of the class, read off a pixel that the data carry; a perfect extractor."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        label = (x[:, 0, 0, 0] * 255).round().long().clamp(0, self.classes - 1)
        return torch.nn.functional.one_hot(label, self.classes).float()


@pytest.fixture
def coded(digits: Data) -> Data:
    images = digits.images.clone()
    images[:, :, 0, 0] = digits.labels[:, None].to(torch.uint8)
    return dataclasses.replace(digits, images=images, recipe="none", mean=(0.0,) * 3, std=(1.0,) * 3, fingerprint="coded")


@pytest.fixture
def oracle() -> Encoder:
    return Encoder(Oracle(10), nn.Identity(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).eval()
