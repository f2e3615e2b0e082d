"""R3: the decoupled loss from the InfoNCE loss, ``L_dec <= log((exp(L_inf) - 1) / beta)`` for every ``beta > 0``.

With the margin ``u`` of a pair, ``l_dec = u - log beta`` and ``l_inf = softplus(u)``. Softplus is convex, so that
``softplus(E u) <= E softplus(u) = L_inf`` (Jensen); its inverse ``log(exp(L) - 1)`` is increasing. The textbook form
``L_dec <= L_inf - log beta`` follows, since ``log(exp(L) - 1) < L``. The slack is what the margins' spread costs.
"""

from __future__ import annotations

import math

from torch import Tensor

from ssa_analysis.numerics.contrastive import softplus
from ssa_analysis.theory.rungs import weighted_mean

STATEMENT = "L_dec <= log((exp(L_inf) - 1) / beta)"


def inverse_softplus(loss: float) -> float:
    """``log(exp(loss) - 1)`` for a loss above 0, without overflow; minus infinity at 0."""
    return loss + math.log(-math.expm1(-loss)) if loss > 0 else -math.inf


def decoupled_bound(loss: float, beta: float) -> float:
    """``log((exp(loss) - 1) / beta)``, in nats."""
    return inverse_softplus(loss) - math.log(beta)


def decoupled_sides(margins: Tensor, weights: Tensor, beta: float) -> tuple[float, float]:
    """Both sides of the rung from the margins ``u (k,)`` of a law's pairs."""
    left = weighted_mean(margins, weights) - math.log(beta)
    return left, decoupled_bound(weighted_mean(softplus(margins), weights), beta)
