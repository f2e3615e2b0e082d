"""Gaussian (Bures) Wasserstein distance: the 2-Wasserstein distance between the Gaussians with the samples' moments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def bures(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    """``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x^1/2 C_y C_x^1/2)^1/2)``, the squared distance (Dowson and Landau 1982).

    Args:
        mean_x, mean_y: ``(d,)``. cov_x, cov_y: ``(d, d)`` positive semi-definite.
    """
    values, vectors = torch.linalg.eigh(cov_x)
    root = vectors * values.clamp_min(0).sqrt()
    cross = torch.linalg.eigvalsh(root.T @ cov_y @ root).clamp_min(0).sqrt().sum()
    mean = (mean_x - mean_y).square().sum()
    return float((mean + cov_x.trace() + cov_y.trace() - 2 * cross).clamp_min(0))


def gaussian_w2(x: Tensor, y: Tensor) -> float:
    """Squared distance between the Gaussians with the moments of ``x (n, d)`` and ``y (m, d)`` (the formula of the FID).

    In float64. A plug-in: its bias falls like 1/n, see :func:`extrapolated`.
    """
    x, y = x.double(), y.double()
    return bures(x.mean(0), torch.atleast_2d(torch.cov(x.T)), y.mean(0), torch.atleast_2d(torch.cov(y.T)))


def pair_coordinates(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """``(z + z+)/sqrt(2)`` and ``(z - z+)/sqrt(2)`` of pairs ``(n, d)``: a rotation of the joint law."""
    return (first + second) / 2**0.5, (first - second) / 2**0.5


def pair_gaussian_w2(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Squared Gaussian distance between the laws of two samples of pairs: the part of the sums and that of the differences.

    For laws that do not change when z and z+ change places, sum and difference are uncorrelated and the difference has
    mean zero, so that the distance between the joint Gaussians is the sum of the two parts, each in d dimensions
    instead of 2d. Both are estimated for the symmetrised samples.
    """
    (sum_x, diff_x), (sum_y, diff_y) = (pair_coordinates(*(side.double() for side in pair)) for pair in (x, y))
    zero = torch.zeros_like(diff_x[0])
    moments = [d.T @ d / len(d) for d in (diff_x, diff_y)]
    return gaussian_w2(sum_x, sum_y), bures(zero, moments[0], zero, moments[1])


def extrapolated(plug_in: Sequence[float], halves: Sequence[Sequence[float]]) -> list[float]:
    """``2 b(n) - b(n/2)``: without the part of the bias that falls like 1/n.

    Args:
        plug_in: values on the whole samples. halves: values on disjoint halves of both samples, averaged here.
    """
    return [2 * value - sum(h[i] for h in halves) / len(halves) for i, value in enumerate(plug_in)]
