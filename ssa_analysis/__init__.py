"""Sharpness, shift, robustness and bounds of self-supervised vision checkpoints.

Names are imported when they are first used, so that the command line answers without waiting for torch.

>>> import ssa_analysis
>>> data = ssa_analysis.load_data("digits")
>>> data.image_size
16
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ssa_analysis.version import __version__

if TYPE_CHECKING:
    from ssa_analysis.api import score
    from ssa_analysis.checkpoints.loading import LoadedCheckpoint, LoadReport, load_checkpoint
    from ssa_analysis.data.datasets import DATASETS, Data, load_data
    from ssa_analysis.errors import (
        CheckpointError,
        DataError,
        MeasureError,
        OutputError,
        SettingsError,
        SSAError,
        StoreError,
    )
    from ssa_analysis.hooks import ScoreRecorder, lightning_callback
    from ssa_analysis.linking.links import link_scores
    from ssa_analysis.measures import MEASURES
    from ssa_analysis.models.encoder import Encoder
    from ssa_analysis.running.store import Store
    from ssa_analysis.scores import Score
    from ssa_analysis.training.loop import train
    from ssa_analysis.training.settings import TrainSettings

_HOME = {
    "DATASETS": "data.datasets",
    "MEASURES": "measures",
    "CheckpointError": "errors",
    "Data": "data.datasets",
    "DataError": "errors",
    "Encoder": "models.encoder",
    "LoadReport": "checkpoints.loading",
    "LoadedCheckpoint": "checkpoints.loading",
    "MeasureError": "errors",
    "OutputError": "errors",
    "SSAError": "errors",
    "Score": "scores",
    "ScoreRecorder": "hooks",
    "SettingsError": "errors",
    "Store": "running.store",
    "StoreError": "errors",
    "TrainSettings": "training.settings",
    "lightning_callback": "hooks",
    "link_scores": "linking.links",
    "load_checkpoint": "checkpoints.loading",
    "load_data": "data.datasets",
    "score": "api",
    "train": "training.loop",
}

__all__ = [
    "DATASETS",
    "MEASURES",
    "CheckpointError",
    "Data",
    "DataError",
    "Encoder",
    "LoadReport",
    "LoadedCheckpoint",
    "MeasureError",
    "OutputError",
    "SSAError",
    "Score",
    "ScoreRecorder",
    "SettingsError",
    "Store",
    "StoreError",
    "TrainSettings",
    "__version__",
    "lightning_callback",
    "link_scores",
    "load_checkpoint",
    "load_data",
    "score",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ssa_analysis' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ssa_analysis.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
