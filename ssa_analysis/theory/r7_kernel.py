"""R7: the shift in kernel form, ``|E_p[z.z+] - E_q[z.z+]| <= sqrt(d) |C_p - C_q|_F`` with ``C = E[z z+^T]``.

The mean similarity is the trace of C, and a trace is at most the root of the dimension times the Frobenius norm
(Cauchy-Schwarz with the identity). The norm is the MMD between the pair laws under ``k((z, z+), (w, w+)) = (z.w)(z+.w+)``.
For ideal pairs the trace is ``sum_c pi_c |mu_c|^2``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STATEMENT = "|E_p[z.z+] - E_q[z.z+]| <= sqrt(d) |C_p - C_q|_F"


def cross_moment(z: Tensor, z_plus: Tensor, weights: Tensor) -> Tensor:
    """``(d, d)`` ``E[z z+^T]`` of pairs ``(k, d)``, symmetrised: both directions of a pair count alike."""
    share = weights / weights.sum()
    moment = (z * share[:, None]).T @ z_plus
    return (moment + moment.T) / 2


def kernel_sides(ideal: Tensor, practical: Tensor) -> tuple[float, float]:
    """Both sides of the rung from the cross moments ``(d, d)`` of the two laws."""
    difference = ideal - practical
    return float(torch.trace(difference).abs()), math.sqrt(len(difference)) * float(difference.norm())
