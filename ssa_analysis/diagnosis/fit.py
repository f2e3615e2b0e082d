"""Checks of how the images enter: size, normalisation, stem, and whether BatchNorm's statistics fit the data at all.

Where the lines are drawn was found on networks whose training is known (``docs/checkpoints.md``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ssa_analysis.checkpoints.normalisation import NORMALISATIONS
from ssa_analysis.diagnosis.findings import BROKEN, OK, SUSPICIOUS, UNKNOWN, Finding
from ssa_analysis.diagnosis.statistics import Distance, nearest, norm_layers, other_stems, with_normalisation
from ssa_analysis.models.backbones import ResNet
from ssa_analysis.models.encoder import Encoder, in_batches

FITS = 0.02  # nats of the median layer up to which statistics fit
TWICE = 2.0  # how many times nearer another recipe must be
OTHER_SIZE = 1.5
SURE = 3.0  # standard errors
NO_STATISTICS = "the network has no BatchNorm with running statistics"


def image_size(trained: int | None, size: int) -> Finding:
    """The images' size against that of training."""
    how = f"the layout's image size against the data's; a factor of {OTHER_SIZE} is suspicious"
    if trained is None:
        return Finding("image size", UNKNOWN, f"images have {size} pixels; the file does not say what it was trained with", how)
    if max(trained / size, size / trained) >= OTHER_SIZE:
        seen = f"images have {size} pixels, the network was trained with {trained}: try --image-size {trained}"
        return Finding("image size", SUSPICIOUS, seen, how)
    return Finding("image size", OK, f"images have {size} pixels, the network was trained with {trained}", how)


def statistics(found: tuple[str, Distance] | None) -> Finding:
    """BatchNorm's running statistics against the nearest augmentation of the data."""
    how = (
        f"divergence of what enters each BatchNorm from what it keeps, median of the layers, under the nearest of several "
        f"augmentations; up to {FITS} nats fit"
    )
    if found is None:
        return Finding("BatchNorm statistics", UNKNOWN, NO_STATISTICS, how)
    name, far = found
    seen = f"{far.median:.2g} nats from the data ({name})"
    if not far.median <= FITS:
        seen += ": trained on other images, too shortly for its statistics to settle, or read as another network"
        return Finding("BatchNorm statistics", SUSPICIOUS, seen, how)
    return Finding("BatchNorm statistics", OK, seen, how)


def normalisation(encoder: Encoder, shown: Mapping[str, Tensor]) -> Finding:
    """The encoder's normalisation against all that are known, by the first BatchNorm."""
    how = f"divergence at the first BatchNorm under each known normalisation; one {TWICE:g} times nearer is suspicious"
    if not norm_layers(encoder):
        return Finding("normalisation", UNKNOWN, NO_STATISTICS, how)
    own = nearest(encoder, shown, only_first=True)[1].first
    far = {
        name: nearest(with_normalisation(encoder, *constants), shown, only_first=True)[1].first
        for name, constants in NORMALISATIONS.items()
    }
    best = min(far, key=far.__getitem__)
    if own <= TWICE * far[best]:
        alike = [name for name, value in far.items() if value <= TWICE * own and not _same(encoder, NORMALISATIONS[name])]
        beside = f"; {', '.join(alike)} would fit as well" if alike else ""
        verdict = OK if own <= FITS else UNKNOWN
        seen = f"{own:.2g} nats{beside}" if verdict == OK else f"none fits these images: {own:.2g} nats, {best} {far[best]:.2g}"
        return Finding("normalisation", verdict, seen, how)
    seen = f"{own:.2g} nats, but {far[best]:.2g} with {best}: try --normalise {best}"
    return Finding("normalisation", BROKEN if own > 10 * FITS and far[best] <= FITS else SUSPICIOUS, seen, how)


def _same(encoder: Encoder, constants: tuple[tuple[float, ...], tuple[float, ...]]) -> bool:
    mean, std = (torch.tensor(values, device=encoder.device) for values in constants)
    return torch.allclose(encoder.mean.flatten(), mean, atol=1e-3) and torch.allclose(encoder.std.flatten(), std, atol=1e-3)


