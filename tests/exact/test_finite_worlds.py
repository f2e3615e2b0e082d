"""The rungs on exact worlds: theorems, so not one violation is tolerated."""

from __future__ import annotations

import dataclasses

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scale import often

from ssa_analysis.numerics.contrastive import softplus
from ssa_analysis.theory.finite_worlds import check_negatives, check_transport, check_world, random_world
from ssa_analysis.theory.r6_margin import margins
from ssa_analysis.theory.rungs import HOLDS, VIOLATED, WITHIN_ERROR, RungCheck


@settings(max_examples=often(500, 2000), deadline=None)
@given(
    classes=st.integers(1, 5),
    points=st.integers(1, 9),
    dimension=st.integers(1, 5),
    tau=st.floats(0.05, 5),
    beta=st.floats(0.01, 500),
    concentration=st.sampled_from([0.05, 0.5, 5.0]),
    seed=st.integers(0, 10**6),
)
def test_every_rung_holds_on_every_world(
    classes: int, points: int, dimension: int, tau: float, beta: float, concentration: float, seed: int
) -> None:
    checks = check_world(random_world(classes, points, dimension, seed, concentration), tau, beta)
    assert [c.rung for c in checks] == ["R1", "R2", "R3", "R3", "R6", "R6", "R7", "R8"]
    hold(checks)


def hold(checks: list[RungCheck]) -> None:
    for check in checks:
        size = max(1.0, abs(check.left), abs(check.right))
        if check.equality:
            assert abs(check.slack) <= 1e-9 * size, check
        else:
            assert check.slack >= -1e-9 * size, check
        assert check.verdict == HOLDS


@settings(max_examples=often(500, 2000), deadline=None)
@given(
    classes=st.integers(1, 4),
    points=st.integers(1, 4),
    dimension=st.integers(1, 4),
    tau=st.floats(0.05, 5),
    beta=st.floats(0.01, 500),
    concentration=st.sampled_from([0.05, 0.5, 5.0]),
    seed=st.integers(0, 10**6),
)
def test_negatives_and_transport_on_every_world(
    classes: int, points: int, dimension: int, tau: float, beta: float, concentration: float, seed: int
) -> None:
    world = random_world(classes, points, dimension, seed, concentration)
    hold(check_negatives(world, tau, beta, (1, 2, 3)))
    transport = check_transport(world, tau, beta)
    assert [c.rung for c in transport] == ["R5"] * 3
    hold(transport)


def test_r2_is_an_equality_when_the_classes_collapse() -> None:
    world = random_world(3, 3, 4, seed=0)
    collapsed = dataclasses.replace(world, conditionals=torch.eye(3, dtype=torch.float64))
    r2 = check_world(collapsed, 0.5, 1.0)[1]
    assert abs(r2.slack) < 1e-12
    assert check_world(world, 0.5, 1.0)[1].slack > 1e-3


def test_equal_pair_laws_have_no_shift() -> None:
    """One class and views that are fresh images: practical pairs are ideal pairs, R6 is 0 <= 0."""
    world = random_world(1, 5, 3, seed=1)
    same = dataclasses.replace(world, augmentation=world.population.marginal.expand(5, 5))
    r6 = next(c for c in check_world(same, 0.5, 2.0) if c.rung == "R6")
    assert abs(r6.left) < 1e-12
    assert abs(r6.right) < 1e-12


def test_softplus_of_the_margin_is_the_loss_written_out() -> None:
    world = random_world(2, 6, 3, seed=2)
    population, tau, beta = world.population, 0.4, 7.0
    z, z_plus = world.z, world.z.flip(0)
    gaps = (z @ world.z.T - (z * z_plus).sum(1, keepdim=True)) / tau
    expected = torch.log(1 + beta * (population.marginal * gaps.exp()).sum(1))
    torch.testing.assert_close(softplus(margins(z, z_plus, population, tau, beta)), expected)


def test_verdicts() -> None:
    def verdict(left: float, right: float, stderr: float, equality: bool = False) -> str:
        return RungCheck("R", "", left, right, stderr, 0.0, 0.0, equality).verdict

    assert verdict(1.0, 2.0, 0.1) == HOLDS
    assert verdict(1.0, 1.0, 0.0) == HOLDS
    assert verdict(1.0, 0.9, 0.03) == WITHIN_ERROR
    assert verdict(1.0, 0.9, 0.02) == VIOLATED
    assert verdict(1.0, 1.0 - 1e-6, 0.0) == VIOLATED
    assert verdict(1.0, 1.1, 0.03, equality=True) == WITHIN_ERROR
    assert verdict(1.0, 1.1, 0.02, equality=True) == VIOLATED
    assert verdict(1.0, 1.0, 0.0, equality=True) == HOLDS
