"""Alignment, uniformity and effective rank: what can be said of a representation without labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.base import (
    MeasureSettings,
    loss_parameters,
    measure,
    practical_embeddings,
    require_images,
    split_embeddings,
    split_features,
)
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.numerics.resampling import bootstrap, jackknife_stderr, mean_interval
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.scores import Score

LEAST_IMAGES = 3  # the uniformity without one of them still needs a pair


@dataclass(frozen=True)
class RepresentationSettings(MeasureSettings):
    """Settings: at most ``images`` images, and the bootstrap draws for the error of the ranks."""

    images: int = 2000
    bootstrap: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images < LEAST_IMAGES or self.bootstrap < 2:
            raise SettingsError(
                f"representation.images must be at least {LEAST_IMAGES} and representation.bootstrap at least 2, or there is no "
                f"error; got {self.images} and {self.bootstrap}"
            )


def effective_rank(h: Tensor) -> float:
    """RankMe (Garrido et al. 2023): exponential of the entropy of the normalised singular values of ``h (n, d)``.

    The same for ``h`` times any number, and 0, the rank, where all of ``h`` is zero.
    """
    largest = float(h.abs().max())
    if largest == 0:
        return 0.0
    h = h.double() / 2.0 ** math.frexp(largest)[1]  # a power of two: no digit changes
    gram = h.T @ h if h.shape[0] >= h.shape[1] else h @ h.T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = singular / singular.sum()
    return float(torch.exp(-(share * torch.log(share.clamp_min(1e-30))).sum()))


def uniformity(z: Tensor, t: float = 2.0) -> tuple[float, float]:
    """``log E exp(-t |z - z'|^2)`` over distinct rows (Wang and Isola 2020), with its jackknife standard error."""
    n = len(z)
    kernel = torch.exp(-t * torch.cdist(z.double(), z.double()).square()).fill_diagonal_(0)
    rows, total = kernel.sum(1), kernel.sum()
    leave_one_out = ((total - 2 * rows) / ((n - 1) * (n - 2))).log().numpy()
    return float((total / (n * (n - 1))).log()), jackknife_stderr(leave_one_out)


@measure(
    "representation",
    "alignment, uniformity, effective rank, contrastive loss and weight norm, without labels",
    RepresentationSettings,
    revision=2,
)
def representation(encoder: Encoder, data: Data, settings: RepresentationSettings) -> list[Score]:
    """Scores ``alignment``, ``uniformity``, ``effective_rank`` (of z), ``feature_rank`` (of h), ``contrastive_loss``,
    ``weight_norm``.

    ``alignment = E|z - z+|^2`` over practical pairs and ``uniformity`` over clean images (Wang and Isola 2020);
    ranks are RankMe (Garrido et al. 2023); the loss is NT-Xent over one batch of up to 256 held-out pairs, in nats.
    The weight norm is the l2 norm of all weights, backbone and projector, without BatchNorm's statistics; it has no error.
    """
    require_images(data, "held-out", LEAST_IMAGES, "the uniformity")
    z = split_embeddings(encoder, data, "held-out")[: settings.images]
    h = split_features(encoder, data, "held-out")[: settings.images]
    first, second = practical_embeddings(encoder, data, "held-out", settings)
    about = {"error": "standard error"}
    align = mean_interval((first - second).square().sum(1).numpy())
    uniform, uniform_error = uniformity(z)
    scores = [
        Score.estimate("representation", "alignment", align.value, align.stderr, "", settings=about),
        Score.estimate("representation", "uniformity", uniform, uniform_error, "", settings=about),
    ]
    for name, matrix in (("effective_rank", z), ("feature_rank", h)):
        scores.append(_rank_score(name, matrix, settings))
    tau, beta = loss_parameters(encoder, settings)
    losses = nt_xent(first[:256], second[:256], tau, beta)
    per_image = mean_interval(losses.view(2, -1).mean(0).numpy())
    scores.append(Score.estimate("representation", "contrastive_loss", per_image.value, per_image.stderr, "nats", settings=about))
    norm = float(torch.stack([p.detach().double().norm() for p in encoder.parameters()]).norm())
    return [*scores, Score("representation", "weight_norm", norm, settings={"error": "exact"})]


def _rank_score(name: str, matrix: Tensor, settings: RepresentationSettings) -> Score:
    """Resampling with replacement lowers a rank (rows repeat), so its spread is used and its centre is not."""

    def resampled(index: np.ndarray) -> float:
        return effective_rank(matrix[torch.from_numpy(index)])

    seed = derive_seed(settings.seed, name) % 2**32
    error = bootstrap(resampled, len(matrix), draws=settings.bootstrap, seed=seed)
    about = {"error": "standard error"}
    return Score.estimate("representation", name, effective_rank(matrix), error.stderr, "dimensions", settings=about)
