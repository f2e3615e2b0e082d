"""A mixture on the circle whose integrals are known: the rungs hold on it, and the estimators cover its truths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssa_analysis.theory.estimates import estimate
from ssa_analysis.theory.evidence import resample, uniformities
from ssa_analysis.theory.finite_worlds import check_world
from ssa_analysis.theory.r4_negatives import negatives_of
from ssa_analysis.theory.rungs import HOLDS, Population
from ssa_analysis.theory.simulated_worlds import CircleWorld

WORLD, TAU, BETA = CircleWorld(), 0.5, 30.0
IMAGES, DRAWS, BOOTSTRAP = 400, 150, 100


def truths(points: int) -> dict[str, float]:
    """Both sides of the rungs and the parts, by sums over a grid; written out anew, with none of the project's estimators."""
    grid = WORLD.on_grid(points)
    z, prior, laws, views = (t.numpy() for t in (grid.z, grid.prior, grid.conditionals, grid.augmentation))
    p = prior @ laws
    q = p @ views
    s = z @ z.T
    clean, viewed = np.log(np.exp(s / TAU) @ p), np.log(np.exp(s / TAU) @ q)
    means = laws @ z
    ideal = np.einsum("c,ci,cj->ij", prior, laws, laws)
    practical = np.einsum("k,ki,kj->ij", p, views, views)
    logits = z @ means.T / TAU + np.log(prior)
    total = np.log(np.exp(logits).sum(1))
    supervised = sum(prior[c] * (laws[c] @ (total - logits[:, c])) for c in range(len(prior)))
    chance = -(prior * np.log(prior)).sum()
    decoupled = p @ clean - (ideal * s).sum() / TAU
    viewed_decoupled = q @ viewed - (practical * s).sum() / TAU
    margins = {name: math.log(BETA) + u[:, None] - s / TAU for name, u in (("clean", clean), ("viewed", viewed))}

    def infonce(law: np.ndarray, u: np.ndarray) -> float:
        return float((law * np.log1p(np.exp(u))).sum())

    def transport(u: np.ndarray, v: np.ndarray) -> float:
        places = np.concatenate([u.ravel(), v.ravel()])
        masses = np.concatenate([ideal.ravel(), -practical.ravel()])
        order = np.argsort(places)
        return float((np.abs(masses[order].cumsum())[:-1] * np.diff(places[order])).sum())

    def invert(loss: float) -> float:
        return math.log(math.expm1(loss)) - math.log(BETA)

    moments = [np.einsum("ij,ia,jb->ab", law, z, z) for law in (ideal, practical)]
    viewed_infonce = infonce(practical, margins["viewed"])
    margin_gap = abs(infonce(ideal, margins["clean"]) - infonce(practical, margins["clean"]))
    margin_transport = transport(margins["clean"], margins["clean"])
    return {
        "mean_classifier_loss": supervised, "ideal_bound": chance + decoupled, "R2.slack": chance + decoupled - supervised,
        "practical_decoupled": viewed_decoupled, "practical_infonce": viewed_infonce,
        "R3.slack": invert(viewed_infonce) - viewed_decoupled, "ideal_infonce": infonce(ideal, margins["clean"]),
        "ideal_jensen": invert(infonce(ideal, margins["clean"])), "R6.left": margin_gap, "R6.right": margin_transport,
        "R6.slack": margin_transport - margin_gap, "own_margin_w1": transport(margins["clean"], margins["viewed"]),
        "R7.left": abs(np.trace(moments[0] - moments[1])), "R8.left": decoupled, "R8.slack": 0.0,
        "alignment_cost": ((practical - ideal) * s).sum() / TAU, "uniformity_gap": p @ clean - q @ viewed,
    }  # fmt: skip


def test_the_truths_are_known_to_high_precision() -> None:
    """Twice as many nodes change nothing; the class means are those of von Mises laws, in Bessel functions."""
    coarse, fine = truths(128), truths(256)
    for name, value in fine.items():
        assert coarse[name] == pytest.approx(value, abs=1e-5 if name == "own_margin_w1" else 1e-12)
    from scipy.special import ive

    means = WORLD.on_grid(128).population.means.numpy() * math.sqrt(1 + WORLD.winding**2)
    for c, (centre, k) in enumerate(zip(WORLD.centres, WORLD.concentrations, strict=True)):
        once, twice = (ive(n, k) / ive(0, k) for n in (1, 2))
        expected = [once * math.cos(centre), once * math.sin(centre)]
        expected += [WORLD.winding * twice * math.cos(2 * centre), WORLD.winding * twice * math.sin(2 * centre)]
        assert means[c] == pytest.approx(np.array(expected), abs=1e-12)


