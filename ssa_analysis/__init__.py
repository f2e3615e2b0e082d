"""Sharpness, shift, robustness and bounds of self-supervised vision checkpoints.

>>> import ssa_analysis
>>> data = ssa_analysis.load_data("digits")
>>> data.image_size
16
"""

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
from ssa_analysis.linking.rank import link_scores
from ssa_analysis.measures import MEASURES
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.running.store import Store
from ssa_analysis.score import Score
from ssa_analysis.training.loop import train
from ssa_analysis.training.settings import TrainSettings
from ssa_analysis.version import __version__

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
    "SettingsError",
    "Store",
    "StoreError",
    "TrainSettings",
    "__version__",
    "link_scores",
    "load_checkpoint",
    "load_data",
    "train",
]
