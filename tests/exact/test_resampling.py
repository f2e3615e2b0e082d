"""Intervals against published formulas and by their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from ssa_analysis.numerics.resampling import bootstrap, jackknife_stderr, mean_interval, wilson_interval


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (957, 1000), (1, 2)])
def test_wilson_equals_scipy(k: int, n: int) -> None:
    ours, scipys = wilson_interval(k, n), binomtest(k, n).proportion_ci(method="wilson")
    assert ours.value == k / n
    assert ours.low == pytest.approx(scipys.low, abs=1e-12)
    assert ours.high == pytest.approx(scipys.high, abs=1e-12)


def test_wilson_needs_a_trial() -> None:
    with pytest.raises(ValueError, match="at least one"):
        wilson_interval(0, 0)


def test_bootstrap_of_the_mean_has_its_standard_error_and_coverage() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        x = rng.exponential(size=60)
        interval = bootstrap(lambda i, x=x: float(x[i].mean()), 60, draws=200, seed=seed)
        inside += interval.low <= 1 <= interval.high
        if seed == 0:
            assert interval.stderr == pytest.approx(x.std() / np.sqrt(60), rel=0.2)
    assert 174 <= inside <= 200


def test_bootstrap_within_strata_keeps_their_sizes() -> None:
    strata = np.array([0] * 3 + [1] * 7)
    seen = []
    bootstrap(lambda i: seen.append(np.bincount(strata[i]).tolist()) or 0.0, 10, draws=20, strata=strata)
    assert all(counts == [3, 7] for counts in seen)


def test_bootstrap_drops_draws_that_are_not_finite() -> None:
    values = iter([1.0, float("nan"), 2.0, 3.0, float("inf"), 4.0])
    interval = bootstrap(lambda _: next(values), 3, draws=5)
    assert interval.value == 1.0
    assert interval.stderr == pytest.approx(1.0)


def test_jackknife_of_the_mean_is_the_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=40)
    loo = np.array([np.delete(x, i).mean() for i in range(40)])
    assert jackknife_stderr(loo) == pytest.approx(x.std(ddof=1) / np.sqrt(40))
    assert mean_interval(x).stderr == pytest.approx(x.std(ddof=1) / np.sqrt(40))