def stem(encoder: Encoder, own: tuple[str, Distance] | None, shown: Mapping[str, Tensor]) -> Finding:
    """The stem against those that the same weights would fit, by all layers."""
    how = (
        f"divergence, median of all BatchNorms, behind each stem that these weights fit; one {TWICE:g} times nearer is suspicious"
    )
    if own is None or not isinstance(encoder.backbone, ResNet):
        return Finding("stem", UNKNOWN, NO_STATISTICS if own is None else "not a ResNet: its stem has no usual variants", how)
    far, (mean, std) = {}, (tuple(t.flatten().tolist()) for t in (encoder.mean, encoder.std))
    for name, backbone in other_stems(encoder.backbone).items():
        far[name] = nearest(Encoder(backbone, None, mean, std).eval().to(encoder.device), shown)[1].median
    best = min(far, key=far.__getitem__)
    seen = f"{own[1].median:.2g} nats, next {far[best]:.2g} with {best}"
    if own[1].median <= TWICE * far[best]:
        if not own[1].median <= FITS:
            return Finding("stem", UNKNOWN, f"{seen}: none fits these images", how)
        sure = own[1].median * TWICE <= far[best]
        return Finding("stem", OK, seen if sure else f"{seen}: too near to tell them apart", how)
    return Finding("stem", SUSPICIOUS, f"{seen}, which fits better (--recipe, see docs/checkpoints.md)", how)


def classifier(encoder: Encoder, images: Tensor, labels: Tensor | None, classes: int) -> list[Finding]:
    """The classifier's accuracy, and whether another normalisation would give a lower cross-entropy."""
    how = f"accuracy on the held-out images against chance, {SURE:g} standard errors"
    if encoder.classifier is None or labels is None:
        what = "the file has no classifier" if encoder.classifier is None else "the images have no labels"
        return [Finding("classifier", UNKNOWN, what, how)]
    logits = in_batches(encoder.logits, images, encoder.device, 128)
    if logits.shape[1] != classes:
        seen = f"it tells {logits.shape[1]} classes apart, the data has {classes}"
        return [Finding("classifier", UNKNOWN, seen, how)]
    accuracy, chance = float((logits.argmax(1) == labels).float().mean()), 1 / classes
    error = (chance * (1 - chance) / len(labels)) ** 0.5
    seen = f"accuracy {accuracy:.1%} on {len(labels)} images"
    if accuracy <= chance + SURE * error:
        seen += ": no better than chance; other classes, or another function than was trained"
        return [Finding("classifier", BROKEN, seen, how)]
    return [Finding("classifier", OK, seen, how), *_by_loss(encoder, images, labels, logits)]


def _by_loss(encoder: Encoder, images: Tensor, labels: Tensor, logits: Tensor) -> list[Finding]:
    """Only where there is no BatchNorm, which tells more."""
    if norm_layers(encoder):
        return []
    how = (
        f"the classifier's cross-entropy under each known normalisation, paired by image; {SURE:g} standard errors are suspicious"
    )
    own = cross_entropy(logits, labels, reduction="none")
    gains: dict[str, Any] = {}
    for name, constants in NORMALISATIONS.items():
        other = with_normalisation(encoder, *constants)
        gain = own - cross_entropy(in_batches(other.logits, images, other.device, 128), labels, reduction="none")
        gains[name] = float(gain.mean()), float(gain.std() / len(gain) ** 0.5)
    best = max(gains, key=lambda name: gains[name][0])
    gain, error = gains[best]
    if gain > SURE * error and gain > 0:
        seen = f"cross-entropy {float(own.mean()):.3g} nats, {gain:.2g} lower with {best}: try --normalise {best}"
        return [Finding("normalisation", SUSPICIOUS, seen, how)]
    return [Finding("normalisation", OK, f"cross-entropy {float(own.mean()):.3g} nats, no known one is surely lower", how)]
