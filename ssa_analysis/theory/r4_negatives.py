"""R4: a finite number of negatives, ``L_K <= L_inf <= L_K + E[slack]``, the slack of an anchor the smaller of two.

With sd the standard deviation of ``exp(z.z-/tau)`` over single negatives, m its mean, ``p = exp(z.z+/tau)``:

    beta sd / (2 sqrt(K) (p + beta exp(-1/tau)))                                            of order 1/sqrt(K)
    beta^2 sd^2 / (K (p + beta m) (p + beta exp(-1/tau)))                                   of order 1/K

``l_K`` is ``log y``, ``y = 1 + beta a``, of the mean a of K negatives' ``exp((z.z- - z.z+)/tau)``. Jensen's inequality gives
``L_K <= L_inf``, and that ``L_K`` does not decrease with K, because leaving out one negative at random keeps the mean of a.
For the other direction let Y be the expectation of y, so that ``l_inf = log Y``; y is at least
``y_0 = 1 + beta exp((-1 - z.z+)/tau)``.

* First: ``log Y - log y`` is at most ``(Y - y)_+ / y``, and the mean of ``(Y - y)_+``, half the mean
  distance from Y, at most half the standard deviation of y, ``beta sd exp(-z.z+/tau) / sqrt(K)``.
* Second: ``log(Y/y) <= Y/y - 1 = (Y - y)/Y + (Y - y)^2 / (y Y)``, where the first term has expectation 0 and the second is at
  most the variance of y over ``y_0 Y``.

Multiply through by ``exp(z.z+/tau)``. The second is the smaller one as soon as K exceeds four times the squared coefficient of
variation.

Negatives need not be independent of each other for this, only of the pair. Of the ``2m - 2`` that NT-Xent takes from a batch
of m pairs, two come from each image; the mean of the two has no larger a standard deviation than one, so that the statement
holds with ``m - 1`` for K on the right. Where views mix images (the Fourier augmentation with partners from the batch)
negatives are not independent of the pair, and neither direction is claimed for batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssa_analysis.numerics.contrastive import softplus
from ssa_analysis.theory.rungs import Population

STATEMENT = "L_inf <= L_K + slack of K negatives"
MONOTONE = "L_K <= L_inf"
ROWS = 512  # anchors whose similarities to all negatives are held at once
TOGETHER = 2**26  # negatives drawn at a time, at most


@dataclass(frozen=True)
class Negatives:
    """Mean and standard deviation ``(k,)`` of ``exp(z.z-/tau)`` over single negatives, for each anchor."""

    mean: Tensor
    spread: Tensor


def negatives_of(z: Tensor, population: Population, tau: float) -> Negatives:
    """Both, exactly, for the anchors ``z (k, d)``."""
    used = population.marginal > 0
    weights, bank = population.marginal[used], population.z[used]
    means, spreads = [], []
    for part in z.split(ROWS):
        values = (part @ bank.T / tau).exp()
        mean = values @ weights
        means.append(mean)
        spreads.append(((values - mean[:, None]).square() @ weights).clamp_min(0).sqrt())
    return Negatives(torch.cat(means), torch.cat(spreads))


def negative_slacks(z: Tensor, z_plus: Tensor, population: Population, tau: float, beta: float, count: int) -> Tensor:
    """``(k,)`` terms whose mean bounds ``L_inf - L_K``, in nats."""
    return slacks_of(negatives_of(z, population, tau), (z * z_plus).sum(1), tau, beta, count)


def slacks_of(negatives: Negatives, alignment: Tensor, tau: float, beta: float, count: int) -> Tensor:
    """``(k,)`` the same from the negatives and the ``z.z+`` of the pairs."""
    positive = (alignment / tau).exp()
    spread = beta * negatives.spread / math.sqrt(count)
    least = positive + beta * math.exp(-1 / tau)
    return torch.minimum(spread / (2 * least), spread.square() / (least * (positive + beta * negatives.mean)))


def drawn_losses(
    z: Tensor, z_plus: Tensor, population: Population, tau: float, beta: float, count: int, generator: torch.Generator
) -> Tensor:
    """``(k,)`` losses ``l_K`` with K negatives of each anchor's own, drawn from the population's marginal."""
    losses = []
    rows = max(1, min(ROWS, TOGETHER // count))
    for part, plus in zip(z.split(rows), z_plus.split(rows), strict=True):
        drawn = torch.multinomial(population.marginal, len(part) * count, replacement=True, generator=generator)
        similarities = (part @ population.z.T).gather(1, drawn.view(len(part), count)) / tau
        positive = (part * plus).sum(1) / tau
        losses.append(softplus(math.log(beta / count) + torch.logsumexp(similarities, dim=1) - positive))
    return torch.cat(losses)


def exact_losses(z: Tensor, z_plus: Tensor, population: Population, tau: float, beta: float, count: int) -> Tensor:
    """``(k,)`` expectations of ``l_K`` over all ``n^K`` tuples of negatives: for worlds of a few points."""
    points = torch.arange(len(population.z))
    tuples = torch.cartesian_prod(*[points] * count).view(-1, count)
    weights = population.marginal[tuples].prod(1)
    similarities = (z @ population.z.T / tau)[:, tuples]  # (k, n^K, K)
    positive = ((z * z_plus).sum(1) / tau)[:, None]
    return softplus(math.log(beta / count) + torch.logsumexp(similarities, dim=2) - positive) @ weights
