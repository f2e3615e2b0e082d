"""Both sides of every rung on the images of a checkpoint, for the sample itself and for every draw of the bootstrap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.numerics.contrastive import softplus
from ssa_analysis.numerics.resampling import Interval
from ssa_analysis.numerics.seeding import generator
from ssa_analysis.theory import r1_probe, r2_classification, r3_decoupled, r4_negatives, r6_margin, r7_kernel, r8_decomposition
from ssa_analysis.theory.evidence import Evidence, Ideal, Resamples, uniformities
from ssa_analysis.theory.rungs import Population, RungCheck, as_numpy, weighted_mean

PRACTICAL = {"R3": r3_decoupled.STATEMENT, "R4": r4_negatives.STATEMENT}
LABELLED = {
    "R1": r1_probe.STATEMENT,
    "R2": r2_classification.STATEMENT,
    "R6": r6_margin.STATEMENT,
    "R7": r7_kernel.STATEMENT,
    "R8": r8_decomposition.STATEMENT,
}
EQUALITIES = ("R8",)

POSITIVES = 4  # ideal positives drawn for each anchor

Estimates = dict[str, float]


@dataclass(frozen=True)
class Bootstrapped:
    """``values[name]`` is ``(1 + draws,)``: the sample's own estimate first, then one for each draw."""

    values: dict[str, np.ndarray]
    probe_converged: bool
    ideal_margins: np.ndarray | None  # (k,) of the sample's own ideal pairs

    def interval(self, name: str) -> Interval:
        """Estimate, standard error and 95 % percentile interval."""
        return interval_of(self.values[name])

    def check(self, rung: str) -> RungCheck:
        """Both sides of a rung with the interval of its slack."""
        left, right = self.values[f"{rung}.left"], self.values[f"{rung}.right"]
        slack = interval_of(right - left)
        statement = {**PRACTICAL, **LABELLED}[rung]
        sides = float(left[0]), float(right[0])
        return RungCheck(rung, statement, *sides, slack.stderr, slack.low, slack.high, equality=rung in EQUALITIES)


def interval_of(values: np.ndarray) -> Interval:
    """The first is the estimate, the others are draws of the bootstrap; NaN where there are fewer than two finite ones."""
    draws = values[1:][np.isfinite(values[1:])]
    if len(draws) < 2:
        return Interval(float(values[0]), math.nan, math.nan, math.nan)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(values[0]), float(draws.std(ddof=1)), float(low), float(high))


def estimate(evidence: Evidence, resamples: Resamples, seed: int, block: int, noise_block: int) -> Bootstrapped:
    """Evaluate everything on the sample and on every draw.

    Args:
        seed: of R4's negatives and of the ideal positives.
        block, noise_block: m of the batches for which R4's slack is evaluated.
    """
    practical = _Practical(evidence, resamples, seed, (block, noise_block))
    ideal = None if evidence.ideal is None else _Labelled(evidence, evidence.ideal, resamples, seed)
    rows: list[Estimates] = []
    for draw in range(len(resamples)):
        found = practical.at(draw)
        if ideal is not None:
            found |= ideal.at(draw, found, practical.uniformity)
        rows.append(found)
    values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    if ideal is None:
        return Bootstrapped(values, True, None)
    return Bootstrapped(values, ideal.probe.converged, as_numpy(ideal.margins))


class _Practical:
    """What practical pairs among practical negatives say: R3 and R4."""

    def __init__(self, evidence: Evidence, resamples: Resamples, seed: int, blocks: tuple[int, int]) -> None:
        self.evidence, self.resamples, self.blocks = evidence, resamples, blocks
        first, second = evidence.first, evidence.second
        self.alignment = (first * second).sum(1)
        self.uniformity, self.spread = uniformities(first, evidence.bank, resamples.weights, evidence.tau)
        self.drawn = r4_negatives.drawn_losses(
            first, second, evidence.view_population, evidence.tau, evidence.beta, evidence.negatives,
            generator(seed, "negatives"),
        )  # fmt: skip
        self.limit = softplus(self._margins(0))

    def _margins(self, draw: int) -> Tensor:
        return r6_margin.margins_of(self.uniformity[:, draw], self.alignment, self.evidence.tau, self.evidence.beta)

    def at(self, draw: int) -> Estimates:
        evidence, rows = self.evidence, self.resamples.rows[draw]
        tau, beta, w = evidence.tau, evidence.beta, evidence.weights[self.resamples.rows[draw]]
        margins = self._margins(draw)
        limit = softplus(margins)
        # the negatives drawn for l_K are not drawn again; what other probe images would change is what they change in l_inf
        finite = self.drawn + limit - self.limit
        negatives = r4_negatives.Negatives(self.uniformity[:, draw].exp(), self.spread[:, draw])
        slack, batch_slack, noise_slack = (
            weighted_mean(r4_negatives.slacks_of(negatives, self.alignment, tau, beta, count)[rows], w)
            for count in (evidence.negatives, *(max(1, block - 1) for block in self.blocks))
        )
        left, right = r3_decoupled.decoupled_sides(margins[rows], w, beta)
        infonce, loss = weighted_mean(limit[rows], w), weighted_mean(finite[rows], w)
        return {
            "R3.left": left, "R3.right": right, "R4.left": infonce, "R4.right": loss + slack, "finite_loss": loss,
            "finite_slack": slack, "batch_slack": batch_slack,
            "noise_slack": noise_slack, "practical_infonce": infonce, "practical_decoupled": left,
        }  # fmt: skip


