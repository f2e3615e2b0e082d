"""Shift between ideal pairs (two images of one class) and practical pairs (two views of one image).

No single number can carry it: a joint kernel with the usual bandwidth is blind to a change of dependence, and the
ideal pairs of clean images differ from the practical ones in their marginals too. So several statistics stand side
by side. Ideal and practical samples come from disjoint images, one pair an image, so that the permutation test
exchanges independent units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.pairs import disjoint_ideal_pairs
from ssa_analysis.errors import DataError
from ssa_analysis.measures.base import MeasureSettings, measure, practical_embeddings, split_embeddings
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.mmd import median_bandwidth, mmd_test, pair_kernel, rbf_kernel
from ssa_analysis.numerics.resampling import bootstrap
from ssa_analysis.numerics.seeding import derive_seed, generator
from ssa_analysis.numerics.transport import gaussian_w2, sliced_wasserstein2
from ssa_analysis.score import Score


@dataclass(frozen=True)
class ShiftSettings(MeasureSettings):
    """Settings of the shift.

    Attributes:
        pairs: of each kind, at most. permutations: of the MMD tests. projections: of the sliced distance.
        bootstrap: draws for the errors of the distances.
    """

    pairs: int = 1000
    permutations: int = 200
    projections: int = 100
    bootstrap: int = 50


@dataclass(frozen=True)
class PairSamples:
    """Embeddings of both laws, from disjoint images of the held-out split; all ``(k, d)`` unit rows."""

    ideal: tuple[Tensor, Tensor]
    practical: tuple[Tensor, Tensor]


def pair_samples(encoder: Encoder, data: Data, settings: ShiftSettings) -> PairSamples:
    """Two thirds of the held-out images make ideal pairs (two images each), one third practical pairs (one each).

    Raises:
        DataError: fewer than 6 pairs of either kind, or no classes.
    """
    data.require_classes(2)
    labels = data.labels_of("held-out")
    order = torch.randperm(len(labels), generator=generator(settings.seed, "shift split"))
    cut = 2 * len(order) // 3
    for_ideal, for_practical = order[:cut], order[cut:][: settings.pairs]
    matched = for_ideal[disjoint_ideal_pairs(labels[for_ideal], settings.seed)][: settings.pairs]
    if min(len(matched), len(for_practical)) < 6:
        raise DataError(f"{data.name}: the held-out split is too small for the shift: {len(labels)} images")
    z = split_embeddings(encoder, data, "held-out")
    first, second = practical_embeddings(encoder, data, "held-out", settings)
    return PairSamples((z[matched[:, 0]], z[matched[:, 1]]), (first[for_practical], second[for_practical]))


def coordinates(pair: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Coordinates of a pair sample: one marginal, the rotated sum and difference, both together."""
    z, z_plus = pair
    return {
        "marginal": z,
        "sum": (z + z_plus) / math.sqrt(2),
        "difference": (z - z_plus) / math.sqrt(2),
        "joint": torch.cat([z, z_plus], dim=1),
    }


def _mmd_scores(samples: PairSamples, settings: ShiftSettings) -> list[Score]:
    scores = []
    n = len(samples.ideal[0])
    ideal, practical = coordinates(samples.ideal), coordinates(samples.practical)
    for name in ideal:
        pooled = torch.cat([ideal[name], practical[name]]).double()
        if name != "marginal" and bool((pooled == pooled[0]).all()):
            width = 1.0  # all differences are zero, say, in both laws: any kernel finds the laws equal, as they are
        else:
            width = median_bandwidth(pooled[torch.randperm(len(pooled), generator=generator(settings.seed, "bandwidth"))])
        scores.append(_mmd_score(f"mmd2_{name}", rbf_kernel(pooled, pooled, width), n, settings, {"bandwidth": width}))
    both = tuple(torch.cat([a, b]).double() for a, b in zip(samples.ideal, samples.practical, strict=True))
    scores.append(_mmd_score("mmd2_cross_moment", pair_kernel(both, both), n, settings, {}))  # type: ignore[arg-type]
    return scores


