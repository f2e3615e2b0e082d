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
    values = x - (sums / total)[:, None]
    weighted = weights * values
    variance = np.einsum("bn,bn->b", weighted, values)
    # a resample of one repeated value leaves rounding noise, not a variance
    constant = variance <= 1e-14 * total * max(float(x.max()), -float(x.min())) ** 2
    return Centred(values, weighted, np.where(constant, np.nan, variance))


def correlation(x: Centred, y: Centred) -> np.ndarray:
    """``(B,)`` Pearson correlation of two variables in the same samples; NaN where one is constant."""
    return np.asarray(np.einsum("bn,bn->b", x.values, y.weighted) / np.sqrt(x.variance * y.variance))


def weighted_pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson correlation for each row of ``weights (B, n)``; x and y are ``(n,)`` or ``(B, n)``. NaN if constant."""
    return correlation(centred(x, weights), centred(y, weights))


def signs(x: np.ndarray) -> np.ndarray:
    """``(n, n)`` signs of ``x_i - x_j``: all that ranks and Kendall's coefficient know of ``x (n,)``."""
    return np.sign(x[:, None] - x[None, :]).astype(np.float32)


class Resamples:
    """B weighted samples of n checkpoints, those of one unit (a configuration) weighing the same.

    Sums over checkpoints are taken over those of each unit first, once for all samples. In single precision: they are sums
    of signs, whole numbers below 2^24.

    Args:
        weights: ``(B, U)``. units: ``(n,)`` the unit of each checkpoint; without it each is its own, ``U = n``.
    """

    def __init__(self, weights: np.ndarray, units: np.ndarray | None = None) -> None:
        self.units = np.arange(weights.shape[1]) if units is None else units
        self.of_units = weights
        self.weights = weights if units is None else weights[:, units]  # (B, n)
        self._members = None if units is None else np.eye(weights.shape[1], dtype=np.float32)[units]

    def centred_ranks(self, order: np.ndarray) -> np.ndarray:
        """``(B, n)`` average ranks less their mean, from the signs ``order (n, n)``.

        A checkpoint is above the mean rank by half of what lies below it less half of what lies above.
        """
        return np.asarray(self.of_units @ (0.5 * self._over_units(order)).T)

    def pair_sums(self, pairs: np.ndarray) -> np.ndarray:
        """``(B,)`` sums of ``w_i w_j m_ij`` over ``pairs (n, n)`` of signs."""
        sums = self._over_units(pairs)
        if self._members is not None:
            sums = self._members.T @ sums
        return np.einsum("bu,bu->b", self.of_units @ sums, self.of_units)

    def untied(self, x: np.ndarray) -> np.ndarray:
        """``(B,)`` sums of ``w_i w_j`` over the pairs whose values of ``x (n,)`` differ: all, less those of equal values."""
        _, groups, counts = np.unique(x, return_inverse=True, return_counts=True)
        tied = np.flatnonzero(counts > 1)
        equal = np.square(self.of_units) @ np.bincount(self.units, counts[groups] == 1, self.of_units.shape[1])
        if len(tied):
            columns = np.zeros((self.of_units.shape[1], len(counts)))
            np.add.at(columns, (self.units, groups), 1.0)
            equal = equal + np.square(self.of_units @ columns[:, tied]).sum(1)
        every = np.square(self.weights.sum(1))
        # where all values are equal, rounding leaves something of the difference
        return np.where(every - equal > 1e-12 * every, every - equal, 0.0)

    def _over_units(self, pairs: np.ndarray) -> np.ndarray:
        """``(n, U)`` sums over the second of a pair."""
        sums = pairs if self._members is None else pairs @ self._members
        return sums.astype(float)


def weighted_ranks(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B, n)`` average ranks of each unit within the sample in which unit j stands ``weights[b, j]`` times."""
    return Resamples(weights).centred_ranks(signs(x)) + (weights.sum(1, keepdims=True) + 1) / 2


def kendall(agreement: np.ndarray, untied_x: np.ndarray, untied_y: np.ndarray) -> np.ndarray:
    """``(B,)`` Kendall's tau-b from sums over pairs: of the products of signs, and of the pairs that x and y tell apart."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(untied_x * untied_y > 0, agreement / np.sqrt(untied_x * untied_y), np.nan))


def weighted_kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b for each row of ``weights (B, n)``.

    Concordance sums are quadratic forms in the weights, ``w'(S_x * S_y)w`` with S the matrix of signs of differences.
    """
    samples = Resamples(weights)
    return kendall(samples.pair_sums(signs(x) * signs(y)), samples.untied(x), samples.untied(y))


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
