"""R5: the shift in transport form, ``|L(ideal) - L(practical)| <= (W_c(P, Q) + W_1(N, N~)) / tau``.

P and Q are the laws of ``(z, z+)``, N and N~ those of the negatives; L is any of ``L_K``, ``L_inf`` and ``L_dec``. With softmax
weights ``w+`` of the positive and ``w_k`` of the negatives, the gradient of the loss is at most ``(1 - w+)/tau`` in z+,
``2 (1 - w+)/tau`` in z, and ``(1 - w+)/tau`` in all negatives together; the unit ball is convex, so the loss is Lipschitz
for the ground cost ``c = 2|z - w| + |z+ - w+|``. Averaged over both directions of a pair it is for ``1.5|.| + 1.5|.|``
too, and the smaller may be taken where the laws are symmetric.

Between samples the distances are plug-ins, which are too large on average: the rung stays true, and the distance
between two samples of one law says by how much.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.transport import transport_lp

STATEMENT = "|L(ideal) - L(practical)| <= (W_c + W_1(negatives)) / tau"


def exact_pair_cost(z: Tensor, ideal: Tensor, practical: Tensor) -> float:
    """``W_c`` between two laws ``(n, n)`` of pairs of the points ``z (n, d)``, by linear programming; the smaller cost."""
    distances = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    n = len(z)
    first = np.repeat(np.repeat(distances, n, 0), n, 1)  # of z, for pair (i, j) against pair (k, l)
    second = np.tile(distances, (n, n))
    p, q = ideal.reshape(-1).numpy(), practical.reshape(-1).numpy()
    return min(transport_lp(p, q, 2 * first + second), transport_lp(p, q, 1.5 * (first + second)))


def exact_negative_cost(z: Tensor, one: Tensor, other: Tensor) -> float:
    """``W_1`` between two laws ``(n,)`` of the points ``z (n, d)``."""
    distances = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    return transport_lp(one.numpy(), other.numpy(), distances)
