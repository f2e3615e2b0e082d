"""The linear probe of the frozen features that `downstream` and `robustness` share, and the usual nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.measures.base import remembered, split_features
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.classifiers import LinearClassifier, fit_logistic, mean_cross_entropy, standardise
from ssa_analysis.numerics.seeding import generator

L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
VALIDATION_SHARE = 0.25
L2_OF_ONE = 1e-2  # where a class has one labelled image, so that nothing can be held back to choose by
FOLDS = 5
NEIGHBOURS, TEMPERATURE = 200, 0.1  # of the weighted nearest neighbours (Wu et al. 2018)


@dataclass(frozen=True)
class Probe:
    """A linear classifier on standardised features; ``logits`` takes raw features ``(n, feature_dim)``."""

    classifier: LinearClassifier
    mean: Tensor
    scale: Tensor
    l2: float

    def logits(self, h: Tensor) -> Tensor:
        """``(n, M)``."""
        return self.classifier.logits((h.double() - self.mean) * self.scale)


def fit_probe(encoder: Encoder, data: Data, seed: int) -> Probe:
    """Multinomial logistic regression on the probe split's features.

    The regularisation is chosen by cross-entropy on a quarter of the probe split, then all of it is fitted again.
    Fitted once for each encoder and seed.
    """
    return remembered(encoder, ("probe", data.fingerprint, seed), lambda: _fit(encoder, data, seed))  # type: ignore[no-any-return]


def _fit(encoder: Encoder, data: Data, seed: int) -> Probe:
    h, y = split_features(encoder, data, "probe").double(), data.labels_of("probe")
    classes = len(data.class_names)
    order = torch.randperm(len(h), generator=generator(seed, "probe validation"))
    cut = int(VALIDATION_SHARE * len(h))
    validation, fitting = order[:cut], order[cut:]
    x_fit, x_validation = standardise(h[fitting], h[validation])
    losses = _losses(x_fit, y[fitting], x_validation, y[validation], classes)
    best = min(losses, key=losses.__getitem__)
    mean, scale = _scaling(h)
    return Probe(fit_logistic((h - mean) * scale, y, classes, l2=best), mean, scale, best)


def _scaling(h: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the columns, and what they are multiplied by; constant ones become 0."""
    mean, std = h.mean(0), h.std(0, correction=0)
    return mean, torch.where(std > 1e-8 * std.max().clamp_min(1e-30), 1 / std, torch.zeros_like(std))


def _losses(x: Tensor, y: Tensor, x_validation: Tensor, y_validation: Tensor, classes: int) -> dict[float, float]:
    """Cross-entropy on the validation images for each strength of the regularisation."""
    losses, start = {}, None
    for l2 in sorted(L2_GRID, reverse=True):  # from smooth to rough, each from the last one's solution
        classifier = fit_logistic(x, y, classes, l2=l2, start=start, max_iterations=300)
        start = (classifier.weight, classifier.bias)
        losses[l2] = mean_cross_entropy(classifier.logits(x_validation), y_validation)
    return losses


def few_labels(y: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Which images of ``y (n,)`` have a label: a share of each class, at least one image; and their number in the class."""
    rng = generator(seed, "few labels", share)
    chosen, places = [], []
    for label in torch.unique(y):
        members = (y == label).nonzero()[:, 0]
        count = max(1, round(share * len(members)))
        chosen.append(members[torch.randperm(len(members), generator=rng)[:count]])
        places.append(torch.arange(count))
    return torch.cat(chosen), torch.cat(places)


def few_label_probe(encoder: Encoder, data: Data, share: float, seed: int) -> tuple[Probe, int]:
    """A probe that knows the labels of a share of the probe split, each class alike and at least one image of it.

    The scaling of the features needs no labels and is that of the whole split. The regularisation is chosen by
    cross-validation within the labelled images; with one image a class it is ``L2_OF_ONE``.

    Returns:
        The probe, and how many labels it saw.
    """
    h, y = split_features(encoder, data, "probe").double(), data.labels_of("probe")
    classes = len(data.class_names)
    index, place = few_labels(y, share, seed)
    mean, scale = _scaling(h)
    x, y = (h[index] - mean) * scale, y[index]
    least = int(torch.bincount(y)[torch.unique(y)].min())
    best = L2_OF_ONE
    if least > 1:
        count = min(FOLDS, least)
        sums = dict.fromkeys(L2_GRID, 0.0)
        for fold in range(count):
            out = place % count == fold
            for l2, loss in _losses(x[~out], y[~out], x[out], y[out], classes).items():
                sums[l2] += loss * int(out.sum())
        best = min(sums, key=sums.__getitem__)
    return Probe(fit_logistic(x, y, classes, l2=best), mean, scale, best), len(index)
