"""The inverse of the binary divergence, and certificates that hold as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.theory.r9_certificate import (
    binary_kl,
    block_difference,
    block_losses,
    certify,
    kl_inverse,
    largest_loss,
    smallest_loss,
    without_differences,
)


def test_the_inverse_of_nothing_lost_has_a_closed_form() -> None:
    """kl(0 || p) = -log(1 - p)."""
    for budget in (1e-6, 0.01, 0.5, 3.0):
        assert kl_inverse(0.0, budget) == pytest.approx(-math.expm1(-budget), rel=1e-9)


@pytest.mark.parametrize("q", [0.0, 1e-9, 0.2, 0.5, 0.97])
@pytest.mark.parametrize("budget", [0.0, 1e-4, 0.1, 2.0])
def test_the_inverse_spends_its_budget_and_no_more(q: float, budget: float) -> None:
    p = kl_inverse(q, budget)
    assert q <= p <= 1
    if p < 1 - 1e-12:
        assert binary_kl(q, p) == pytest.approx(budget, abs=1e-9)
    assert kl_inverse(1.0, budget) == 1


def test_pinsker_is_never_better() -> None:
    for q in np.linspace(0, 1, 11):
        assert kl_inverse(float(q), 0.05) <= q + math.sqrt(0.05 / 2) + 1e-12


@pytest.mark.parametrize(("q", "budget"), [(-0.1, 0.1), (1.1, 0.1), (0.5, -1.0)])
def test_what_is_no_probability_is_refused(q: float, budget: float) -> None:
    with pytest.raises(ValueError, match="kl_inverse takes"):
        kl_inverse(q, budget)


def test_the_largest_loss_is_reached_by_opposite_positives() -> None:
    tau, beta = 0.3, 7.0
    z = torch.tensor([[1.0, 0.0]] * 2, dtype=torch.float64)
    worst = nt_xent(z, -z, tau, beta)  # every positive is opposite, half of the negatives coincide
    assert float(worst.max()) <= largest_loss(tau, beta)
    from ssa_analysis.numerics.contrastive import info_nce

    assert float(info_nce(z[:1], -z[:1], z[:1], tau, beta)) == pytest.approx(largest_loss(tau, beta), rel=1e-12)


def test_blocks_are_disjoint_and_whole() -> None:
    rng = torch.Generator().manual_seed(0)
    first, second = (normalize(torch.randn(23, 4, generator=rng, dtype=torch.float64), dim=1) for _ in range(2))
    losses = block_losses(first, second, 5, 0.5, 3.0)
    assert losses.shape == (4,)
    assert losses[2] == pytest.approx(float(nt_xent(first[10:15], second[10:15], 0.5, 3.0).mean()))


def unit(count: int, seed: int, dimension: int = 3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, dimension, generator=rng, dtype=torch.float64), dim=1)


@pytest.mark.parametrize(("size", "tau", "beta"), [(2, 0.3, 2.0), (4, 0.5, 6.0), (8, 1.0, 100.0)])
def test_no_image_changes_a_block_by_more_than_its_difference(size: int, tau: float, beta: float) -> None:
    """Random blocks and hostile ones; the largest change found comes near the bound."""
    most, bound = 0.0, block_difference(size, tau, beta)
    east = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    for seed in range(300):
        first, second = unit(size, seed), unit(size, seed + 1000)
        if seed % 3 == 0:  # all anchors and positives opposite to all else, one pair from the far side to the near one
            first, second = east.repeat(size, 1), -east.repeat(size, 1)
        before = float(nt_xent(first, second, tau, beta).mean())
        first, second = first.clone(), second.clone()
        first[0], second[0] = (east[0], east[0]) if seed % 2 else (unit(1, seed + 2000)[0], unit(1, seed + 3000)[0])
        most = max(most, abs(float(nt_xent(first, second, tau, beta).mean()) - before))
    assert 0.3 * bound < most <= bound


def test_losses_stay_between_the_smallest_and_the_largest() -> None:
    tau, beta = 0.3, 7.0
    z = unit(6, 0)
    assert float(nt_xent(z, z, tau, beta).min()) >= smallest_loss(tau, beta)
    east = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    from ssa_analysis.numerics.contrastive import info_nce

    assert float(info_nce(east, east, -east, tau, beta)) == pytest.approx(smallest_loss(tau, beta), rel=1e-12)


def test_certificates_hold_as_often_as_they_say_and_are_not_far_off() -> None:
    """NT-Xent of blocks of random pairs; delta is a quarter so that failures can be seen."""
    size, count, tau, beta, delta = 4, 24, 0.5, 6.0, 0.25
    first, second = unit(400_000, 1), normalize(unit(400_000, 1) + 0.7 * unit(400_000, 2), dim=1)
    losses = block_losses(first, second, size, tau, beta)
    truth, failed = losses[50_000:].mean(), np.zeros(3)
    found = [certify(losses[i * count : (i + 1) * count], size, tau, beta, delta) for i in range(1000)]
    for one in found:
        failed += np.array([one.betting, one.kl, one.bounded_differences]) < truth
    assert (failed <= 0.25 * 1000).all()
    assert np.mean([one.betting for one in found]) < truth + 0.35
    assert all(one.betting < min(one.kl, one.bounded_differences) for one in found)
    assert (found[0].blocks, found[0].size, found[0].delta) == (count, size, delta)
    assert found[0].mean == pytest.approx(losses[:count].mean())


def test_bounded_differences_are_mcdiarmids_bound() -> None:
    losses = np.array([3.0, 3.2, 2.8, 3.1])
    one = certify(losses, 8, 1.0, 14.0, 0.1)
    reach = block_difference(8, 1.0, 14.0) * math.sqrt(8 * math.log(10) / (2 * 4))
    assert one.bounded_differences == pytest.approx(min(one.largest, losses.mean() + reach))
    assert math.isnan(without_differences(one).bounded_differences)


def test_the_difference_of_a_block_written_out() -> None:
    tau, beta, size = 0.5, 14.0, 8
    own = math.log((1 + beta * math.exp(4)) / (1 + beta * math.exp(-4)))
    others = math.log((1 + (12 + 2 * math.exp(4))) / 15)
    assert block_difference(size, tau, beta) == pytest.approx((2 * own + 14 * others) / 16)
