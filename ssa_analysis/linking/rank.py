"""Pearson, Spearman and Kendall correlation of every score with a downstream target, with bootstrap intervals."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, pearsonr, spearmanr

from ssa_analysis.errors import DataError
from ssa_analysis.numerics.resampling import Interval, bootstrap
from ssa_analysis.registry import unknown_name

COEFFICIENTS = ("pearson", "spearman", "kendall")
MINIMUM = 4  # checkpoints; with three, every rank correlation but +-1 is +-0.5


@dataclass(frozen=True)
class Link:
    """Correlation of one score with the target over n checkpoints; intervals are 95 % percentile bootstrap."""

    score: str
    n: int
    pearson: Interval
    spearman: Interval
    kendall: Interval


def coefficient(kind: str, x: np.ndarray, y: np.ndarray) -> float:
    """One correlation (Kendall's is tau-b); NaN where x or y is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    function = {"pearson": pearsonr, "spearman": spearmanr, "kendall": kendalltau}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # near-constant resamples; the value says it already
        return float(function(x, y).statistic)


def wide_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Checkpoints x ``measure.name`` values, from the long table of a store; not-finite values are missing."""
    labelled = frame.assign(score=frame["measure"] + "." + frame["name"])
    table = labelled.pivot_table(index="checkpoint", columns="score", values="value", aggfunc="last", sort=False)
    return table.replace([np.inf, -np.inf], np.nan)


def link_scores(frame: pd.DataFrame, target: str, *, draws: int = 1000, seed: int = 0) -> list[Link]:
    """Correlate every score with ``target`` over the checkpoints that have both, strongest Spearman first.

    Other scores of the target's own measure family are left out, as are scores that are constant.

    Args:
        frame: a store's long table. target: ``measure.name``.

    Raises:
        DataError: the table is empty, the target is not in it, or fewer than ``MINIMUM`` checkpoints have it.
    """
    if frame.empty:
        raise DataError("there are no scores to link; run ssa-analyze score first")
    if frame["data"].nunique() > 1:
        names = ", ".join(sorted(frame["data"].unique()))
        raise DataError(f"the store holds scores on several data sets ({names}); name one with --data")
    table = wide_table(frame)
    if target not in table:
        raise DataError(str(unknown_name("target", target, list(table.columns))))
    count = int(table[target].notna().sum())
    if count < MINIMUM:
        raise DataError(f"{count} checkpoints have {target}; correlations need at least {MINIMUM}")
    family = target.split(".")[0] + "."
    links = []
    for name in table.columns:
        both = table[[name, target]].dropna() if name != target else None
        if both is None or name.startswith(family) or len(both) < MINIMUM or both[name].nunique() < 2:
            continue
        links.append(_link(str(name), both[name].to_numpy(float), both[target].to_numpy(float), draws, seed))
    return sorted(links, key=lambda link: -abs(np.nan_to_num(link.spearman.value)))


def _link(name: str, x: np.ndarray, y: np.ndarray, draws: int, seed: int) -> Link:
    intervals = {}
    for kind in COEFFICIENTS:

        def resampled(index: np.ndarray, kind: str = kind) -> float:
            return coefficient(kind, x[index], y[index])

        intervals[kind] = bootstrap(resampled, len(x), draws=draws, seed=seed)
    return Link(name, len(x), **intervals)


def link_table(links: list[Link]) -> pd.DataFrame:
    """One row a score: n, and value, low and high of each coefficient."""
    rows = []
    for link in links:
        row: dict[str, object] = {"score": link.score, "n": link.n}
        for kind in COEFFICIENTS:
            interval: Interval = getattr(link, kind)
            row |= {kind: interval.value, f"{kind}_low": interval.low, f"{kind}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)