class _Labelled:
    """The rungs that need classes: R1, R2, R6, R7, R8, and the ideal losses."""

    def __init__(self, evidence: Evidence, ideal: Ideal, resamples: Resamples, seed: int) -> None:
        self.evidence, self.ideal, self.resamples = evidence, ideal, resamples
        self.rng = generator(seed, "ideal positives")
        tau, bank = evidence.tau, ideal.population.z
        self.uniformity, _ = uniformities(ideal.law.z, bank, resamples.weights, tau)
        self.clean_uniformity, _ = uniformities(evidence.first, bank, resamples.weights, tau)
        self.probe = r1_probe.trained_probe(ideal.law, ideal.population, tau)
        self.alignment = (evidence.first * evidence.second).sum(1)
        self.margins = torch.empty(0)  # of the ideal pairs, once evaluated

    def population(self, draw: int) -> Population:
        """Probe images weighted as in a draw."""
        population, weights = self.ideal.population, self.resamples.weights[:, draw]
        conditionals = (population.conditionals > 0).double() * weights
        conditionals = conditionals / conditionals.sum(1, keepdim=True).clamp_min(1e-300)
        return Population(population.z, conditionals, population.prior)

    def at(self, draw: int, practical: Estimates, view_uniformity: Tensor) -> Estimates:
        evidence, population = self.evidence, self.population(draw)
        law, tau, beta = self.ideal.law, evidence.tau, evidence.beta
        rows = self.resamples.rows[draw]
        w, z, y = law.weights[rows], law.z, law.y
        to_mean = (z * population.means[y]).sum(1)
        # for the images of the draw, not of the sample: an image that is drawn twice gets positives of its own each time
        drawn = draw_positives_of(POSITIVES, y[rows], population, self.rng)
        to_drawn = (z[rows] * drawn).sum(2).T.contiguous()
        supervised = r1_probe.mean_classifier_losses(law, population, tau)
        uniformity, views = self.uniformity[:, draw], view_uniformity[:, draw]

        def mean(values: Tensor) -> float:
            return weighted_mean(values[rows], w)

        decoupled = mean(r2_classification.losses_of(uniformity, law, population, tau))
        ideal_margins = r6_margin.margins_of(uniformity[rows, None], to_drawn, tau, beta)
        ideal_rows, ideal_w = ideal_margins.reshape(-1), w.repeat_interleave(POSITIVES) / POSITIVES
        clean_margins, own_margins = (
            r6_margin.margins_of(u, self.alignment, tau, beta) for u in (self.clean_uniformity[:, draw], views)
        )
        if draw == 0:
            self.margins = ideal_margins[:, 0]
        moments = [
            r7_kernel.cross_moment(z[rows], population.means[y[rows]], w),
            r7_kernel.cross_moment(evidence.first[rows], evidence.second[rows], w),
        ]
        parts = r8_decomposition.decompose(
            tau=tau, ideal=weighted_mean(uniformity[rows] - to_drawn.mean(1) / tau, w), practical_alignment=mean(self.alignment),
            ideal_alignment=mean(to_mean), practical_uniformity=mean(views), ideal_uniformity=mean(uniformity),
        )  # fmt: skip
        sides = {
            "R1": (mean(self.probe.losses), mean(supervised)),
            "R2": (mean(supervised), population.entropy + decoupled),
            "R6": r6_margin.margin_sides(ideal_rows, clean_margins[rows], ideal_w, w),
            "R7": r7_kernel.kernel_sides(*moments),
            "R8": (parts.ideal, parts.right_side(tau)),
        }
        found = {
            f"{rung}.{side}": value for rung, both in sides.items() for side, value in zip(("left", "right"), both, strict=True)
        }
        infonce = weighted_mean(softplus(ideal_margins).mean(1), w)
        return {
            **found, "chance": population.entropy, "probe_loss": mean(self.probe.losses),
            "mean_classifier_loss": mean(supervised), "ideal_bound": population.entropy + decoupled,
            "ideal_decoupled": decoupled, "ideal_infonce": infonce,
            "ideal_jensen": r3_decoupled.decoupled_bound(infonce, beta),
            "own_margin_w1": r6_margin.margin_sides(ideal_rows, own_margins[rows], ideal_w, w)[1],
            "kernel_cost": sides["R7"][1] / tau, "alignment_cost": parts.alignment_gap / tau,
            "uniformity_gap": parts.uniformity_gap,
            "practical_loss": population.entropy + practical["practical_decoupled"],
        }  # fmt: skip


def draw_positives(y: Tensor, population: Population, rng: torch.Generator) -> Tensor:
    """``(k, d)``: for each label one point of its class."""
    return draw_positives_of(1, y, population, rng)[0]


def draw_positives_of(times: int, y: Tensor, population: Population, rng: torch.Generator) -> Tensor:
    """``(times, k, d)``: the same so many times over."""
    chosen = torch.empty(times, len(y), dtype=torch.long)
    classes = [(population.conditionals[label], (y == label).nonzero()[:, 0]) for label in torch.unique(y).tolist()]
    for row in chosen:
        for law, own in classes:
            row[own] = torch.multinomial(law, len(own), replacement=True, generator=rng)
    return population.z[chosen]
