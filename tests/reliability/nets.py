"""A network with faults, for ``--model``: which one it has is a number in its checkpoint."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import torch
from torch import Tensor, nn

FINE, RAISES, HANGS, HANGS_WITH_THE_LOCK, TAKES_MEMORY, TAKES_TOO_MUCH = range(6)
PER_IMAGE = {TAKES_MEMORY: 2**21, TAKES_TOO_MUCH: 2**22}  # numbers of four bytes: 1 or 2 GiB for a batch of 128 images


class Net(nn.Module):
    """Features of an image are its mean colours and a few filters; ``fault`` says what goes wrong on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.register_buffer("fault", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        fault = int(self.fault)
        if fault == RAISES:
            raise ArithmeticError("broken\nnet")
        if fault == HANGS:
            time.sleep(3600)
        if fault == HANGS_WITH_THE_LOCK:
            ctypes.PyDLL(None).sleep(3600)
        if fault in PER_IMAGE:
            torch.ones(len(images), PER_IMAGE[fault])
        return self.filters(images)


class Whole(nn.Module):
    """Backbone and projector."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.projector = Net(), nn.Linear(16, 4)


def build() -> nn.Module:
    """For ``--model nets.py:build``."""
    return Whole()


def write(path: Path, fault: int, seed: int = 0) -> None:
    """A checkpoint with a fault."""
    torch.manual_seed(seed)
    whole = Whole()
    whole.backbone.fault.fill_(fault)
    torch.save({"state_dict": whole.state_dict()}, path)
