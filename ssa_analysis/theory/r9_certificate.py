"""R9, where nothing was trained on the blocks: a certificate of the contrastive loss from held-out images.

Blocks of m images are disjoint, and the block loss (NT-Xent of m pairs, ``K = 2m - 2`` negatives) lies in ``[0, b]`` with
``b = log(1 + beta exp(2/tau))``. For a checkpoint that is independent of the blocks, prior and posterior are the same
point and their divergence is 0. With probability at least ``1 - delta`` over the n blocks, by Chernoff's bound for
means of bounded variables,

    kl(mean/b || L_K/b) <= log(1/delta) / n,

which is the rung of Maurer (2004) less its ``log(2 sqrt(n))``: that pays for a posterior chosen on the blocks, and here
none is. It certifies ``L_K`` of new images for these very weights, not for weights near them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.contrastive import nt_xent

STATEMENT = "L_K <= b kl_inverse(mean / b, log(1/delta) / n)"


def binary_kl(q: float, p: float) -> float:
    """``kl(q || p)`` between Bernoulli laws, in nats; ``0 log 0`` is 0."""
    first = q * math.log(q / p) if q > 0 else 0.0
    second = (1 - q) * math.log((1 - q) / (1 - p)) if q < 1 else 0.0
    return first + second


def kl_inverse(q: float, budget: float) -> float:
    """The largest p in ``[q, 1]`` with ``kl(q || p) <= budget``, by bisection, rounded up."""
    if not 0 <= q <= 1 or budget < 0:
        raise ValueError(f"kl_inverse takes q in [0, 1] and a budget of at least 0, got {q} and {budget}")
    low, high = q, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if middle >= 1 or binary_kl(q, middle) > budget:
            high = middle
        else:
            low = middle
    return high


def largest_loss(tau: float, beta: float) -> float:
    """``b = log(1 + beta exp(2/tau))``: the loss of unit vectors cannot be larger."""
    return float(np.logaddexp(0.0, math.log(beta) + 2 / tau))


@dataclass(frozen=True)
class Certificate:
    """``bound`` holds for ``L_K`` with probability ``1 - delta``; all losses in nats."""

    bound: float
    mean: float  # over the blocks
    blocks: int
    size: int  # images of a block
    delta: float
    largest: float  # b


def block_losses(first: Tensor, second: Tensor, size: int, tau: float, beta: float) -> np.ndarray:
    """``(n,)`` NT-Xent of disjoint blocks of ``size`` pairs, in the order of the rows; a rest is left out."""
    rows = len(first) // size * size
    parts = zip(first[:rows].split(size), second[:rows].split(size), strict=True)
    return torch.stack([nt_xent(a, b, tau, beta).mean() for a, b in parts]).double().numpy()


def certify(losses: np.ndarray, size: int, largest: float, delta: float) -> Certificate:
    """The certificate of ``(n,)`` independent block losses in ``[0, largest]``."""
    mean = float(losses.mean())
    share = min(1.0, mean / largest)
    bound = largest * kl_inverse(share, math.log(1 / delta) / len(losses))
    return Certificate(bound, mean, len(losses), size, delta, largest)
