"""A small checkpoint of our own format, made without training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssa_analysis.checkpoints.writing import save_checkpoint
from ssa_analysis.data.views import RECIPES
from ssa_analysis.models.backbones import build_backbone
from ssa_analysis.models.encoder import Encoder, Projector
from ssa_analysis.numerics.seeding import seeded

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def small_encoder() -> Encoder:
    """A convnet of width 4 with a projector 16-8-4."""
    with seeded(0, "checkpoint tests"):
        return Encoder(build_backbone("convnet", 4), Projector((16, 8, 4)), MEAN, STD).eval()


@pytest.fixture
def payload(small_encoder: Encoder) -> dict[str, Any]:
    """What ``ssa-analyze train`` writes of it, without ``format`` and ``version``."""
    return {
        "encoder": {
            "arch": "convnet", "width": 4, "stem": "cifar", "projector": [8, 4], "mean": list(MEAN), "std": list(STD),
        },
        "model": small_encoder.state_dict(),
        "recipe": RECIPES["digits"].to_dict(),
        "loss": {"tau": 0.5, "beta": None},
        "training": {
            "settings": {"method": "ssa-clr", "epochs": 3, "tau": 0.5, "beta": None},
            "data": {"name": "digits", "fingerprint": "0"},
            "epoch": 3,
            "loss": 4.0,
        },
        "optimizer": {"state": {}},
    }  # fmt: skip


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """``save(payload, name)`` writes our format and returns the path."""

    def write(content: dict[str, Any], name: str = "last.pt") -> Path:
        save_checkpoint(tmp_path / name, content)
        return tmp_path / name

    return write
