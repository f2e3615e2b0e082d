"""Rank correlation at equal hyper-parameters: partial (they enter a linear model) and within groups (they are equal)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ssa_analysis.linking.rank import weighted_pearson, weighted_ranks


def control_matrix(settings: pd.DataFrame, *numbers: np.ndarray) -> np.ndarray:
    """``(n, q)`` columns to control for: one for each value but the first of every setting, and the ranks of ``numbers``.

    Settings are taken as categories, so that no shape of their effect is assumed.
    """
    n = len(settings)
    columns = [np.ones(n)]
    for name in settings.columns:
        values = settings[name].to_numpy()
        columns += [(values == value).astype(float) for value in pd.unique(values)[1:]]
    ones = np.ones((1, n))
    columns += [weighted_ranks(np.asarray(number, dtype=float), ones)[0] for number in numbers]
    return np.stack(columns, axis=1)


class Controls:
    """Weighted least-squares fits by the same controls in many resamples; the normal equations are solved once.

    Args:
        columns: ``(n, q)``, which may be collinear. weights: ``(B, n)``, one row a resample.
    """

    def __init__(self, columns: np.ndarray, weights: np.ndarray) -> None:
        self.columns, self.weights = columns, weights
        gram = np.einsum("bn,nq,nr->bqr", weights, columns, columns, optimize=True)
        self._inverse = np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
        self.rank = int(np.linalg.matrix_rank(columns))
        # a resample with no more distinct rows than controls is fitted perfectly, whatever it says
        self.leaves_something = (weights > 0).sum(1) > self.rank + 1

    def residuals(self, values: np.ndarray) -> np.ndarray:
        """``(B, n)`` values, ``(n,)`` or ``(B, n)``, less their fit in each resample."""
        values = np.broadcast_to(values, self.weights.shape)
        coefficients = np.einsum("bqr,br->bq", self._inverse, (self.weights * values) @ self.columns)
        return np.asarray(values - coefficients @ self.columns.T)

    def correlation(self, rx: np.ndarray, ry: np.ndarray) -> np.ndarray:
        """``(B,)`` Pearson correlation of two residuals ``(B, n)``; NaN where nothing is left of one of them."""
        n = self.columns.shape[0]
        # what is left of a rank by rounding is no rest
        left = [np.sqrt((self.weights * r**2).sum(1) / self.weights.sum(1)) > 1e-9 * n for r in (rx, ry)]
        found = weighted_pearson(rx, ry, self.weights)
        return np.where(self.leaves_something & left[0] & left[1], found, np.nan)


def partial_spearman(x: np.ndarray, y: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B,)`` partial Spearman correlation: Pearson's, of what the controls ``columns (n, q)`` leave of the ranks.

    With numeric controls as ranks this is pingouin's and R's (ppcor) definition. NaN where nothing is left of x or y, or
    where a resample has no more distinct rows than controls.
    """
    controls = Controls(columns, weights)
    rx, ry = (controls.residuals(weighted_ranks(v, weights)) for v in (x, y))
    return controls.correlation(rx, ry)


def ranks_within(values: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B, n)`` ranks of ``values (n,)`` in each group of ``groups (n,)``, centred there, in each resample."""
    same = (groups[:, None] == groups[None, :]).astype(float)
    below = ((values[None, :] < values[:, None]) + 0.5 * (values[None, :] == values[:, None]) - 0.5) * same
    return np.asarray(weights @ below.T)


def pooled_correlation(cx: np.ndarray, cy: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B,)`` correlation of two sets of centred values ``(B, n)``; NaN where one has no spread."""
    vx, vy, product = ((weights * a * b).sum(1) for a, b in ((cx, cx), (cy, cy), (cx, cy)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where((vx > 1e-12) & (vy > 1e-12), product / np.sqrt(vx * vy), np.nan))


def within_groups(x: np.ndarray, y: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B,)`` Spearman correlation within groups, pooled: ranks are taken, and centred, in each group of ``groups (n,)``.

    Groups weigh by their spread of ranks, so a group of one says nothing. One group gives Spearman's coefficient.
    """
    cx, cy = (ranks_within(v, groups, weights) for v in (x, y))
    return pooled_correlation(cx, cy, weights)
