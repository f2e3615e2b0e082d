"""Upper confidence bounds of a mean by betting: nearly as short as the sample's own spread allows, at every sample size.

Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting", section 4. Whoever believes that
the mean of variables in [0, 1] is p plays a fair game when paid ``1 + lambda (p - x)`` for each one, whatever the stake
lambda was chosen from before; by Ville's inequality the wealth exceeds ``1/delta`` with probability at most delta. The
bound is the smallest p beyond which all p are refuted so.
"""

from __future__ import annotations

import numpy as np

CAUTION = 0.9  # share of the wealth that one variable can take at most
STEPS = 60  # of the bisection


def upper_mean(values: np.ndarray, delta: float) -> float:
    """A bound that the mean of the law of ``values`` exceeds with probability at most ``delta``.

    Args:
        values: ``(n,)`` independent draws in [0, 1] of one law, in an order that does not depend on them.
        delta: in (0, 1).

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: values outside [0, 1] (by more than rounding), no values, or delta outside (0, 1).
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all() or x.min() < -1e-9 or x.max() > 1 + 1e-9:
        raise ValueError("upper_mean takes a row of values in [0, 1]")
    if not 0 < delta < 1:
        raise ValueError(f"upper_mean takes a delta in (0, 1), got {delta}")
    x = x.clip(0.0, 1.0)
    stakes = _stakes(x, delta)
    target = np.log(1 / delta)

    def refuted(p: float) -> bool:
        # a stake is cut so that even x = 1 leaves a tenth of the wealth
        cut = np.minimum(stakes, CAUTION / max(1 - p, 1e-12))
        return bool(np.log1p(cut * (p - x)).cumsum().max() >= target)

    low, high = float(x.mean()), 1.0
    if not refuted(high):
        return high
    if refuted(low):  # a long lucky start; the game at smaller p refutes, too
        low = 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if refuted(middle):
            high = middle
        else:
            low = middle
    return high


def _stakes(x: np.ndarray, delta: float) -> np.ndarray:
    """``(n,)`` stakes, each from the values before it: ``sqrt(2 log(1/delta) / (n variance))``, the variance as seen so far."""
    n = len(x)
    count = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(x)) / (count + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    stakes: np.ndarray = np.sqrt(2 * np.log(1 / delta) / (n * before))
    return stakes
