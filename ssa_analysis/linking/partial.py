"""Rank correlation at equal hyper-parameters: partial (they enter a linear model) and within groups (they are equal)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ssa_analysis.linking.rank import Centred, centred_ranks, correlation, signs, weighed, weighted_ranks


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
        coefficients = np.einsum("bqr,br->bq", self._inverse, (self.weights * values) @ self.columns)
        return np.asarray(values - coefficients @ self.columns.T)

    def rest(self, values: np.ndarray) -> Centred:
        """:meth:`residuals` of ranks, to be correlated; constant in resamples where nothing is left of them."""
        # what is left of a rank by rounding is no rest
        noise = self.weights.sum(1) * (5e-8 * self.columns.shape[0]) ** 2
        return weighed(self.residuals(values), self.weights, np.where(self.leaves_something, noise, np.inf))


def partial_spearman(x: np.ndarray, y: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B,)`` partial Spearman correlation: Pearson's, of what the controls ``columns (n, q)`` leave of the ranks.

    With numeric controls as ranks this is pingouin's and R's (ppcor) definition. NaN where nothing is left of x or y, or
    where a resample has no more distinct rows than controls.
    """
    controls = Controls(columns, weights)
    return correlation(*(controls.rest(weighted_ranks(v, weights)) for v in (x, y)))


def same_group(groups: np.ndarray) -> np.ndarray:
    """``(n, n)``: 1 where two checkpoints are of one group of ``groups (n,)``, 0 elsewhere."""
    return np.asarray(groups[:, None] == groups[None, :], dtype=np.float32)


def pooled(ranks: np.ndarray, weights: np.ndarray) -> Centred:
    """``(B, n)`` ranks that are centred in each group already, to be correlated over all groups."""
    return weighed(ranks, weights, 1e-12)


def within_groups(x: np.ndarray, y: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B,)`` Spearman correlation within groups, pooled: ranks are taken, and centred, in each group of ``groups (n,)``.

    Groups weigh by their spread of ranks, so a group of one says nothing. One group gives Spearman's coefficient.
    """
    same = same_group(groups)
    return correlation(*(pooled(centred_ranks(signs(v) * same, weights), weights) for v in (x, y)))
