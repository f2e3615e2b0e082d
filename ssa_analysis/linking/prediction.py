"""Predict the accuracy of checkpoints that a model has not seen from their scores, group by group left out.

A correlation over all checkpoints says little of the next one. Here a ridge regression is fitted without a group (a
configuration with all its seeds, or a method) and asked for that group's accuracy. The same is done with the label-free
criteria that others use, and with the hyper-parameters themselves, which any score has to beat to be of use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ssa_analysis.linking.rank import weighted_pearson, weighted_ranks
from ssa_analysis.linking.resampling import configuration_weights, percentile_interval
from ssa_analysis.linking.table import Design
from ssa_analysis.numerics.resampling import Interval

STRENGTHS = tuple(float(s) for s in np.logspace(-3, 3, 13))  # of the ridge penalty, for standardised columns
BASELINES: dict[str, tuple[str, ...]] = {
    "RankMe": ("representation.effective_rank",),
    "alignment + uniformity": ("representation.alignment", "representation.uniformity"),
    "contrastive loss": ("representation.contrastive_loss",),
    "weight norm": ("representation.weight_norm",),
}
SETTINGS = "hyper-parameters"


@dataclass(frozen=True)
class Prediction:
    """How well a set of scores predicts the target of left-out groups.

    Attributes:
        r2: ``1 - sum (y - yhat)^2 / sum (y - ybar)^2`` where ``ybar`` is the mean without the group: 0 is no better than
            the mean of the others, below 0 worse. Percentile interval of a bootstrap over configurations.
        error: mean absolute error in the target's unit, with such an interval. rank: Spearman of prediction and truth.
        predicted: ``(n,)``. truth: ``(n,)``.
    """

    name: str
    columns: tuple[str, ...]
    groups: str
    n: int
    r2: Interval
    error: Interval
    rank: float
    predicted: np.ndarray
    truth: np.ndarray


def feature_matrix(table: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """``(n, q)`` scores as columns, in logarithms where all values of a score are positive."""
    values = table[list(columns)].to_numpy(float)
    positive = (values > 0).all(0)
    return np.where(positive, np.log(np.where(positive, values, 1.0)), values)


def ridge_fit(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """``(q + 1,)`` intercept and coefficients that minimise ``|y - b - x a|^2 + strength |a|^2``."""
    full = np.column_stack([np.ones(len(x)), x])
    penalty = strength * np.eye(full.shape[1])
    penalty[0, 0] = 0.0
    return np.asarray(np.linalg.solve(full.T @ full + penalty, full.T @ y))


def left_out_residuals(x: np.ndarray, y: np.ndarray, groups: np.ndarray, *strengths: float) -> np.ndarray:
    """``(strengths, n)`` residuals of each row by the ridge fits without its group, in closed form; ``(n,)`` of one strength.

    With the hat matrix H of the fit to all rows, the residuals of group g without it are ``(I - H_gg)^-1 e_g``. The intercept
    is fitted freely, so that H is 1/n and that of the centred columns; in their principal axes all strengths are at hand.
    """
    n = len(y)
    x, y = x - x.mean(0), y - y.mean()
    spread, axes = np.linalg.eigh(x.T @ x)
    along = x @ axes
    shrunk = 1 / (np.maximum(spread, 0.0) + np.array(strengths)[:, None])  # (strengths, q)
    rest = y - (shrunk * (along.T @ y)) @ along.T
    out = np.empty_like(rest)
    for rows in equal_blocks(groups):
        part = along[rows]  # (blocks, rows, q)
        hat = 1 / n + (part * shrunk[:, None, None, :]) @ part.swapaxes(1, 2)
        out[:, rows] = np.linalg.solve(np.eye(rows.shape[1]) - hat, rest[:, rows, None])[..., 0]
    return np.asarray(out[0] if len(strengths) == 1 else out)


def equal_blocks(groups: np.ndarray) -> list[np.ndarray]:
    """The rows of groups of one size, ``(groups, rows)``, for each size that there is."""
    order = np.argsort(groups, kind="stable")
    sizes = np.unique(groups, return_counts=True)[1]
    starts = np.cumsum(sizes) - sizes
    return [order[starts[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]


def predict_left_out(x: np.ndarray, y: np.ndarray, groups: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """``(n,)`` predictions of each group from the others.

    Columns are standardised, and the strength of the ridge is chosen by leaving out the ``inner`` groups one by one, on
    the other groups alone.
    """
    predicted = np.empty(len(y))
    for group in np.unique(groups):
        out = groups == group
        mean, std = x[~out].mean(0), x[~out].std(0)
        scale = np.where(std > 1e-12 * np.abs(x).max(initial=1.0), 1 / np.where(std > 0, std, 1.0), 0.0)
        seen, unseen = (x[~out] - mean) * scale, (x[out] - mean) * scale
        losses = np.square(left_out_residuals(seen, y[~out], inner[~out], *STRENGTHS)).mean(1)
        fit = ridge_fit(seen, y[~out], STRENGTHS[int(np.argmin(losses))])
        predicted[out] = fit[0] + unseen @ fit[1:]
    return predicted


def predictions(
    table: pd.DataFrame,
    target: np.ndarray,
    design: Design,
    sets: Mapping[str, Sequence[str]],
    *,
    leave_out: str = "configuration",
    draws: int = 1000,
    seed: int = 0,
) -> list[Prediction]:
    """Leave-one-group-out predictions from each set of scores, and from the hyper-parameters.

    Args:
        table: checkpoints x scores. target: ``(n,)``. sets: name -> columns of the table; those that are there for all
            checkpoints are used, and a set of which none is, or the same as another's, is left out.
        leave_out: ``configuration`` or ``method``.

    Returns:
        In the order of ``sets``; empty with fewer than three groups, or where all have the same target.
    """
    groups = design.configuration if leave_out == "configuration" else np.unique(design.method, return_inverse=True)[1]
    if len(np.unique(groups)) < 3 or len(np.unique(target)) < 2:
        return []
    weights = configuration_weights(design, draws, seed)
    centre = np.array([target[groups != g].mean() for g in groups])  # what one would say without any score
    matrices: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for name, columns in sets.items():
        there = tuple(c for c in columns if c in table and table[c].notna().all())
        if there and there not in [known for known, _ in matrices.values()]:
            matrices[name] = (there, feature_matrix(table, there))
    if len(design.settings.columns):
        matrices[SETTINGS] = (
            tuple(design.settings.columns), pd.get_dummies(design.settings, drop_first=True).to_numpy(float),
        )  # fmt: skip
    found = []
    for name, (columns, x) in matrices.items():
        predicted = predict_left_out(x, target, groups, design.configuration)
        squared, total, absolute = (target - predicted) ** 2, (target - centre) ** 2, np.abs(target - predicted)
        r2 = 1 - squared.sum() / total.sum()
        with np.errstate(divide="ignore", invalid="ignore"):  # draws of nothing but one configuration, which have no R²
            drawn_r2 = 1 - (weights @ squared) / (weights @ total)
        found.append(
            Prediction(
                name, columns, leave_out, len(target),
                percentile_interval(float(r2), drawn_r2, design.configurations),
                percentile_interval(float(absolute.mean()), (weights @ absolute) / weights.sum(1), design.configurations),
                _spearman(predicted, target),
                predicted, target,
            )
        )  # fmt: skip
    return found


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """NaN where one of them is constant."""
    ones = np.ones((1, len(x)))
    return float(weighted_pearson(weighted_ranks(x, ones), weighted_ranks(y, ones), ones)[0])


def prediction_table(found: Sequence[Prediction]) -> pd.DataFrame:
    """One row a set of scores and kind of group."""
    return pd.DataFrame(
        [
            {
                "predictor": p.name, "left out": p.groups, "n": p.n, "R2": p.r2.value, "R2_low": p.r2.low, "R2_high": p.r2.high,
                "mean error": p.error.value, "error_low": p.error.low, "error_high": p.error.high, "rank": p.rank,
                "scores": ", ".join(p.columns),
            }
            for p in found
        ]
    )  # fmt: skip