def test_views_and_images_follow_the_grid() -> None:
    """Drawn angles have the moments of the grid's laws."""
    rng = np.random.default_rng(0)
    angles, labels = WORLD.draw(200_000, rng)
    grid = WORLD.on_grid(256)
    nodes = 2 * np.pi * np.arange(256) / 256
    law = grid.population.marginal.numpy()
    kernel = law @ grid.augmentation.numpy()
    views = WORLD.view(angles, rng)
    for n in (1, 2, 3):
        for drawn, weights in ((angles, law), (views, kernel)):
            assert np.exp(1j * n * drawn).mean() == pytest.approx((weights * np.exp(1j * n * nodes)).sum(), abs=0.008)
    assert np.bincount(labels) / 200_000 == pytest.approx(np.array(WORLD.prior))


def test_every_rung_holds_on_the_grid() -> None:
    checks = check_world(WORLD.on_grid(64), TAU, BETA)
    assert all(check.verdict == HOLDS for check in checks)
    assert all(check.slack > 1e-4 for check in checks if check.rung in ("R1", "R2", "R3", "R6", "R7"))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Over 150 draws of probe and held-out images at 95 %: 142.5 are expected, 135 is almost three deviations below.

    At their last run 137 to 150 covered. R7's right side is not among them: its norm is too large on average, as the
    documentation says. R4 has no truth of its own, since its finite loss is drawn.
    """
    known = truths(256)
    hits, estimates = dict.fromkeys(known, 0), {name: [] for name in known}
    for draw in range(DRAWS):
        evidence = WORLD.evidence(IMAGES, IMAGES, TAU, BETA, 30, draw)
        found = estimate(evidence, resample(evidence, BOOTSTRAP, draw), draw, 16, 16)
        for name, truth in known.items():
            if name.endswith(".slack"):
                check = found.check(name[:2])
                low, high, value = check.low, check.high, check.slack
            else:
                interval = found.interval(name)
                low, high, value = interval.low, interval.high, interval.value
            hits[name] += low <= truth <= high
            estimates[name].append(value)
    assert {name: count for name, count in hits.items() if count < 0.9 * DRAWS} == {}
    # the estimators themselves are off by a small part of their spread
    for name, truth in known.items():
        values = np.array(estimates[name])
        assert abs(values.mean() - truth) < 0.4 * values.std(), name


def test_the_bootstrap_draws_both_splits_within_classes() -> None:
    evidence = WORLD.evidence(50, 40, TAU, BETA, 30, 0)
    found = resample(evidence, 20, 0)
    assert len(found) == 21
    assert torch.equal(found.rows[0], torch.arange(40))
    assert evidence.ideal is not None
    for rows, weights in zip(found.rows[1:], found.weights.T[1:], strict=True):
        assert torch.equal(evidence.ideal.law.y[rows].bincount(), evidence.ideal.law.y.bincount())
        per_class = torch.zeros(3, dtype=torch.float64).index_add(0, evidence.ideal.labels, weights)
        torch.testing.assert_close(per_class, evidence.ideal.population.prior)
    assert len({tuple(rows.tolist()) for rows in found.rows}) == 21


def test_one_pass_over_all_weightings_equals_one_at_a_time() -> None:
    evidence = WORLD.evidence(60, 50, TAU, BETA, 30, 1)
    found = resample(evidence, 4, 1)
    logs, spreads = uniformities(evidence.first, evidence.bank, found.weights, TAU)
    for draw in range(5):
        law = Population(evidence.bank, found.weights[:, draw][None], torch.ones(1, dtype=torch.float64))
        torch.testing.assert_close(logs[:, draw], law.uniformity(evidence.first, TAU))
        negatives = negatives_of(evidence.first, law, TAU)
        torch.testing.assert_close(spreads[:, draw], negatives.spread)
        torch.testing.assert_close(logs[:, draw].exp(), negatives.mean)
