"""Exact worlds: finitely many points on the sphere, where every expectation is a sum and every rung can be checked.

A world has n points, class conditionals and an augmentation kernel, both stochastic matrices. The rungs are evaluated
by the functions that checkpoints use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.contrastive import softplus
from ssa_analysis.theory import (
    r1_probe,
    r2_classification,
    r3_decoupled,
    r4_negatives,
    r5_transport,
    r6_margin,
    r7_kernel,
    r8_decomposition,
)
from ssa_analysis.theory.rungs import LabelledLaw, Population, RungCheck, weighted_mean


@dataclass(frozen=True)
class FiniteWorld:
    """``conditionals[c, i] = p_c(x_i)``; ``augmentation[i, j]`` the chance that a view of point i is point j."""

    z: Tensor  # (n, d) unit rows, float64
    prior: Tensor  # (M,)
    conditionals: Tensor  # (M, n)
    augmentation: Tensor  # (n, n), rows sum to one

    @property
    def population(self) -> Population:
        """Law of clean positives and negatives."""
        return Population(self.z, self.conditionals, self.prior)

    @property
    def view_marginal(self) -> Tensor:
        """``(n,)`` q_data."""
        return self.population.marginal @ self.augmentation

    @property
    def view_population(self) -> Population:
        """Law of the negatives among views, as one class."""
        return Population(self.z, self.view_marginal[None], torch.ones(1, dtype=torch.float64))

    @property
    def ideal_pairs(self) -> Tensor:
        """``(n, n)`` p_pos."""
        return torch.einsum("c,ci,cj->ij", self.prior, self.conditionals, self.conditionals)

    @property
    def practical_pairs(self) -> Tensor:
        """``(n, n)`` q_pos."""
        return torch.einsum("k,ki,kj->ij", self.population.marginal, self.augmentation, self.augmentation)


def random_world(classes: int, points: int, dimension: int, seed: int, concentration: float = 0.5) -> FiniteWorld:
    """A world with Dirichlet conditionals, prior and kernel; small concentrations make them nearly deterministic."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((points, dimension))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    prior = rng.dirichlet(np.full(classes, 2.0))
    conditionals = rng.dirichlet(np.full(points, concentration), size=classes)
    augmentation = rng.dirichlet(np.full(points, concentration), size=points)
    return FiniteWorld(*(torch.from_numpy(a) for a in (z, prior, conditionals, augmentation)))


def _exact(rung: str, statement: str, left: float, right: float, equality: bool = False) -> RungCheck:
    return RungCheck(rung, statement, left, right, 0.0, right - left, right - left, equality)


def check_world(world: FiniteWorld, tau: float, beta: float) -> list[RungCheck]:
    """R1, R2, R3 (of both pair laws), R6, R7 and R8 on a finite world, exactly."""
    population, n = world.population, len(world.z)
    classes = len(world.prior)
    law = LabelledLaw(
        world.z.repeat(classes, 1),
        torch.arange(classes).repeat_interleave(n),
        (world.prior[:, None] * world.conditionals).reshape(-1),
    )
    supervised = weighted_mean(r1_probe.mean_classifier_losses(law, population, tau), law.weights)
    probe = weighted_mean(r1_probe.trained_probe(law, population, tau, max_iterations=50).losses, law.weights)
    ideal = weighted_mean(r2_classification.ideal_decoupled_losses(law, population, tau), law.weights)

    left, right = (world.z.repeat_interleave(n, 0), world.z.repeat(n, 1))
    u = r6_margin.margins(left, right, population, tau, beta)
    ideal_weights, practical_weights = world.ideal_pairs.reshape(-1), world.practical_pairs.reshape(-1)
    shift = r6_margin.margin_sides(u, u, ideal_weights, practical_weights)
    u_views = r6_margin.margins(left, right, world.view_population, tau, beta)
    own_shift = r6_margin.margin_sides(u, u_views, ideal_weights, practical_weights)

    views = world.view_population
    dots = (left * right).sum(1)
    parts = r8_decomposition.decompose(
        tau=tau,
        ideal=weighted_mean(population.uniformity(left, tau) - dots / tau, ideal_weights),
        practical_alignment=weighted_mean(dots, practical_weights),
        ideal_alignment=float((world.prior * population.means.square().sum(1)).sum()),
        practical_uniformity=weighted_mean(views.uniformity(world.z, tau), world.view_marginal),
        ideal_uniformity=weighted_mean(population.uniformity(world.z, tau), population.marginal),
    )

    moments = [r7_kernel.cross_moment(left, right, w) for w in (ideal_weights, practical_weights)]
    return [
        _exact("R1", r1_probe.STATEMENT, probe, supervised),
        _exact("R2", r2_classification.STATEMENT, supervised, population.entropy + ideal),
        _exact("R3", r3_decoupled.STATEMENT, *r3_decoupled.decoupled_sides(u, ideal_weights, beta)),
        _exact("R3", r3_decoupled.STATEMENT, *r3_decoupled.decoupled_sides(u, practical_weights, beta)),
        _exact("R6", r6_margin.STATEMENT, *shift),
        _exact("R6", r6_margin.OWN, *own_shift),
        _exact("R7", r7_kernel.STATEMENT, *r7_kernel.kernel_sides(*moments)),
        _exact("R8", r8_decomposition.STATEMENT, parts.ideal, parts.right_side(tau), equality=True),
    ]


