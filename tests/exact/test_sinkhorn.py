"""Entropic transport: its optimality, its two limits, and the branch for very small eps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics import sinkhorn
from ssa_analysis.numerics.sinkhorn import _Sinkhorn, entropic_transport, sinkhorn_divergence, squared_costs
from ssa_analysis.numerics.transport import exact_distance


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def primal(cost: Tensor, eps: float, iterations: int = 20_000) -> float:
    """``<P, C> + eps KL(P | a b^T)`` of the plan that plain iterations in the logarithmic domain end at."""
    c = cost.numpy()
    n, m = c.shape
    f, g = np.zeros(n), np.zeros(m)
    for _ in range(iterations):
        before = f
        f = -eps * (logsumexp((g - c) / eps, axis=1) - np.log(m))
        g = -eps * (logsumexp((f[:, None] - c) / eps, axis=0) - np.log(n))
        if np.abs(f - before).max() < 1e-12:
            break
    logs = (f[:, None] + g - c) / eps
    plan = np.exp(logs) / (n * m)
    return float((plan * c).sum() + eps * (plan * logs).sum())


@pytest.fixture
def in_logarithms(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The eps of every iteration that was made in the logarithmic domain."""
    calls: list[float] = []
    original = _Sinkhorn._in_logarithms

    def counted(self: _Sinkhorn, eps: float) -> None:
        calls.append(eps)
        original(self, eps)

    monkeypatch.setattr(_Sinkhorn, "_in_logarithms", counted)
    return calls


@pytest.mark.parametrize("share", [0.1, 0.5, 3.0])
@pytest.mark.parametrize(("n", "m"), [(20, 20), (15, 30)])
def test_the_value_is_the_entropic_cost_of_the_best_plan(n: int, m: int, share: float) -> None:
    cost = squared_costs(normal(n, 3, 0), normal(m, 3, 1) + 0.5)
    eps = share * float(cost.median())
    found = entropic_transport(cost, eps, tolerance=1e-10, max_iterations=20_000)
    assert found.converged
    assert found.value == pytest.approx(primal(cost, eps), rel=1e-8)


def test_the_default_tolerance_is_enough_for_four_digits() -> None:
    cost = squared_costs(normal(40, 3, 0), normal(40, 3, 1) + 0.5)
    eps = 0.1 * float(cost.median())
    found = entropic_transport(cost, eps)
    assert found.converged
    assert found.marginal_error <= 1e-4
    assert found.value == pytest.approx(primal(cost, eps, 5000), rel=1e-4)


def test_transport_to_itself_is_symmetric_and_quick() -> None:
    x = normal(50, 3, 0)
    cost = squared_costs(x, x)
    eps = 0.05 * float(cost.median())
    plain, symmetric = (
        entropic_transport(cost, eps, tolerance=1e-5, max_iterations=20_000, symmetric=flag) for flag in (False, True)
    )
    assert symmetric.converged
    assert plain.converged
    assert symmetric.value == pytest.approx(plain.value, rel=1e-4)
    assert symmetric.iterations < plain.iterations


def test_costs_are_squared_distances_and_never_negative() -> None:
    x, y = normal(10, 3, 0) + 100, normal(7, 3, 1) + 100
    torch.testing.assert_close(squared_costs(x, y), torch.cdist(x, y).square(), rtol=1e-6, atol=1e-6)
    assert float(squared_costs(x, x).min()) >= 0
    assert squared_costs(x.float(), y).dtype == torch.float64


@pytest.mark.parametrize(("share", "tolerance"), [(0.05, 1e-5), (0.5, 1e-9)])
def test_identical_samples_have_no_divergence(share: float, tolerance: float) -> None:
    x = normal(40, 3, 0)
    eps = share * float(squared_costs(x, x).median())
    for y in (x.clone(), x.flip(0)):
        value, converged = sinkhorn_divergence(x, y, eps, tolerance=tolerance, max_iterations=20_000)
        assert converged
        assert value == pytest.approx(0, abs=2 * tolerance)


def test_points_that_coincide_have_no_divergence() -> None:
    x = torch.ones(5, 2)
    assert sinkhorn_divergence(x, x.clone(), 0.1) == (0.0, True)
    assert sinkhorn_divergence(x, x + 1, 0.1)[0] == pytest.approx(2)


def test_a_large_eps_leaves_the_mean_costs() -> None:
    """The plan is then the product of the laws; of squared distances what is left is that of the means."""
    x, y = normal(30, 3, 0), 2 * normal(20, 3, 1) + 0.5
    means = [float(squared_costs(a, b).mean()) for a, b in ((x, y), (x, x), (y, y))]
    eps = 1e6 * means[0]
    assert entropic_transport(squared_costs(x, y), eps).value == pytest.approx(means[0], rel=1e-4)
    value, converged = sinkhorn_divergence(x, y, eps, tolerance=1e-12)
    assert converged
    assert value == pytest.approx(means[0] - (means[1] + means[2]) / 2, rel=1e-4)
    assert value == pytest.approx(float((x.mean(0) - y.mean(0)).square().sum()), rel=1e-4)