def _mmd_score(name: str, kernel: Tensor, n: int, settings: ShiftSettings, about: dict[str, float]) -> Score:
    result = mmd_test(kernel, n, permutations=settings.permutations, seed=derive_seed(settings.seed, name))
    extra = {"error": "standard error", "p_value": result.p_value, "permutations": settings.permutations, **about}
    return Score.estimate("shift", name, result.value, result.stderr, "", settings=extra, arrays={"null": result.null.tolist()})


Distance = Callable[[Tensor, Tensor], float]


def _wasserstein_scores(samples: PairSamples, settings: ShiftSettings) -> list[Score]:
    """Sliced and Gaussian squared distances between the joint laws, each with its sampling bias taken out.

    Plug-in distances between two samples of one law are not zero. The bias of both falls like 1/n, so it is
    removed by what halving the samples adds: ``2 b(n) - b(n/2)``.
    """
    ideal, practical = (torch.cat(pair, dim=1).double() for pair in (samples.ideal, samples.practical))
    slices = derive_seed(settings.seed, "slices")

    def sliced(x: Tensor, y: Tensor) -> float:
        return sliced_wasserstein2(x, y, projections=settings.projections, seed=slices)[0]

    return [_distance_score(n, d, ideal, practical, settings) for n, d in (("sliced_w2", sliced), ("gaussian_w2", gaussian_w2))]


def _halved(x: Tensor, y: Tensor, distance: Distance) -> float:
    """Mean distance between halves of x and halves of y."""
    halves = [(s[: len(s) // 2], s[len(s) // 2 : len(s) // 2 * 2]) for s in (x, y)]
    return sum(distance(a, b) for a, b in zip(*halves, strict=True)) / 2


def _distance_score(name: str, distance: Distance, ideal: Tensor, practical: Tensor, settings: ShiftSettings) -> Score:
    plug_in, halved = distance(ideal, practical), _halved(ideal, practical, distance)
    n = len(ideal)

    def resampled(index: np.ndarray) -> float:
        rows = torch.from_numpy(index)
        a, b = rows[rows < n], rows[rows >= n] - n
        return distance(ideal[a], practical[b]) if min(len(a), len(b)) > 2 else math.nan

    seed = derive_seed(settings.seed, name) % 2**32
    error = bootstrap(resampled, n + len(practical), draws=settings.bootstrap, seed=seed)
    about = {"error": "standard error", "plug_in": plug_in, "bias": halved - plug_in}
    return Score.estimate("shift", name, 2 * plug_in - halved, error.stderr, "", settings=about)


@measure("shift", "MMD and Wasserstein distances between ideal and practical positive pairs", ShiftSettings)
def shift(encoder: Encoder, data: Data, settings: ShiftSettings) -> list[Score]:
    """Scores ``mmd2_{marginal,sum,difference,joint,cross_moment}``, ``sliced_w2``, ``gaussian_w2``, ``alignment_gap``.

    MMDs are squared and unbiased, with a jackknife error and a permutation p-value in the settings. Distances are
    squared, with their sampling bias taken out: they can be slightly negative. ``alignment_gap`` is
    ``E_practical[z.z+] - E_ideal[z.z+]``: how much closer views of one image are than images of one class.
    """
    samples = pair_samples(encoder, data, settings)
    dots = [(a * b).sum(1).numpy() for a, b in (samples.practical, samples.ideal)]
    gap = float(dots[0].mean() - dots[1].mean())
    stderr = float(np.sqrt(sum(d.var(ddof=1) / len(d) for d in dots)))
    arrays = {"practical": dots[0].tolist(), "ideal": dots[1].tolist()}
    alignment = Score.estimate(
        "shift", "alignment_gap", gap, stderr, "cosine", settings={"error": "standard error"}, arrays=arrays
    )
    return [*_mmd_scores(samples, settings), *_wasserstein_scores(samples, settings), alignment]