def check_negatives(world: FiniteWorld, tau: float, beta: float, counts: tuple[int, ...]) -> list[RungCheck]:
    """R4 for ascending numbers of negatives, on both pair laws, exactly: both directions, and that L_K does not fall."""
    n, population = len(world.z), world.population
    left, right = world.z.repeat_interleave(n, 0), world.z.repeat(n, 1)
    limits = softplus(r6_margin.margins(left, right, population, tau, beta))
    losses = [r4_negatives.exact_losses(left, right, population, tau, beta, count) for count in counts]
    slacks = [r4_negatives.negative_slacks(left, right, population, tau, beta, count) for count in counts]
    checks = []
    for pairs in (world.ideal_pairs, world.practical_pairs):
        weights = pairs.reshape(-1)
        limit = weighted_mean(limits, weights)
        fewer = None
        for losses_of_count, slacks_of_count in zip(losses, slacks, strict=True):
            loss, slack = weighted_mean(losses_of_count, weights), weighted_mean(slacks_of_count, weights)
            checks.append(_exact("R4", r4_negatives.STATEMENT, limit, loss + slack))
            checks.append(_exact("R4", r4_negatives.MONOTONE, loss, limit))
            if fewer is not None:
                checks.append(_exact("R4", "L_K does not decrease with K", fewer, loss))
            fewer = loss
    return checks


def check_transport(world: FiniteWorld, tau: float, beta: float, count: int = 2) -> list[RungCheck]:
    """R5 for ``L_K`` (K = ``count``), ``L_inf`` and ``L_dec``, exactly: Wasserstein distances by linear programming.

    The program has ``n^4`` variables: for worlds of a few points.
    """
    n, clean = len(world.z), world.population
    viewed = world.view_population
    left, right = world.z.repeat_interleave(n, 0), world.z.repeat(n, 1)
    bound = (
        r5_transport.exact_pair_cost(world.z, world.ideal_pairs, world.practical_pairs)
        + r5_transport.exact_negative_cost(world.z, clean.marginal, world.view_marginal)
    ) / tau  # fmt: skip
    sides: dict[str, list[float]] = {"L_K": [], "L_inf": [], "L_dec": []}
    for pairs, negatives in ((world.ideal_pairs, clean), (world.practical_pairs, viewed)):
        weights = pairs.reshape(-1)
        u = r6_margin.margins(left, right, negatives, tau, beta)
        sides["L_K"].append(weighted_mean(r4_negatives.exact_losses(left, right, negatives, tau, beta, count), weights))
        sides["L_inf"].append(weighted_mean(softplus(u), weights))
        sides["L_dec"].append(weighted_mean(u, weights))  # less log beta on both sides
    return [_exact("R5", r5_transport.STATEMENT.replace("L(", f"{k}("), abs(a - b), bound) for k, (a, b) in sides.items()]
