"""R9 for a training run: PAC-Bayes bounds of the loss under weight noise, whatever the weights were trained on.

The prior is ``N(theta0, s^2 I)``, with theta0 independent of the blocks (the initialisation, or a checkpoint trained on other
data), the posterior ``N(theta, s^2 I)``; their divergence is ``KL = |theta - theta0|^2 / (2 s^2)``. Write ``L_s`` for the
expectation of the loss at ``theta + N(0, s^2 I)`` and ``Lhat_s`` for its mean over the n blocks of m images, ``N = n m``.
With probability ``1 - delta``, for all theta and all J scales s of a grid fixed beforehand, both of

* ``kl((Lhat_s - a)/(b - a) || (L_s - a)/(b - a)) <= (KL + log(2 sqrt(n) J'/delta)) / n`` (Maurer 2004; blocks are independent),
* ``L_s <= Lhat_s + D sqrt(m/(2 n) * N/(N - 1) * (KL + log(sqrt(N) J'/delta)))`` (bounded differences),

with ``J' = 2 J`` for the union over scales and the two bounds. The second holds only where the embedding of an image does not
depend on the other images of its block, so not with BatchNorm in training mode nor with views that mix images: there
``J' = J``. Its proof: by McDiarmid's lemma ``L - Lhat`` is sub-Gaussian with proxy ``v = m D^2 / (4 n)`` for each fixed theta (a,
b, D as in the held-out certificate), so that ``E exp((1 - 1/N) (L - Lhat)^2 / (2 v)) <= sqrt(N)``; the change of measure and
Jensen's inequality do the rest.

``Lhat_s`` is an expectation over weight noise, known from draws of noise and block; an upper confidence bound of it takes
its place (betting, ``delta'/J`` for each scale), so that the whole holds with probability ``1 - delta - delta'``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ssa_analysis.numerics.betting import upper_mean
from ssa_analysis.theory.r9_certificate import block_difference, kl_inverse, largest_loss, smallest_loss

STATEMENT = "L_s <= R9(Lhat_s, KL), with probability 1 - delta - delta'"
ROUTES = ("kl", "bounded differences")


@dataclass(frozen=True)
class Blocks:
    """What the bounds need to know of the blocks and of the confidence."""

    count: int  # n
    size: int  # m
    tau: float
    beta: float
    delta: float  # of the bounds over the images
    delta_draws: float  # of the Monte-Carlo bounds
    scales: int  # J
    per_image: bool  # whether an embedding depends on its own image alone

    @property
    def events(self) -> int:
        """J', over how many bounds delta is shared out."""
        return self.scales * (2 if self.per_image else 1)

    @property
    def low(self) -> float:
        """a, the smallest loss there can be."""
        return smallest_loss(self.tau, self.beta)

    @property
    def high(self) -> float:
        """b, the largest."""
        return largest_loss(self.tau, self.beta)


def divergence(squared_distance: float, scale: float) -> float:
    """``KL(N(theta, s^2 I) || N(theta0, s^2 I))`` in nats."""
    return squared_distance / (2 * scale**2)


def kl_route(loss: float, kl: float, blocks: Blocks) -> float:
    """The first bound, in nats, from (an upper bound of) ``Lhat_s``."""
    width = blocks.high - blocks.low
    share = min(max((loss - blocks.low) / width, 0.0), 1.0)
    return blocks.low + width * kl_inverse(share, _budget(kl, blocks))


def _budget(kl: float, blocks: Blocks) -> float:
    return (kl + math.log(2 * math.sqrt(blocks.count) * blocks.events / blocks.delta)) / blocks.count


def differences_route(loss: float, kl: float, blocks: Blocks) -> float:
    """The second bound, in nats; it may exceed b. Infinite where it does not hold."""
    if not blocks.per_image:
        return math.inf
    images = blocks.count * blocks.size
    budget = kl + math.log(math.sqrt(images) * blocks.events / blocks.delta)
    proxy = block_difference(blocks.size, blocks.tau, blocks.beta) ** 2 * blocks.size / (2 * blocks.count)
    return loss + math.sqrt(proxy * images / (images - 1) * budget)


def draws_bound(losses: np.ndarray, blocks: Blocks) -> float:
    """Upper confidence bound of ``Lhat_s`` from ``(draws,)`` losses, each of a random block under its own noise."""
    width = blocks.high - blocks.low
    shares = ((losses - blocks.low) / width).clip(0.0, 1.0)
    return blocks.low + width * upper_mean(shares, blocks.delta_draws / blocks.scales)


@dataclass(frozen=True)
class ScaleBound:
    """The bound at one scale and its parts: ``bound = loss + sharpness + monte_carlo + complexity``, in nats."""

    scale: float
    kl: float
    loss: float  # of the drawn blocks at theta itself
    sharpness: float  # Lhat_s less that, as drawn
    sharpness_stderr: float
    monte_carlo: float  # what the confidence bound adds to the drawn mean
    by_kl: float  # the two bounds
    by_differences: float
    classic_complexity: float  # that of the first bound by Pinsker's inequality: never shorter, but it does not end at b
    held_out_rise: float  # L_s less L on held-out blocks: the deterministic weights are covered where it is not negative
    held_out_stderr: float

    @property
    def covers_theta(self) -> str:
        """Whether ``L(theta) <= L_s(theta)``, so that the weights themselves are bounded: ``yes``, ``no`` or ``undecided``."""
        reach = 1.96 * self.held_out_stderr
        return "yes" if self.held_out_rise > reach else "no" if self.held_out_rise < -reach else "undecided"

    @property
    def bound(self) -> float:
        """The smaller of the two."""
        return min(self.by_kl, self.by_differences)

    @property
    def route(self) -> str:
        """Which that is."""
        return ROUTES[0] if self.by_kl <= self.by_differences else ROUTES[1]

    @property
    def complexity(self) -> float:
        """What divergence and confidence add."""
        return self.bound - self.loss - self.sharpness - self.monte_carlo


def bound_at(
    scale: float, squared_distance: float, clean: np.ndarray, rises: np.ndarray, held_out_rises: np.ndarray, blocks: Blocks
) -> ScaleBound:
    """Evaluate both bounds at one scale.

    Args:
        clean: ``(draws,)`` losses at theta of blocks drawn with replacement. rises: ``(draws,)`` what noise of its own adds
            to each. held_out_rises: ``(r,)`` the same for held-out blocks.
    """
    kl, upper = divergence(squared_distance, scale), draws_bound(clean + rises, blocks)
    loss, sharpness = float(clean.mean()), float(rises.mean())
    return ScaleBound(
        scale=scale, kl=kl, loss=loss, sharpness=sharpness, sharpness_stderr=_stderr(rises),
        monte_carlo=upper - loss - sharpness,
        by_kl=kl_route(upper, kl, blocks), by_differences=differences_route(upper, kl, blocks),
        classic_complexity=(blocks.high - blocks.low) * math.sqrt(_budget(kl, blocks) / 2),
        held_out_rise=float(held_out_rises.mean()), held_out_stderr=_stderr(held_out_rises),
    )  # fmt: skip


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
