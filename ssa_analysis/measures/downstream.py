"""Downstream accuracy of the frozen features: linear probe and nearest neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.base import MeasureSettings, measure, split_features
from ssa_analysis.measures.probing import NEIGHBOURS, TEMPERATURE, few_label_probe, fit_probe
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.classifiers import accuracy, knn_predict
from ssa_analysis.numerics.laws import student_quantile
from ssa_analysis.numerics.resampling import mean_interval, wilson_interval
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.scores import Score

FEW = (0.01, 0.1)  # shares of the labels (Chen et al. 2020, section 6)


@dataclass(frozen=True)
class DownstreamSettings(MeasureSettings):
    """Settings of the downstream task.

    Attributes:
        neighbours, temperature: of the weighted kNN.
        draws: of the labelled images of the low-label probes.
    """

    neighbours: int = NEIGHBOURS
    temperature: float = TEMPERATURE
    draws: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 2:
            raise SettingsError(f"draws must be at least 2, or the error of the low-label probes is unknown; got {self.draws}")
        if self.neighbours < 1 or not self.temperature > 0:
            raise SettingsError(
                f"downstream needs 1 or more neighbours and a temperature above 0, got {self.neighbours} and {self.temperature}"
            )


def _accuracy_score(name: str, correct: Tensor, **about: object) -> Score:
    interval = wilson_interval(int(correct.sum()), len(correct))
    settings = {"error": "Wilson interval", "images": len(correct), **about}
    return Score("downstream", name, interval.value, "share", interval.stderr, interval.low, interval.high, settings=settings)


@measure(
    "downstream",
    "accuracy of a linear probe, with all labels and few, and of nearest neighbours on frozen features",
    DownstreamSettings,
    revision=2,
)
def downstream(encoder: Encoder, data: Data, settings: DownstreamSettings) -> list[Score]:
    """Scores ``probe_accuracy``, ``probe_cross_entropy``, ``knn_accuracy``, ``knn10_accuracy``, ``probe_accuracy_1pct``
    and ``probe_accuracy_10pct`` on the held-out split.

    The probe and the neighbours come from the probe split, on features h before the projector, BatchNorm in
    evaluation mode. Accuracies are shares with Wilson 95 % intervals; the cross-entropy is in nats. The low-label probes
    know 1 % and 10 % of the probe split's labels, at least one a class: means over draws of them, whose error counts the
    draws and the held-out images.
    """
    data.require_classes(2)
    classes = len(data.class_names)
    bank, bank_labels = split_features(encoder, data, "probe"), data.labels_of("probe")
    h, y = split_features(encoder, data, "held-out"), data.labels_of("held-out")
    probe = fit_probe(encoder, data, settings.seed)
    logits = probe.logits(h)
    converged = probe.classifier.converged
    losses = mean_interval(cross_entropy(logits, y, reduction="none").numpy())
    scores = [
        _accuracy_score("probe_accuracy", accuracy(logits, y), l2=probe.l2, probe_converged=converged),
        Score.estimate(
            "downstream", "probe_cross_entropy", losses.value, losses.stderr, "nats",
            converged=converged, settings={"error": "standard error", "l2": probe.l2},
        ),
    ]  # fmt: skip
    for name, k, temperature in (
        ("knn_accuracy", settings.neighbours, settings.temperature),
        ("knn10_accuracy", 10, None),
    ):
        predicted = knn_predict(bank, bank_labels, h, classes, k=k, temperature=temperature)
        scores.append(_accuracy_score(name, predicted == y, neighbours=min(k, len(bank))))
    return scores + [_few_labels(encoder, data, share, settings) for share in FEW]


def _few_labels(encoder: Encoder, data: Data, share: float, settings: DownstreamSettings) -> Score:
    h, y = split_features(encoder, data, "held-out"), data.labels_of("held-out")
    probes = [few_label_probe(encoder, data, share, derive_seed(settings.seed, "draw", d)) for d in range(settings.draws)]
    correct = torch.stack([accuracy(probe.logits(h), y) for probe, _ in probes]).double()
    over_images, over_draws = mean_interval(correct.mean(0).numpy()), mean_interval(correct.mean(1).numpy())
    error = math.hypot(over_images.stderr, over_draws.stderr)
    reach = student_quantile(0.975, settings.draws - 1) * over_draws.stderr
    low, high = (over_images.value + sign * math.hypot(1.96 * over_images.stderr, reach) for sign in (-1, 1))
    return Score(
        "downstream", f"probe_accuracy_{round(100 * share)}pct", over_images.value, "share", error, max(0.0, low), min(1.0, high),
        converged=all(probe.classifier.converged for probe, _ in probes),
        settings={"error": "standard error", "labels": probes[0][1], "l2": [probe.l2 for probe, _ in probes]},
    )  # fmt: skip
