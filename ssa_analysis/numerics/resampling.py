"""Bootstrap, jackknife and binomial intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssa_analysis.numerics.laws import normal_quantile, student_quantile


@dataclass(frozen=True)
class Interval:
    """A point estimate with its standard error and a two-sided interval."""

    value: float
    stderr: float
    low: float
    high: float


def exactly(value: float) -> Interval:
    """A number without error."""
    return Interval(value, 0.0, value, value)


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    size: int,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> Interval:
    """Percentile bootstrap over ``size`` units (images, checkpoints).

    Args:
        statistic: takes an index array ``(size,)`` into the units and returns a number; draws where it is not
            finite (a constant resample has no correlation) are dropped.
        strata: ``(size,)`` group of each unit; resampling then keeps the size of every group.

    Returns:
        Value on the units themselves, standard error and percentile interval; NaN where fewer than 2 draws remain.
    """
    generator = np.random.default_rng(seed)
    value = float(statistic(np.arange(size)))
    groups = [np.arange(size)] if strata is None else [np.flatnonzero(strata == s) for s in np.unique(strata)]
    samples = np.array(
        [statistic(np.concatenate([g[generator.integers(0, len(g), len(g))] for g in groups])) for _ in range(draws)],
        dtype=float,
    )
    samples = samples[np.isfinite(samples)]
    if len(samples) < 2:
        return Interval(value, float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(samples.std(ddof=1)), float(low), float(high))


def jackknife_stderr(leave_one_out: np.ndarray) -> float:
    """Standard error from the ``(n,)`` leave-one-out values (Efron and Stein 1981)."""
    n = len(leave_one_out)
    return float(np.sqrt((n - 1) / n * np.square(leave_one_out - leave_one_out.mean()).sum()))


def group_jackknife(
    statistic: Callable[[list[np.ndarray]], float], sizes: list[int], groups: int = 20, seed: int = 0
) -> tuple[Interval, list[np.ndarray]]:
    """A statistic of independent samples, with the error of leaving out a random group of one of them at a time.

    Args:
        statistic: takes an index array for each sample.
        sizes: of the samples. groups: of each sample; at most its size.

    Returns:
        Value, standard error and Student's 95 % interval; and for each sample the values without a group ``(groups,)``,
        from which errors of differences between statistics of the same samples follow (:func:`jackknife_stderr`).
    """
    rng = np.random.default_rng(seed)
    every = [np.arange(size) for size in sizes]
    value = float(statistic(every))
    without = []
    for number, size in enumerate(sizes):
        parts = np.array_split(rng.permutation(size), min(groups, size))
        kept = [np.sort(np.setdiff1d(every[number], part, assume_unique=True)) for part in parts]
        without.append(np.array([statistic([*every[:number], keep, *every[number + 1 :]]) for keep in kept]))
    stderr = float(np.sqrt(sum(jackknife_stderr(values) ** 2 for values in without)))
    reach = student_quantile(0.975, min(len(w) for w in without) - 1) * stderr
    return Interval(value, stderr, value - reach, value + reach), without


def student_reach(count: int) -> float:
    """Half the width of Student's 95 % interval of a mean over ``count`` values, in units of their standard deviation.

    NaN for a single value.
    """
    return float(student_quantile(0.975, count - 1) / np.sqrt(count)) if count > 1 else float("nan")


def mean_interval(values: np.ndarray) -> Interval:
    """Mean of ``(n,)`` independent values with its standard error and Student's 95 % interval, NaN for a single value."""
    values = np.asarray(values, dtype=float)
    exponent = int(np.frexp(np.abs(values).max())[1])  # a power of two changes no digit, and squares stay in range
    near_one = np.ldexp(values, -exponent)
    value, spread = (float(np.ldexp(v, exponent)) for v in (near_one.mean(), near_one.std(ddof=1) if len(values) > 1 else np.nan))
    reach = student_reach(len(values)) * spread
    return Interval(value, spread / np.sqrt(len(values)), value - reach, value + reach)


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927); the standard error is the binomial one."""
    if trials < 1:
        raise ValueError("a proportion needs at least one trial")
    z = normal_quantile((1 + level) / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    stderr = float(np.sqrt(share * (1 - share) / trials))
    # at 0 and n successes the interval ends at 0 and 1 exactly; the formula only gets there up to rounding
    return Interval(share, stderr, float(min(share, centre - half)), float(max(share, centre + half)))
