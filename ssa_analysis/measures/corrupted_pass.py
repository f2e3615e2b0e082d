"""One pass over the corrupted twins of some images: what probe, neighbours and embedding make of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.data.corruptions import SEVERITIES
from ssa_analysis.data.corruptions.sources import CorruptedTwins
from ssa_analysis.data.datasets import Data
from ssa_analysis.measures.base import finite_features, run_context, split_features, unit_embeddings
from ssa_analysis.measures.probing import fit_probe
from ssa_analysis.models.encoder import Encoder, in_batches
from ssa_analysis.numerics.classifiers import knn_predict
from ssa_analysis.progress import LoggedProgress

Reader = Callable[[Tensor, Tensor], Tensor]
"""Features ``(k, feature_dim)`` of images and their places ``(k,)`` in the held-out split -> one number an image ``(k,)``."""


Predictor = Callable[[Tensor], Tensor]
"""Features ``(k, feature_dim)`` -> predicted labels ``(k,)``."""


def class_predictors(encoder: Encoder, data: Data, seed: int, neighbours: int, temperature: float) -> dict[str, Predictor]:
    """``probe`` and ``knn``: the frozen probe and the weighted nearest neighbours, both from the clean probe split."""
    probe = fit_probe(encoder, data, seed)
    bank, bank_labels = split_features(encoder, data, "probe"), data.labels_of("probe")
    classes = len(data.class_names)
    return {
        "probe": lambda h: probe.logits(h).argmax(1),
        "knn": lambda h: knn_predict(bank, bank_labels, h, classes, k=neighbours, temperature=temperature),
    }


def error_reader(predict: Predictor, data: Data) -> Reader:
    """1 where the prediction is not the image's label, 0 where it is."""
    labels = data.labels_of("held-out")
    return lambda h, at: (predict(h) != labels[at]).float()


def angle_reader(encoder: Encoder, data: Data) -> Reader:
    """The angle in degrees between the embedding of each image and that of its clean self."""
    features = split_features(encoder, data, "held-out")

    def by_angle(h: Tensor, at: Tensor) -> Tensor:
        clean, z = (in_batches(encoder.embed_features, x, encoder.device) for x in (features[at], h))
        return angles(unit_embeddings(clean, "held-out images"), unit_embeddings(z, "corrupted images"))

    return by_angle


def angles(first: Tensor, second: Tensor) -> Tensor:
    """``(k,)`` degrees between unit rows; exact for small angles too, where an arc cosine is not."""
    halves = torch.atan2((first - second).norm(dim=1), (first + second).norm(dim=1))
    return torch.rad2deg(2 * halves)


@dataclass(frozen=True)
class CorruptedPass:
    """``values``: reader -> ``(corruptions, 5, k)``. ``clean``: reader -> ``(k,)`` of the images as they are."""

    names: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    clean: Mapping[str, np.ndarray]

    def image_means(self, reader: str, names: tuple[str, ...]) -> np.ndarray:
        """``(k,)`` mean of each image over these corruptions and all severities."""
        rows = self.values[reader][[self.names.index(name) for name in names]]
        means: np.ndarray = rows.mean((0, 1), dtype=np.float64)
        return means


def read_corrupted(
    encoder: Encoder,
    data: Data,
    twins: CorruptedTwins,
    names: tuple[str, ...],
    at: Tensor,
    readers: Mapping[str, Reader],
    batch: int,
) -> CorruptedPass:
    """Stream the twins of the held-out images at ``at (k,)`` through the encoder, ``batch`` at a time; none is kept."""
    shape = (len(names), len(SEVERITIES), len(at))
    values = {name: np.zeros(shape, np.float32) for name in readers}
    features = split_features(encoder, data, "held-out")[at]
    clean = {name: reader(features, at).double().numpy() for name, reader in readers.items()}
    parts = [slice(start, min(start + batch, len(at))) for start in range(0, len(at), batch)]
    total = len(names) * len(SEVERITIES) * len(parts)
    progress = LoggedProgress(f"robustness of {run_context().label}", total, unit="batches")
    for i, name in enumerate(names):
        for j, severity in enumerate(SEVERITIES):
            progress.stage = f"{name} {severity}"
            for part in parts:
                images = twins.batch(name, severity, at[part], encoder.device)
                h = finite_features(in_batches(encoder.features, images, encoder.device), f"images under {name} {severity}")
                for reader, read in readers.items():
                    values[reader][i, j, part] = read(h, at[part]).numpy()
                progress.step()
    return CorruptedPass(names, values, clean)
