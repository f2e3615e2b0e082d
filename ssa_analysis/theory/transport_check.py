"""R5 on a checkpoint: exact transport between disjoint batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ssa_analysis.numerics.contrastive import softplus
from ssa_analysis.numerics.resampling import mean_interval
from ssa_analysis.numerics.seeding import generator
from ssa_analysis.numerics.transport import DIRECTED, exact_distance, pair_transport
from ssa_analysis.theory import r5_transport, r6_margin
from ssa_analysis.theory.estimates import draw_positives
from ssa_analysis.theory.evidence import Evidence, Ideal
from ssa_analysis.theory.rungs import Population, RungCheck

MAX_BATCHES = 8


@dataclass(frozen=True)
class TransportCheck:
    """R5 between the laws of batches, with the parts of its right side and what they are between equal laws; in nats."""

    check: RungCheck
    pairs: float  # W_c / tau
    negatives: float  # W_1 / tau
    floor: float  # W_c / tau between two batches of one law, the mean over both laws


def check_transport(evidence: Evidence, ideal: Ideal, batch: int, seed: int) -> TransportCheck:
    """R5 on disjoint batches of held-out images, with as many probe images as negatives.

    For the laws of a batch and of its negatives the rung is a theorem, with nothing estimated (the batch's law is not
    symmetric, so the ground cost is that of the loss in one direction); what is estimated is their mean over batches. In
    many dimensions the right side is mostly what sampling adds: see ``floor``.
    """
    rng = generator(seed, "transport")
    rows, bank = (torch.randperm(len(z), generator=rng) for z in (evidence.first, evidence.bank))
    positives = draw_positives(ideal.law.y, ideal.population, rng)
    batch = min(batch, len(rows) // 2)
    negatives = bank[:batch]
    uniform = torch.full((1, len(negatives)), 1 / len(negatives), dtype=torch.float64)
    clean, viewed = (
        Population(z[negatives], uniform, torch.ones(1, dtype=torch.float64)) for z in (ideal.population.z, evidence.bank)
    )
    laws = (ideal.law.z, positives), (evidence.first, evidence.second)
    joint = [torch.cat(pair, dim=1) for pair in laws]
    parts = rows[: len(rows) // batch * batch].split(batch)[:MAX_BATCHES]
    lefts, costs = [], []
    one = exact_distance(clean.z, viewed.z) / evidence.tau
    for part in parts:
        losses = [
            softplus(r6_margin.margins(z[part], plus[part], population, evidence.tau, evidence.beta)).mean()
            for (z, plus), population in zip(laws, (clean, viewed), strict=True)
        ]
        lefts.append(abs(float(losses[0] - losses[1])))
        costs.append(pair_transport(joint[0][part], joint[1][part], [DIRECTED]) / evidence.tau)
    floors = [pair_transport(law[parts[0]], law[parts[1]], [DIRECTED]) / evidence.tau for law in joint]
    slack = mean_interval(np.array(costs) + one - np.array(lefts))
    check = RungCheck(
        "R5", r5_transport.STATEMENT, float(np.mean(lefts)), float(np.mean(costs)) + one, slack.stderr, slack.low, slack.high
    )
    return TransportCheck(check, float(np.mean(costs)), one, float(np.mean(floors)))
