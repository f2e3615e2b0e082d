"""The inverse of the binary divergence, and certificates that hold as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ssa_analysis.numerics.contrastive import nt_xent
from ssa_analysis.theory.r9_certificate import binary_kl, block_losses, certify, kl_inverse, largest_loss


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


def test_a_certificate_holds_as_often_as_it_says_and_is_not_far_off() -> None:
    """Losses of a known mean, as skewed as bounded ones can be; delta is a quarter so that failures are seen."""
    rng = np.random.default_rng(0)
    failed, bounds = 0, []
    for _ in range(2000):
        losses = 2.0 * (rng.random(40) < 0.1)  # in [0, 2], mean 0.2
        found = certify(losses, 8, 2.0, 0.25)
        bounds.append(found.bound)
        failed += found.bound < 0.2
    assert 0 < failed <= 0.25 * 2000
    assert np.mean(bounds) < 0.45
    assert (found.blocks, found.size, found.delta, found.largest) == (40, 8, 0.25, 2.0)
