"""Pearson, Spearman and Kendall coefficients of weighted samples: of the checkpoints themselves, and of all resamples."""

from __future__ import annotations

import numpy as np

COEFFICIENTS = ("pearson", "spearman", "kendall")


def weighted_pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson correlation for each row of ``weights (B, n)``; x and y are ``(n,)`` or ``(B, n)``. NaN if constant."""
    share = weights / weights.sum(1, keepdims=True)
    dx, dy = (v - (share * v).sum(1, keepdims=True) for v in (x, y))
    vx, vy = (share * dx**2).sum(1), (share * dy**2).sum(1)
    # a resample of one repeated value leaves rounding noise, not a variance
    constant = (vx <= 1e-14 * np.square(x).max()) | (vy <= 1e-14 * np.square(y).max())
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(constant, np.nan, (share * dx * dy).sum(1) / np.sqrt(vx * vy)))


def weighted_ranks(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B, n)`` average ranks of each unit within the sample in which unit j stands ``weights[b, j]`` times."""
    below = (x[None, :] < x[:, None]) + 0.5 * (x[None, :] == x[:, None])
    return np.asarray(weights @ below.T + 0.5)


def weighted_kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b for each row of ``weights (B, n)``.

    Concordance sums are quadratic forms in the weights, ``w'(S_x * S_y)w`` with S the matrix of signs of differences.
    """
    sx, sy = (np.sign(v[:, None] - v[None, :]) for v in (x, y))
    agree, untied_x, untied_y = (((weights @ m) * weights).sum(1) for m in (sx * sy, sx**2, sy**2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(untied_x * untied_y > 0, agree / np.sqrt(untied_x * untied_y), np.nan))


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
