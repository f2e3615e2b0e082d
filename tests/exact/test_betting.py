"""Upper confidence bounds by betting: valid as often as they say, and short."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssa_analysis.numerics.betting import _stakes, upper_mean
from ssa_analysis.theory.r9_certificate import kl_inverse


@pytest.mark.parametrize("law", ["rare", "uniform", "two-sided"])
def test_the_bound_fails_as_seldom_as_it_says(law: str) -> None:
    """delta is a quarter so that failures are seen; laws as skewed as bounded ones can be."""
    rng = np.random.default_rng(0)
    draw = {
        "rare": (lambda: (rng.random(40) < 0.1).astype(float), 0.1),
        "uniform": (lambda: rng.random(40), 0.5),
        "two-sided": (lambda: rng.beta(0.2, 0.1, 40), 2 / 3),
    }[law]
    failed = sum(upper_mean(draw[0](), 0.25) < draw[1] for _ in range(2000))
    assert 0 < failed <= 0.25 * 2000


def test_it_gains_from_a_small_spread_what_the_divergence_cannot() -> None:
    rng = np.random.default_rng(1)
    values = (0.4 + 0.01 * rng.standard_normal(200)).clip(0, 1)
    bound = upper_mean(values, 0.05)
    assert values.mean() < bound < values.mean() + 0.02
    assert kl_inverse(float(values.mean()), math.log(20) / 200) > values.mean() + 0.08


def test_of_one_constant_it_is_nearly_the_best_there_is() -> None:
    """No bound can be below ``delta^(1/n)`` mixtures: a value of 1 that comes with chance q is missed with ``(1 - q)^n``."""
    best = 1 - 0.05 ** (1 / 100)
    assert best < upper_mean(np.zeros(100), 0.05) < 1.35 * best


def test_more_confidence_and_fewer_values_make_it_longer() -> None:
    values = np.random.default_rng(2).random(100)
    assert upper_mean(values, 0.001) > upper_mean(values, 0.05)
    assert upper_mean(values[:10], 0.05) > upper_mean(values, 0.05)
    assert upper_mean(np.ones(5), 0.05) == 1


@pytest.mark.parametrize(
    ("values", "delta", "match"),
    [
        ([0.5, 1.5], 0.1, "in \\[0, 1\\]"),
        ([], 0.1, "in \\[0, 1\\]"),
        ([0.5, math.nan], 0.1, "in \\[0, 1\\]"),
        ([0.5], 0.0, "delta"),
    ],
)
def test_what_it_cannot_bet_on_is_refused(values: list[float], delta: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        upper_mean(np.array(values), delta)


def test_no_stake_knows_the_value_it_is_laid_on() -> None:
    values = np.random.default_rng(3).random(30)
    other = np.concatenate([values[:10], np.random.default_rng(4).random(20)])
    assert np.array_equal(_stakes(values, 0.05)[:11], _stakes(other, 0.05)[:11])
    assert not np.array_equal(_stakes(values, 0.05)[11:], _stakes(other, 0.05)[11:])
