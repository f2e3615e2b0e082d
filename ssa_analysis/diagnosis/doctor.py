"""All checks of one checkpoint on one data set."""

from __future__ import annotations

from pathlib import Path

import torch

from ssa_analysis.checkpoints.loading import LoadReport, load_checkpoint
from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.data.datasets import Data
from ssa_analysis.diagnosis import fit, outputs, weights
from ssa_analysis.diagnosis.findings import BROKEN, OK, UNKNOWN, Finding
from ssa_analysis.diagnosis.statistics import augmentations, nearest, norm_layers
from ssa_analysis.errors import CheckpointError, MeasureError
from ssa_analysis.measures.base import resolve_recipe
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.seeding import generator

RAN = ("image size", "features", "dead units", "embedding", "BatchNorm statistics", "normalisation", "stem", "classifier")


def diagnose(
    path: str | Path,
    data: Data,
    options: LoadOptions | None = None,
    images: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> list[Finding]:
    """Check a checkpoint file: can it be read, are its weights sound, was it read as it was trained, does it say anything?

    Args:
        data: images like those it was trained on; the held-out ones are used.
        images: how many; by default 256, or 64 of more than 64 pixels.

    Returns:
        A finding for each check, in a fixed order. A file that cannot be read gives one, ``broken``.
    """
    try:
        loaded = load_checkpoint(path, options, finite=False)
    except CheckpointError as error:
        return [Finding("file", BROKEN, str(error), "the file was read, and every tensor looked for a place")]
    encoder = loaded.encoder.to(device)
    found = [_read(loaded.report), weights.finite_weights(encoder), weights.zero_weights(encoder), weights.training_seen(encoder)]
    found.append(outputs.projector(loaded.report.has_projector, encoder))
    if found[1].verdict == BROKEN:
        return [*found, *(Finding(check, UNKNOWN, "not tried: the weights are not finite", "") for check in RAN)]
    count = images or (256 if data.image_size <= 64 else 64)
    return [*found, fit.image_size(loaded.report.image_size, data.image_size), *_on_images(encoder, data, count, seed)]


def _read(report: LoadReport) -> Finding:
    sure = {"guess": "a guess", "named": "as you say"}.get(report.certainty, report.certainty)
    seen = f"{report.layout}{f' ({sure})' if sure else ''}, {report.arch}; every tensor has a place or a known reason"
    return Finding("file", OK, seen, "the file was read, and every tensor looked for a place")


def _on_images(encoder: Encoder, data: Data, count: int, seed: int) -> list[Finding]:
    """The checks that run the network."""
    index = data.index_of("held-out")
    index = index[torch.randperm(len(index), generator=generator(seed, "doctor"))[:count]]
    images = data.images[index]
    labels = data.labels[index] if data.labelled else None
    try:
        found = outputs.outputs(encoder, images)
    except MeasureError as error:  # a vision transformer, say, on images of another size
        return [Finding("features", BROKEN, str(error), "the network was run")]
    shown = augmentations(images, resolve_recipe(encoder, data, "own"), seed)
    own = nearest(encoder, shown) if norm_layers(encoder) else None
    found += [fit.statistics(own), fit.normalisation(encoder, shown), fit.stem(encoder, own, shown)]
    classifier = fit.classifier(encoder, images, labels, len(data.class_names))
    if any(finding.check == "normalisation" for finding in classifier):  # tells more than no BatchNorm does
        found = [finding for finding in found if finding.check != "normalisation"]
    return [*found, *classifier]
