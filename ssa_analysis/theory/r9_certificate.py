"""R9, where nothing was trained on the blocks: certificates of the contrastive loss from held-out images.

Blocks of m images are disjoint and drawn independently of the weights. The block loss is NT-Xent of m pairs, every anchor
with ``K = 2m - 2`` negatives, and lies in ``[a, b]``, ``a = log(1 + beta exp(-2/tau))`` and ``b = log(1 + beta exp(2/tau))``.
For a checkpoint that is independent of the blocks prior and posterior are one point and their divergence is 0. Three
bounds of ``L_K``, each of which fails with probability at most ``delta`` over the n blocks:

* by **betting** on the n block losses (:func:`ssa_analysis.numerics.betting.upper_mean`): block losses hardly vary, and this
  bound is as short as their own spread allows;
* by **kl**: ``kl((mean - a)/(b - a) || (L_K - a)/(b - a)) <= log(1/delta) / n``, Chernoff's bound. It is the rung of Maurer
  (2004) less its ``log(2 sqrt(n))``, which pays for a posterior chosen on the blocks;
* by **bounded differences**: another image in place of one changes the loss of its own two anchors by ``b - a`` at most. Each
  of the other ``2m - 2`` anchors of its block has two of its K negatives replaced, which changes its loss by
  ``log((1 + (beta/K) (K - 2 + 2 exp(2/tau))) / (1 + beta))`` at most. The mean over blocks therefore changes by ``D/n``, with D
  what the block's mean does, and McDiarmid's inequality gives ``L_K <= mean + D sqrt(m log(1/delta) / (2 n))``. This is the
  idea of van Elst and Ghoshdastidar (2024), with the exact range of an anchor's loss and with both views as negatives.

They certify ``L_K`` of new images for these very weights, not for weights near them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.betting import upper_mean
from ssa_analysis.numerics.contrastive import nt_xent_from_similarities

SIMILARITIES = 2**20  # of blocks that are evaluated at once
STATEMENT = "L_K <= certificate, with probability 1 - delta over the held-out blocks"


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


def smallest_loss(tau: float, beta: float) -> float:
    """``a = log(1 + beta exp(-2/tau))``: nor can it be smaller."""
    return float(np.logaddexp(0.0, math.log(beta) - 2 / tau))


def block_difference(size: int, tau: float, beta: float) -> float:
    """D: how much the mean loss of a block of ``size`` pairs can change when one image and its views are replaced, in nats."""
    count = 2 * size - 2
    own = largest_loss(tau, beta) - smallest_loss(tau, beta)
    # two negatives go from opposite to equal to the anchor, the others and the positive are opposite to it
    others = float(np.logaddexp(math.log1p(beta * (count - 2) / count), math.log(2 * beta / count) + 2 / tau)) - math.log1p(beta)
    return (2 * own + count * min(own, others)) / (2 * size)


@dataclass(frozen=True)
class Certificate:
    """Bounds of ``L_K``, each with probability ``1 - delta``; all losses in nats."""

    betting: float
    kl: float
    bounded_differences: float
    mean: float  # over the blocks
    blocks: int
    size: int  # images of a block
    delta: float
    smallest: float  # a
    largest: float  # b
    difference: float  # D


def block_losses(first: Tensor, second: Tensor, size: int, tau: float, beta: float) -> np.ndarray:
    """``(n,)`` NT-Xent of disjoint blocks of ``size`` pairs, in the order of the rows; a rest is left out."""
    rows = len(first) // size * size
    blocks = torch.stack([side[:rows].view(-1, size, side.shape[1]) for side in (first, second)], dim=1)
    found = []
    for some in blocks.split(max(1, SIMILARITIES // (2 * size) ** 2)):
        both = some.flatten(1, 2)  # (b, 2m, d)
        found.append(nt_xent_from_similarities(both @ both.mT / tau, beta).mean(1))
    return torch.cat(found).double().numpy()


def certify(losses: np.ndarray, size: int, tau: float, beta: float, delta: float) -> Certificate:
    """The certificates of ``(n,)`` independent block losses of ``size`` pairs."""
    low, high = smallest_loss(tau, beta), largest_loss(tau, beta)
    width, count = high - low, len(losses)
    shares = ((losses - low) / width).clip(0.0, 1.0)  # rounding
    mean, difference = float(losses.mean()), block_difference(size, tau, beta)
    return Certificate(
        betting=low + width * upper_mean(shares, delta),
        kl=low + width * kl_inverse(float(shares.mean()), math.log(1 / delta) / count),
        bounded_differences=min(high, mean + difference * math.sqrt(size * math.log(1 / delta) / (2 * count))),
        mean=mean, blocks=count, size=size, delta=delta, smallest=low, largest=high, difference=difference,
    )  # fmt: skip


def without_differences(found: Certificate) -> Certificate:
    """The same less the bound by bounded differences: for views that mix images, which one image changes in others."""
    return replace(found, bounded_differences=math.nan)
