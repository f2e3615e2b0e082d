"""The PAC-Bayes bounds: closed forms, parts that add up, and truth on a problem where everything is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ssa_analysis.theory.r9_certificate import binary_kl, block_difference, kl_inverse
from ssa_analysis.theory.r9_pac_bayes import Blocks, bound_at, differences_route, divergence, draws_bound, kl_route

BLOCKS = Blocks(count=200, size=8, tau=0.5, beta=14.0, delta=0.05, delta_draws=0.01, scales=6, per_image=True)


def test_the_divergence_of_two_gaussians_is_that_of_torch() -> None:
    import torch
    from torch.distributions import Normal, kl_divergence

    theta, prior = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    expected = kl_divergence(Normal(theta, torch.tensor(0.3)), Normal(prior, torch.tensor(0.3))).sum()
    assert divergence(float((theta - prior).square().sum()), 0.3) == pytest.approx(float(expected))


def test_the_kl_route_spends_its_budget() -> None:
    bound = kl_route(3.0, 5.0, BLOCKS)
    width = BLOCKS.high - BLOCKS.low
    spent = binary_kl((3.0 - BLOCKS.low) / width, (bound - BLOCKS.low) / width)
    assert spent == pytest.approx((5.0 + math.log(2 * math.sqrt(200) * 12 / 0.05)) / 200, abs=1e-9)


def test_the_differences_route_has_its_closed_form() -> None:
    images, d = 1600, block_difference(8, 0.5, 14.0)
    budget = 5.0 + math.log(math.sqrt(images) * 12 / 0.05)
    expected = 3.0 + math.sqrt(d**2 * 8 / (2 * 200) * images / (images - 1) * budget)
    assert differences_route(3.0, 5.0, BLOCKS) == pytest.approx(expected)
    normalised = dataclasses.replace(BLOCKS, per_image=False)
    assert differences_route(3.0, 5.0, normalised) == math.inf
    assert kl_route(3.0, 5.0, normalised) < kl_route(3.0, 5.0, BLOCKS)  # delta is shared out over fewer bounds


def test_parts_add_up_and_the_better_route_is_taken() -> None:
    rng = np.random.default_rng(0)
    clean = 3 + 0.1 * rng.standard_normal(100)
    rises = 0.2 + 0.05 * rng.standard_normal(100)
    found = bound_at(0.1, 4.0, clean, rises, rises[:20], BLOCKS)
    assert found.kl == pytest.approx(200.0)
    assert found.loss + found.sharpness + found.monte_carlo + found.complexity == pytest.approx(found.bound)
    assert found.bound == min(found.by_kl, found.by_differences)
    assert found.route == ("kl" if found.by_kl < found.by_differences else "bounded differences")
    assert found.monte_carlo > 0
    assert found.sharpness == pytest.approx(rises.mean())
    assert draws_bound(clean + rises, BLOCKS) == pytest.approx(found.loss + found.sharpness + found.monte_carlo)


def test_a_wider_noise_costs_less_complexity() -> None:
    zeros = np.zeros(50)
    parts = [bound_at(s, 4.0, zeros + 3, zeros, zeros[:5], BLOCKS).complexity for s in (0.1, 0.3, 1.0, 3.0)]
    assert parts == sorted(parts, reverse=True)


def test_it_holds_for_a_posterior_that_was_chosen_on_the_blocks() -> None:
    """Of two hundred options of one known mean the one that looks best is taken: a test-set certificate fails, R9 does not."""
    rng = np.random.default_rng(3)
    blocks = dataclasses.replace(BLOCKS, count=20, delta=0.25, scales=1)
    low, width = blocks.low, blocks.high - blocks.low
    options, failed, naive = 200, 0, 0
    for _ in range(400):
        # option k has block losses of mean one half; the best of many looks better than it is
        losses = low + width * rng.beta(0.5, 0.5, (options, blocks.count))
        best = losses.mean(1).min()
        truth = low + width / 2
        failed += kl_route(best, math.log(options), blocks) < truth  # the divergence of one option from the uniform prior
        naive += low + width * kl_inverse((best - low) / width, math.log(1 / 0.25) / blocks.count) < truth
    assert failed <= 0.25 * 400
    assert naive > 0.7 * 400
