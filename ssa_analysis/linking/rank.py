"""Pearson, Spearman and Kendall coefficients of weighted samples: of the checkpoints themselves, and of all resamples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COEFFICIENTS = ("pearson", "spearman", "kendall")


@dataclass(frozen=True)
class Centred:
    """A variable less its mean in each of B weighted samples.

    Attributes:
        values: ``(B, n)``. weighted: ``(B, n)`` values times weights. variance: ``(B,)`` times the sum of weights; NaN where
            the variable is constant.
    """

    values: np.ndarray
    weighted: np.ndarray
    variance: np.ndarray


def centred(x: np.ndarray, weights: np.ndarray) -> Centred:
    """``x``, ``(n,)`` or ``(B, n)``, less its mean in the sample of each row of ``weights (B, n)``."""
    total = weights.sum(1)
    sums = weights @ x if x.ndim == 1 else np.einsum("bn,bn->b", weights, x)
    # a resample of one repeated value leaves rounding noise, not a variance
    return weighed(x - (sums / total)[:, None], weights, 1e-14 * total * max(float(x.max()), -float(x.min())) ** 2)


def weighed(values: np.ndarray, weights: np.ndarray, noise: np.ndarray | float) -> Centred:
    """``(B, n)`` values of mean 0 in their samples; constant where the variance, times the sum of weights, is but ``noise``."""
    weighted = weights * values
    variance = np.einsum("bn,bn->b", weighted, values)
    return Centred(values, weighted, np.where(variance > noise, variance, np.nan))


def correlation(x: Centred, y: Centred) -> np.ndarray:
    """``(B,)`` Pearson correlation of two variables in the same samples; NaN where one is constant."""
    return np.asarray(np.einsum("bn,bn->b", x.values, y.weighted) / np.sqrt(x.variance * y.variance))


def weighted_pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson correlation for each row of ``weights (B, n)``; x and y are ``(n,)`` or ``(B, n)``. NaN if constant."""
    return correlation(centred(x, weights), centred(y, weights))


def signs(x: np.ndarray) -> np.ndarray:
    """``(n, n)`` signs of ``x_i - x_j``: all that ranks and Kendall's coefficient know of ``x (n,)``."""
    return np.asarray(np.sign(x[:, None] - x[None, :]), dtype=np.float32)


def centred_ranks(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B, n)`` average ranks less their mean.

    A checkpoint is above the mean rank by half of what lies below it less half of what lies above.

    Args:
        sums: ``(n, U)`` :func:`signs` summed over the second's unit, or the signs themselves. weights: ``(B, U)`` of the units.
    """
    return np.asarray(weights @ (0.5 * sums.astype(float)).T)


def pair_sums(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B,)`` sums of ``w_u w_v m_uv`` over pairs of units, for ``sums (U, U)`` and ``weights (B, U)``."""
    return np.asarray(np.einsum("bu,bu->b", weights @ sums.astype(float), weights))


def untied(x: np.ndarray, weights: np.ndarray, units: np.ndarray) -> np.ndarray:
    """``(B,)`` sums of ``w_i w_j`` over the pairs whose values of ``x (n,)`` differ: all, less those of equal values.

    Args:
        weights: ``(B, U)``. units: ``(n,)`` the unit of each checkpoint, which has its weight.
    """
    _, values, counts = np.unique(x, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    size = weights.shape[1]
    equal = np.square(weights) @ np.bincount(units, counts[values] == 1, size)
    if len(several):
        members = np.zeros((size, len(counts)))
        np.add.at(members, (units, values), 1.0)
        equal = equal + np.square(weights @ members[:, several]).sum(1)
    every = np.square(weights @ np.bincount(units, minlength=size))
    # where all values are equal, rounding leaves something of the difference
    return np.asarray(np.where(every - equal > 1e-12 * every, every - equal, 0.0))


def weighted_ranks(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B, n)`` average ranks of each unit within the sample in which unit j stands ``weights[b, j]`` times."""
    return np.asarray(centred_ranks(signs(x), weights) + (weights.sum(1, keepdims=True) + 1) / 2)


def kendall(agreement: np.ndarray, untied_x: np.ndarray, untied_y: np.ndarray) -> np.ndarray:
    """``(B,)`` Kendall's tau-b from sums over pairs: of the products of signs, and of the pairs that x and y tell apart."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(untied_x * untied_y > 0, agreement / np.sqrt(untied_x * untied_y), np.nan))


def weighted_kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b for each row of ``weights (B, n)``.

    Concordance sums are quadratic forms in the weights, ``w'(S_x * S_y)w`` with S the matrix of signs of differences.
    """
    each = np.arange(len(x))
    return kendall(pair_sums(signs(x) * signs(y), weights), untied(x, weights, each), untied(y, weights, each))


def correlations(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The three coefficients ``(B,)`` for samples in which unit j stands ``weights[b, j]`` times.

    One row of ones gives the coefficients of the units themselves; rows of bootstrap counts give those of resamples,
    the same as if each resample were written out. NaN where x or y is constant.
    """
    x, y = x - x.mean(), y - y.mean()
    return {
        "pearson": weighted_pearson(x, y, weights),
        "spearman": weighted_pearson(weighted_ranks(x, weights), weighted_ranks(y, weights), weights),
        "kendall": weighted_kendall(x, y, weights),
    }
