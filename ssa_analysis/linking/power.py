"""How many checkpoints a rank correlation needs to be seen."""

from __future__ import annotations

import math

from ssa_analysis.numerics.laws import normal_quantile


def checkpoints_needed(rho: float, *, alpha: float = 0.05, power: float = 0.8, design_effect: float = 1.0) -> float:
    """Checkpoints at which a two-sided test at ``alpha`` finds a Spearman correlation ``rho`` with the given power.

    Fisher's z with the variance ``(1 + rho^2/2)/(n - 3)`` (Bonett and Wright 2000, eq. 3). Infinite at 0.

    Args:
        design_effect: how much larger the variance is than that of independent checkpoints, seeds of one configuration
            being alike.
    """
    if not math.isfinite(rho) or rho == 0:
        return math.inf
    z = math.atanh(min(abs(rho), 1 - 1e-9))
    reach = normal_quantile(1 - alpha / 2) + normal_quantile(power)
    return max(4.0, math.ceil(design_effect * (3 + (1 + rho**2 / 2) * (reach / z) ** 2)))
