"""R4: a finite number of negatives, ``L_K <= L_inf <= L_K + E[beta sd / (sqrt(K) (exp(z.z+/tau) + beta exp(-1/tau)))]``.

``l_K`` is a concave function, ``log(1 + beta a)``, of the mean a of K negatives' ``exp((z.z- - z.z+)/tau)``. Jensen's
inequality gives ``L_K <= L_inf``, and that ``L_K`` does not decrease with K, because leaving out one negative at random
keeps the mean of a. For the other direction, with m the expectation of a: ``log(1 + beta m) - log(1 + beta a)`` is at
most ``beta (m - a)_+ / (1 + beta a)``, a is at least ``exp((-1 - z.z+)/tau)``, and the mean of ``(m - a)_+`` is at most
the standard deviation of a, ``sd / sqrt(K)`` times ``exp(-z.z+/tau)``, where sd is that of ``exp(z.z-/tau)`` over single
negatives. Multiplying through by ``exp(z.z+/tau)`` gives the statement.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssa_analysis.numerics.contrastive import softplus
from ssa_analysis.theory.rungs import Population

STATEMENT = "L_inf <= L_K + slack of K negatives"
MONOTONE = "L_K <= L_inf"
ROWS = 512  # anchors whose similarities to all negatives are held at once


def negative_spread(z: Tensor, population: Population, tau: float) -> Tensor:
    """``(k,)`` standard deviations of ``exp(z.z-/tau)`` over single negatives, exactly."""
    used = population.marginal > 0
    weights, bank = population.marginal[used], population.z[used]
    spreads = []
    for part in z.split(ROWS):
        values = (part @ bank.T / tau).exp()
        mean = values @ weights
        spreads.append(((values - mean[:, None]).square() @ weights).clamp_min(0).sqrt())
    return torch.cat(spreads)


def negative_slacks(z: Tensor, z_plus: Tensor, population: Population, tau: float, beta: float, count: int) -> Tensor:
    """``(k,)`` terms whose mean bounds ``L_inf - L_K``, in nats."""
    positive = ((z * z_plus).sum(1) / tau).exp()
    return beta * negative_spread(z, population, tau) / (math.sqrt(count) * (positive + beta * math.exp(-1 / tau)))


def drawn_losses(
    z: Tensor, z_plus: Tensor, population: Population, tau: float, beta: float, count: int, generator: torch.Generator
) -> Tensor:
    """``(k,)`` losses ``l_K`` with K negatives of each anchor's own, drawn from the population's marginal."""
    losses = []
    for part, plus in zip(z.split(ROWS), z_plus.split(ROWS), strict=True):
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
