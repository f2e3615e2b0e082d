"""R6: the shift in margin form, ``|L_inf(ideal) - L_inf(practical)| <= W_1(u_ideal, u_practical)``.

With the same negatives on both sides, the margin ``u = log beta + log E exp(z.z-/tau) - z.z+/tau`` carries all of the
loss, ``l_inf = softplus(u)``, and softplus is 1-Lipschitz: Kantorovich-Rubinstein on the line.

Nothing in this asks for the same negatives. With the margins of each law taken against its own negatives the statement
holds as well, and leads from the ideal loss to that of practical pairs among practical negatives in one step; the routes
use it so (``OWN``).
"""

from __future__ import annotations

import math

from torch import Tensor

from ssa_analysis.numerics.contrastive import softplus
from ssa_analysis.numerics.transport import wasserstein_1d
from ssa_analysis.theory.rungs import Population, as_numpy, weighted_mean

STATEMENT = "|L_inf(ideal) - L_inf(practical)| <= W_1(u)"
OWN = "|L_inf(ideal) - L_inf(practical)| <= W_1(u), each law among its own negatives"


def margins(z: Tensor, z_plus: Tensor, population: Population, tau: float, beta: float) -> Tensor:
    """``(k,)`` margins u of pairs ``(k, d)``, in nats."""
    return margins_of(population.uniformity(z, tau), (z * z_plus).sum(1), tau, beta)


def margins_of(uniformity: Tensor, alignment: Tensor, tau: float, beta: float) -> Tensor:
    """``(k,)`` the same from ``log E exp(z.z-/tau)`` and ``z.z+``."""
    return math.log(beta) + uniformity - alignment / tau


def margin_sides(ideal: Tensor, practical: Tensor, ideal_weights: Tensor, practical_weights: Tensor) -> tuple[float, float]:
    """Both sides of the rung from margins and weights of the two laws."""
    left = abs(weighted_mean(softplus(ideal), ideal_weights) - weighted_mean(softplus(practical), practical_weights))
    right = wasserstein_1d(*map(as_numpy, (ideal, practical, ideal_weights, practical_weights)))
    return left, right
