"""Pearson, Spearman and Kendall correlation of every score with a downstream target, with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ssa_analysis.errors import DataError
from ssa_analysis.numerics.resampling import Interval
from ssa_analysis.registry import unknown_name
from ssa_analysis.score import marks_of

COEFFICIENTS = ("pearson", "spearman", "kendall")
MINIMUM = 4  # checkpoints; with three, every rank correlation but +-1 is +-0.5


@dataclass(frozen=True)
class Link:
    """Correlation of one score with the target over n checkpoints; intervals are 95 % percentile bootstrap.

    ``note``: what must be said of the score's values, such as ``regenerated``.
    """

    score: str
    n: int
    pearson: Interval
    spearman: Interval
    kendall: Interval
    note: str = ""


def _weighted_pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson correlation for each row of ``weights (B, n)``; x and y are ``(n,)`` or ``(B, n)``. NaN if constant."""
    share = weights / weights.sum(1, keepdims=True)
    dx, dy = (v - (share * v).sum(1, keepdims=True) for v in (x, y))
    vx, vy = (share * dx**2).sum(1), (share * dy**2).sum(1)
    # a resample of one repeated value leaves rounding noise, not a variance
    constant = (vx <= 1e-14 * np.square(x).max()) | (vy <= 1e-14 * np.square(y).max())
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(constant, np.nan, (share * dx * dy).sum(1) / np.sqrt(vx * vy)))


def _weighted_ranks(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``(B, n)`` average ranks of each unit within the sample in which unit j stands ``weights[b, j]`` times."""
    below = (x[None, :] < x[:, None]) + 0.5 * (x[None, :] == x[:, None])
    return np.asarray(weights @ below.T + 0.5)


def _weighted_kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
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
        "pearson": _weighted_pearson(x, y, weights),
        "spearman": _weighted_pearson(_weighted_ranks(x, weights), _weighted_ranks(y, weights), weights),
        "kendall": _weighted_kendall(x, y, weights),
    }


def wide_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Checkpoints x ``measure.name`` values, from the long table of a store; not-finite values are missing."""
    labelled = frame.assign(score=frame["measure"] + "." + frame["name"])
    table = labelled.pivot_table(index="checkpoint", columns="score", values="value", aggfunc="last", sort=False)
    return table.replace([np.inf, -np.inf], np.nan)


def mixed_images(frame: pd.DataFrame) -> list[str]:
    """Measures whose scores were taken on different images of one data set (other subsets, say), by name."""
    prints = frame["settings"].map(lambda s: s.get("data_fingerprint"))
    seen = set(zip(frame["data"], frame["measure"], prints, strict=True))
    pairs = [(data, measure) for data, measure, _ in seen]
    return sorted({measure for data, measure in pairs if pairs.count((data, measure)) > 1})


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
    if table[target].nunique() < 2:
        raise DataError(f"all {count} checkpoints have the same {target}: there is nothing to explain")
    family = target.split(".")[0] + "."
    links = []
    for name in table.columns:
        both = table[[name, target]].dropna() if name != target else None
        if both is None or name.startswith(family) or len(both) < MINIMUM or both[name].nunique() < 2:
            continue
        note = note_of(frame, str(name))
        links.append(_link(str(name), both[name].to_numpy(float), both[target].to_numpy(float), draws, seed, note))
    return sorted(links, key=lambda link: -abs(np.nan_to_num(link.spearman.value)))


def note_of(frame: pd.DataFrame, score: str) -> str:
    """What must be said of the values of ``measure.name`` in a store's long table; nothing without a column ``settings``."""
    if "settings" not in frame:
        return ""
    measure, _, name = score.partition(".")
    return marks_of(frame.loc[(frame["measure"] == measure) & (frame["name"] == name), "settings"])


def _link(name: str, x: np.ndarray, y: np.ndarray, draws: int, seed: int, note: str = "") -> Link:
    n = len(x)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
    whole, resampled = correlations(x, y, np.ones((1, n))), correlations(x, y, counts)
    intervals = {}
    for kind in COEFFICIENTS:
        samples = resampled[kind][np.isfinite(resampled[kind])]
        low, high = np.quantile(samples, [0.025, 0.975]) if len(samples) > 1 else (np.nan, np.nan)
        spread = float(samples.std(ddof=1)) if len(samples) > 1 else float("nan")
        intervals[kind] = Interval(float(whole[kind][0]), spread, float(low), float(high))
    return Link(name, n, **intervals, note=note)


def link_table(links: list[Link]) -> pd.DataFrame:
    """One row a score: n, value, low and high of each coefficient, and what must be said of the score's values."""
    rows = []
    for link in links:
        row: dict[str, object] = {"score": link.score, "n": link.n}
        for kind in COEFFICIENTS:
            interval: Interval = getattr(link, kind)
            row |= {kind: interval.value, f"{kind}_low": interval.low, f"{kind}_high": interval.high}
        row["note"] = link.note
        rows.append(row)
    return pd.DataFrame(rows)
