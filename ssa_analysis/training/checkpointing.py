"""The state of a training run on disk, and taking it up again."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ssa_analysis.checkpoints.reading import read_file
from ssa_analysis.checkpoints.writing import FORMAT, save_checkpoint
from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.models.backbones import ARCHITECTURES
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.training.logs import EpochLog
from ssa_analysis.training.settings import TrainSettings


def state_on_cpu(encoder: Encoder) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in encoder.state_dict().items()}


def save_run(
    path: Path, settings: TrainSettings, data: Data, encoder: Encoder, initial: dict[str, Tensor],
    optimizer: torch.optim.Optimizer, row: EpochLog,
) -> None:  # fmt: skip
    assert encoder.recipe is not None
    save_checkpoint(
        path,
        {
            "encoder": {
                "arch": settings.arch,
                "width": settings.width or ARCHITECTURES[settings.arch].default_width,
                "stem": settings.stem,
                "projector": list(settings.projector),
                "mean": list(data.mean),
                "std": list(data.std),
                "image_size": data.image_size,
            },
            "model": state_on_cpu(encoder),
            "initial": initial,
            "recipe": encoder.recipe.to_dict(),
            "loss": encoder.loss,
            "training": {
                "settings": settings.to_dict(),
                "epoch": row.epoch,
                "step": row.step,
                "loss": row.loss if math.isfinite(row.loss) else None,  # none yet
                "data": {"name": data.name, "fingerprint": data.fingerprint},
            },
            "optimizer": optimizer.state_dict(),
        },
    )


def restore_run(path: Path, settings: TrainSettings, data: Data, encoder: Encoder, optimizer: torch.optim.Optimizer) -> int:
    """Load a run's state; returns the number of finished epochs."""
    payload = read_file(path)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise SettingsError(f"{path}: not a checkpoint of ssa-analyze train; it cannot be resumed")
    saved = payload["training"]["settings"]
    wanted = settings.to_dict()
    saved = {**TrainSettings().to_dict(), **saved}  # settings that were not there yet when it was written
    different = [f"{k} was {saved.get(k)!r}, now {v!r}" for k, v in wanted.items() if saved.get(k) != v]
    if different:
        raise SettingsError(f"{path}: cannot resume with other settings: {'; '.join(different)}")
    if payload["training"]["data"]["fingerprint"] != data.fingerprint:
        raise SettingsError(f"{path}: cannot resume: it was trained on other data ({payload['training']['data']['name']})")
    encoder.load_state_dict(payload["model"])
    optimizer.load_state_dict(payload["optimizer"])
    return int(payload["training"]["epoch"])