@pytest.mark.parametrize("share", [1e-3, 1e-4])
def test_a_small_eps_leaves_the_assignment(share: float) -> None:
    x, y = normal(15, 3, 0), normal(15, 3, 1) + 1
    cost = squared_costs(x, y)
    found = entropic_transport(cost, share * float(cost.median()), tolerance=1e-6, max_iterations=100_000)
    assert found.converged
    exact = exact_distance(x, y, power=2)
    assert exact - 1e-4 < found.value <= exact * (1 + 5 * share * np.log(15))


@pytest.mark.parametrize("far", [False, True])
def test_a_tiny_eps_from_the_start_is_iterated_in_the_logarithmic_domain(
    far: bool, in_logarithms: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where eps does not come down from the size of the costs, no entry of a row is above underflow at first."""
    x, y = normal(12, 2, 0), normal(12, 2, 1)
    if far:
        x[0] += 1000
        y[:2] -= 300
    cost = squared_costs(x, y)
    exact = exact_distance(x, y, power=2)
    monkeypatch.setattr(sinkhorn, "START", 1e12)
    found = entropic_transport(cost, 1e-3, max_iterations=20_000)
    assert 0 < len(in_logarithms) < found.iterations
    assert found.value == pytest.approx(exact + 1e-3 * np.log(12), rel=1e-4)


@pytest.mark.parametrize("share", [1e-3, 1e-6])
def test_points_far_from_all_others_are_reached(share: float) -> None:
    x, y = normal(12, 2, 0), normal(12, 2, 1)
    x[0] += 1000
    y[:2] -= 300
    cost = squared_costs(x, y)
    found = entropic_transport(cost, share * float(cost.median()))
    assert found.value == pytest.approx(exact_distance(x, y, power=2), rel=1e-3)


def test_an_ordinary_eps_is_not(in_logarithms: list[float]) -> None:
    x, y = normal(60, 8, 0), normal(60, 8, 1) + 0.3
    sinkhorn_divergence(x, y, 0.05 * float(squared_costs(x, y).median()))
    assert in_logarithms == []


def test_an_iteration_in_logarithms_has_the_same_fixed_point(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(15, 3, 0), normal(12, 3, 1) + 0.5
    results = []
    for kernel in (_Sinkhorn._kernel, lambda self, eps: self.cost * torch.nan):
        for a, b in ((x, y), (x, x)):
            monkeypatch.setattr(_Sinkhorn, "_kernel", kernel)
            results.append(entropic_transport(squared_costs(a, b), 0.5, tolerance=1e-12, symmetric=a is b).value)
    assert results[2:] == pytest.approx(results[:2], rel=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_no_scale_of_rows_or_eps_breaks_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 30, 2)
    x, y = (torch.from_numpy(rng.normal(size=(k, 3)) * 10 ** rng.uniform(-2, 2)) for k in (n, m))
    if seed % 3 == 0:
        x[0] *= 1000
    cost = squared_costs(x, y)
    found = entropic_transport(cost, float(cost.median()) * 10 ** rng.uniform(-7, 0))
    assert np.isfinite(found.value)
    assert not np.isnan(found.marginal_error)
    assert found.value > -1e-9 * float(cost.max())


def test_a_run_that_was_cut_short_says_so() -> None:
    x, y = normal(40, 3, 0), normal(40, 3, 1) + 1
    cost = squared_costs(x, y)
    eps = 1e-3 * float(cost.median())
    short = entropic_transport(cost, eps, max_iterations=5)
    assert not short.converged
    assert short.marginal_error > 1e-4
    assert not sinkhorn_divergence(x, y, eps, max_iterations=5)[1]
    whole = entropic_transport(cost, eps, max_iterations=20_000)
    assert whole.converged
    assert whole.iterations > short.iterations


def test_the_divergence_is_of_a_translation_its_squared_length() -> None:
    x, shift = normal(60, 4, 0), torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
    value, converged = sinkhorn_divergence(x, x + shift, 1.0, tolerance=1e-8, max_iterations=20_000)
    assert converged
    assert value == pytest.approx(float(shift.square().sum()), rel=1e-5)
    assert sinkhorn_divergence(x + shift, x, 1.0, tolerance=1e-8, max_iterations=20_000)[0] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan")])
def test_eps_must_be_positive(eps: float) -> None:
    with pytest.raises(MeasureError, match="positive eps"):
        entropic_transport(torch.ones(3, 3), eps)


def test_costs_must_be_finite() -> None:
    with pytest.raises(MeasureError, match="finite costs"):
        entropic_transport(torch.tensor([[1.0, torch.inf], [0.0, 1.0]]), 0.1)
