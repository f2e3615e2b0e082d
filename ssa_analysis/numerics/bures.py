"""Gaussian (Bures) Wasserstein distance: the 2-Wasserstein distance between the Gaussians with the samples' moments."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

KEPT = 2**28  # bytes of moments that are kept


@dataclass(frozen=True)
class Moments:
    """Mean ``(d,)`` and covariance ``(d, d)`` of a law; the root is computed once, however many laws it is compared with."""

    mean: Tensor
    cov: Tensor

    @cached_property
    def root(self) -> Tensor:
        """``(d, d)`` R with ``R R^T`` the covariance."""
        values, vectors = torch.linalg.eigh(self.cov)
        root: Tensor = vectors * values.clamp_min(0).sqrt()
        return root

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Of a sample ``(n, d)``, in float64."""
        x = x.double()
        return cls(x.mean(0), torch.atleast_2d(torch.cov(x.T)))


def distance_of_moments(x: Moments, y: Moments) -> float:
    """``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x^1/2 C_y C_x^1/2)^1/2)``, the squared distance (Dowson and Landau 1982)."""
    cross = torch.linalg.eigvalsh(x.root.T @ y.cov @ x.root).clamp_min(0).sqrt().sum()
    mean = (x.mean - y.mean).square().sum()
    return float((mean + x.cov.trace() + y.cov.trace() - 2 * cross).clamp_min(0))


def bures(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    """:func:`distance_of_moments` of means ``(d,)`` and positive semi-definite covariances ``(d, d)``."""
    return distance_of_moments(Moments(mean_x, cov_x), Moments(mean_y, cov_y))


def gaussian_w2(x: Tensor, y: Tensor) -> float:
    """Squared distance between the Gaussians with the moments of ``x (n, d)`` and ``y (m, d)`` (the formula of the FID).

    In float64. A plug-in: its bias falls like 1/n, see :func:`extrapolated`.
    """
    return distance_of_moments(Moments.of(x), Moments.of(y))


def pair_coordinates(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """``(z + z+)/sqrt(2)`` and ``(z - z+)/sqrt(2)`` of pairs ``(n, d)``: a rotation of the joint law."""
    return (first + second) / 2**0.5, (first - second) / 2**0.5


@dataclass(frozen=True)
class PairMoments:
    """Moments of the sums and of the differences of pairs, symmetrised: the latter have mean zero."""

    sums: Moments
    differences: Moments

    @classmethod
    def of(cls, pair: tuple[Tensor, Tensor]) -> PairMoments:
        """Of a sample of pairs ``(n, d)``."""
        sums, differences = pair_coordinates(*(side.double() for side in pair))
        zero = torch.zeros_like(differences[0])
        return cls(Moments.of(sums), Moments(zero, differences.T @ differences / len(differences)))

    def distances(self, other: PairMoments) -> tuple[float, float]:
        """What :func:`pair_gaussian_w2` gives."""
        return distance_of_moments(self.sums, other.sums), distance_of_moments(self.differences, other.differences)


def pair_gaussian_w2(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Squared Gaussian distance between the laws of two samples of pairs: the part of the sums and that of the differences.

    For laws that do not change when z and z+ change places, sum and difference are uncorrelated and the difference has
    mean zero, so that the distance between the joint Gaussians is the sum of the two parts, each in d dimensions
    instead of 2d. Both are estimated for the symmetrised samples.
    """
    return PairMoments.of(x).distances(PairMoments.of(y))


class SubsetMoments:
    """Moments of subsets of a sample of pairs ``(n, d)``, each computed once: a jackknife asks for most of them many times.

    Those asked for last are kept, in up to ``KEPT`` bytes.
    """

    def __init__(self, pair: tuple[Tensor, Tensor]) -> None:
        self.pair = (pair[0].double(), pair[1].double())
        self._kept: OrderedDict[bytes, PairMoments] = OrderedDict()
        self._most = max(1, KEPT // (32 * self.pair[0].shape[1] ** 2))  # two covariances and their roots

    def of(self, index: np.ndarray) -> PairMoments:
        """Of the rows ``index``."""
        key = index.tobytes()
        if key not in self._kept:
            rows = torch.from_numpy(index)
            self._kept[key] = PairMoments.of((self.pair[0][rows], self.pair[1][rows]))
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def extrapolated(plug_in: Sequence[float], halves: Sequence[Sequence[float]]) -> list[float]:
    """``2 b(n) - b(n/2)``: without the part of the bias that falls like 1/n.

    Args:
        plug_in: values on the whole samples. halves: values on disjoint halves of both samples, averaged here.
    """
    return [2 * value - sum(h[i] for h in halves) / len(halves) for i, value in enumerate(plug_in)]
