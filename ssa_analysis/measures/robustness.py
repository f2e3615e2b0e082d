"""Accuracy of the frozen probe on corrupted images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ssa_analysis.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from ssa_analysis.data.datasets import Data, subsample
from ssa_analysis.measures.base import MeasureSettings, measure, split_features
from ssa_analysis.measures.probing import fit_probe
from ssa_analysis.models.encoder import Encoder, in_batches
from ssa_analysis.numerics.classifiers import accuracy
from ssa_analysis.numerics.resampling import mean_interval
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.score import Score


@dataclass(frozen=True)
class RobustnessSettings(MeasureSettings):
    """Settings of the robustness: at most ``images`` held-out images, corrupted ``batch`` at a time."""

    images: int = 500
    batch: int = 256


@measure(
    "robustness",
    f"accuracy of the frozen probe under {len(CORRUPTIONS)} corruptions at 5 severities",
    RobustnessSettings,
    revision=2,
)
def robustness(encoder: Encoder, data: Data, settings: RobustnessSettings) -> list[Score]:
    """Scores ``mean_error``, ``clean_error``, ``error_increase`` and ``error_CORRUPTION``; shares of the images.

    ``mean_error`` is the plain mean over corruptions and severities; its standard error is over images (the same
    images meet all corruptions, so errors are averaged for each image first). The corruptions are regenerated here,
    not read from official files, and are seventeen of the usual nineteen.
    """
    data.require_classes(2)
    probe = fit_probe(encoder, data, settings.seed)
    labels = data.labels_of("held-out")
    chosen = subsample(labels, settings.images, derive_seed(settings.seed, "robustness") % 2**32)
    images, y = data.images_of("held-out")[chosen], labels[chosen]
    clean = ~accuracy(probe.logits(split_features(encoder, data, "held-out")[chosen]), y)
    wrong = np.zeros((len(CORRUPTIONS), len(SEVERITIES), len(chosen)))
    for i, name in enumerate(CORRUPTIONS):
        for j, severity in enumerate(SEVERITIES):
            seeds = [derive_seed(settings.seed, name, severity, int(k)) for k in chosen]
            parts = [
                in_batches(encoder.features, corrupt(part, name, severity, seeds[at : at + len(part)]), encoder.device)
                for at, part in zip(range(0, len(images), settings.batch), images.split(settings.batch), strict=True)
            ]
            wrong[i, j] = (~accuracy(probe.logits(torch.cat(parts)), y)).numpy()
    common = {"error": "standard error", "images": len(chosen), "corruptions": "regenerated", "count": len(CORRUPTIONS)}
    table = {"corruption": list(CORRUPTIONS), "severity": list(SEVERITIES), "error": wrong.mean(2).tolist()}
    scores = [
        _mean_score("mean_error", wrong.mean((0, 1)), common, {**table, "clean": float(clean.float().mean())}),
        _mean_score("clean_error", clean.double().numpy(), common),
        _mean_score("error_increase", wrong.mean((0, 1)) - clean.double().numpy(), common),
    ]
    return scores + [_mean_score(f"error_{name}", wrong[i].mean(0), common) for i, name in enumerate(CORRUPTIONS)]


def _mean_score(name: str, values: np.ndarray, settings: dict[str, object], arrays: dict[str, object] | None = None) -> Score:
    interval = mean_interval(values)
    return Score.estimate("robustness", name, interval.value, interval.stderr, "share", settings=settings, arrays=arrays or {})
