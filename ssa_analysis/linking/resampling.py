"""Resampling and permuting checkpoints whose seeds repeat a configuration: configurations are the units, not files.

Three seeds of one configuration are alike; intervals that count them as three independent checkpoints are too short,
and tests that exchange them find what is not there.
"""

from __future__ import annotations

import numpy as np

from ssa_analysis.linking.table import Design
from ssa_analysis.numerics.resampling import Interval

LEVEL = 0.95
LEAST = 4  # configurations below which resampling them says nothing of the error


def configuration_weights(design: Design, draws: int, seed: int = 0) -> np.ndarray:
    """``(draws, n)`` weights of the checkpoints in resamples of configurations: :func:`unit_weights` of their configurations."""
    return unit_weights(design, draws, seed)[:, design.configuration]


def unit_weights(design: Design, draws: int, seed: int = 0) -> np.ndarray:
    """``(draws, configurations)`` weights in resamples of configurations within methods.

    The bootstrap of Rao and Wu (1988): of m configurations of a method m - 1 are drawn with replacement, each weighing
    m/(m - 1), which gives the variance without the factor (m - 1)/m of the plain one. Methods with a single
    configuration are put together; where that leaves one alone, there are no strata.
    """
    rng = np.random.default_rng(seed)
    count = design.configurations
    first = np.array([np.flatnonzero(design.configuration == c)[0] for c in range(count)])
    strata = design.method[first].astype(object)
    for name in set(strata):
        if (strata == name).sum() == 1:
            strata[strata == name] = None
    if (strata == None).sum() == 1:  # noqa: E711  (elementwise)
        strata[:] = None
    weights = np.zeros((draws, count))
    for name in dict.fromkeys(strata):
        members = np.flatnonzero(strata == name)
        m = len(members)
        if m == 1:
            weights[:, members] = 1.0
            continue
        weights[:, members] = rng.multinomial(m - 1, np.full(m, 1 / m), size=draws) * (m / (m - 1))
    return weights


def permutations_of(design: Design, count: int, seed: int = 0, groups: np.ndarray | None = None) -> np.ndarray:
    """``(count, n)`` indices that exchange configurations as blocks, seed by seed; within ``groups (n,)`` if given.

    Blocks are exchanged among configurations with equally many checkpoints (and the same group). All checkpoints of a
    configuration must be in one group.
    """
    rng = np.random.default_rng(seed)
    n = len(design.configuration)
    order = np.lexsort((design.seed, design.configuration))  # blocks one after the other, seeds in order
    blocks = np.split(order, np.flatnonzero(np.diff(design.configuration[order])) + 1)
    kinds: dict[tuple[int, int], list[np.ndarray]] = {}
    for block in blocks:
        group = 0 if groups is None else int(groups[block[0]])
        kinds.setdefault((len(block), group), []).append(block)
    result = np.tile(np.arange(n), (count, 1))
    for same in kinds.values():
        rows = np.stack(same)  # (blocks, seeds)
        moved = rng.permuted(np.tile(np.arange(len(rows)), (count, 1)), axis=1)
        result[:, rows.ravel()] = rows[moved].reshape(count, -1)
    return result


def exchanges(design: Design, groups: np.ndarray | None = None) -> bool:
    """Whether there is anything to exchange: two configurations of equal size in one group."""
    return bool((permutations_of(design, 20, 0, groups) != np.arange(len(design.configuration))).any())


def percentile_interval(value: float, samples: np.ndarray, units: int = LEAST, controls: int = 0) -> Interval:
    """A value with the standard deviation and the percentile interval of its resamples.

    NaN where more than half of the resamples have no value, or with fewer units that were resampled than ``LEAST`` and two for
    each of the ``controls`` (columns besides the constant) of a fit: with fewer it fits the resamples, not the units.
    """
    finite = samples[np.isfinite(samples)]
    if len(finite) < max(2, len(samples) / 2) or units < LEAST + 2 * controls or not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(finite.std(ddof=1)), float(low), float(high))


def permutation_p(value: float, null: np.ndarray) -> float:
    """Two-sided p-value ``(1 + #{|null| >= |value|}) / (1 + count)``; NaN without a value or a null."""
    finite = null[np.isfinite(null)]
    if not np.isfinite(value) or not len(finite):
        return float("nan")
    return float((1 + (np.abs(finite) >= abs(value) - 1e-12).sum()) / (1 + len(finite)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down adjusted p-values, in the same order; NaN stays NaN and counts for nothing."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors)) if len(order) else []
    return adjusted
