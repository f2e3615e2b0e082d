"""Downstream accuracy of the frozen features: linear probe and nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from ssa_analysis.data.datasets import Data
from ssa_analysis.measures.base import MeasureSettings, measure, split_features
from ssa_analysis.measures.probing import NEIGHBOURS, TEMPERATURE, fit_probe
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.classifiers import accuracy, knn_predict
from ssa_analysis.numerics.resampling import mean_interval, wilson_interval
from ssa_analysis.score import Score


@dataclass(frozen=True)
class DownstreamSettings(MeasureSettings):
    """Settings of the downstream task: the number of neighbours of the weighted kNN and its temperature."""

    neighbours: int = NEIGHBOURS
    temperature: float = TEMPERATURE


def _accuracy_score(name: str, correct: Tensor, **about: object) -> Score:
    interval = wilson_interval(int(correct.sum()), len(correct))
    settings = {"error": "Wilson interval", "images": len(correct), **about}
    return Score("downstream", name, interval.value, "share", interval.stderr, interval.low, interval.high, settings=settings)


@measure("downstream", "accuracy of a linear probe and of nearest neighbours on frozen features", DownstreamSettings)
def downstream(encoder: Encoder, data: Data, settings: DownstreamSettings) -> list[Score]:
    """Scores ``probe_accuracy``, ``probe_cross_entropy``, ``knn_accuracy``, ``knn10_accuracy`` on the held-out split.

    The probe and the neighbours come from the probe split, on features h before the projector, BatchNorm in
    evaluation mode. Accuracies are shares with Wilson 95 % intervals; the cross-entropy is in nats.
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
    return scores
