"""Wasserstein distances by assignment and by linear programming, and less what sampling adds."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from torch import Tensor

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics import transport
from ssa_analysis.numerics.transport import (
    exact_distance,
    exact_wasserstein,
    floored_distance,
    pair_transport,
    split_floor,
    transport_lp,
    wasserstein_1d,
)


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(n: int) -> np.ndarray:
    return np.full(n, 1 / n)


def test_a_translation_has_its_length() -> None:
    x, shift = normal(60, 4, 0), torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
    length = float(shift.norm())
    assert exact_distance(x, x + shift) == pytest.approx(length, abs=1e-9)
    assert exact_distance(x, (x + shift)[torch.randperm(60)], power=2) == pytest.approx(length**2, abs=1e-9)
    assert wasserstein_1d(np.arange(5.0), np.arange(5.0) + 3) == pytest.approx(3)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 40), m=st.integers(1, 40), digits=st.integers(0, 6), weighted=st.booleans(), seed=st.integers(0, 10**6))
def test_on_the_line_it_is_scipys(n: int, m: int, digits: int, weighted: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal(n).round(digits), rng.standard_normal(m).round(digits)
    weights = (rng.random(n) + 0.01, rng.random(m) + 0.01) if weighted else (None, None)
    assert wasserstein_1d(x, y, *weights) == pytest.approx(wasserstein_distance(x, y, *weights), rel=1e-12, abs=1e-15)


def test_a_law_without_mass_has_no_distance() -> None:
    one = np.ones(1)
    with pytest.raises(ValueError, match="at least one value"):
        wasserstein_1d(one, one[:0])
    for weights in (np.zeros(2), np.array([2.0, -1.0])):
        with pytest.raises(ValueError, match="must not be negative"):
            wasserstein_1d(np.arange(2.0), one, weights, one)


def test_where_one_law_is_a_point_there_is_but_one_plan() -> None:
    p, cost = np.array([0.2, 0.8]), np.array([[1.0], [3.0]])
    assert transport_lp(p, np.ones(1), cost) == pytest.approx(2.6)
    assert transport_lp(np.array([1.0, 1e-30]), p, np.array([[1.0, 3.0], [9.0, 9.0]])) == pytest.approx(2.6)


@pytest.mark.parametrize("power", [1, 2])
def test_the_exact_distance_equals_the_linear_program(power: int) -> None:
    x, y = normal(9, 3, 0), 2 * normal(9, 3, 1) + 0.5
    cost = (x[:, None] - y[None]).square().sum(2).sqrt().numpy() ** power
    assert exact_distance(x, y, power) == pytest.approx(transport_lp(uniform(9), uniform(9), cost), rel=1e-7)
    assert exact_distance(x.float(), y.float(), power) == pytest.approx(exact_distance(x, y, power), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 6), m=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_one_dimensional_distance_equals_the_linear_program(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, p, q = rng.normal(size=n), rng.normal(size=m), rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    assert wasserstein_1d(x, y, p, q) == pytest.approx(transport_lp(p, q, np.abs(x[:, None] - y[None, :])), abs=1e-8)


def pair_costs(x: Tensor, y: Tensor, first: float, second: float) -> np.ndarray:
    """``first |z - w| + second |z+ - w+|``, entry by entry."""
    d = x.shape[1] // 2
    return np.array([[float(first * (a[:d] - b[:d]).norm() + second * (a[d:] - b[d:]).norm()) for b in y] for a in x])


@pytest.mark.parametrize("larger", ["one-sided", "both directions"])
def test_pairs_have_the_smaller_of_two_costs(larger: str) -> None:
    x, y = normal(8, 6, 0), normal(8, 6, 1)
    moved = slice(0, 3) if larger == "one-sided" else slice(3, 6)
    y[:, moved] *= 4
    costs = [pair_costs(x, y, 2, 1), pair_costs(x, y, 1.5, 1.5)]
    one_sided, both = (transport_lp(uniform(8), uniform(8), cost) for cost in costs)
    assert (one_sided > both) == (larger == "one-sided")
    assert pair_transport(x, y) == pytest.approx(min(one_sided, both), rel=1e-7)


def test_assignment_needs_equal_sizes_and_finite_costs() -> None:
    with pytest.raises(MeasureError, match="equal size, got 3 and 4"):
        exact_wasserstein(np.zeros((3, 4)))
    with pytest.raises(MeasureError, match="not finite"):
        exact_wasserstein(np.array([[0.0, np.nan], [0.0, 0.0]]))


def test_a_program_without_solution_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeasureError, match="negative mass"):
        transport_lp(np.array([1.0, -1.0, 1.0]), np.array([0.5, 0.5]), np.zeros((3, 2)))
    monkeypatch.setattr(transport, "linprog", lambda *_, **__: SimpleNamespace(success=False, message="out of time"))
    with pytest.raises(MeasureError, match="not solved: out of time"):
        transport_lp(np.array([1.0, 1.0]), np.array([0.5, 0.5]), np.ones((2, 2)))


def test_tiny_masses_count() -> None:
    """The solver's own tolerance would let masses below 1e-7 stay where they are."""
    p, q = np.array([1 - 6e-8, 6e-8]), np.array([1.0, 0.0])
    cost = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert transport_lp(p, q, cost) == pytest.approx(6e-8, rel=1e-6)
    assert transport_lp(p, np.array([1 - 3e-8, 3e-8]), cost) == pytest.approx(3e-8, rel=1e-4)


@pytest.mark.parametrize("power", [1, 2])
def test_without_a_shift_the_floor_is_all_there_is(power: int) -> None:
    def distance(a: Tensor, b: Tensor) -> float:
        return exact_distance(a, b, power)

    found = [floored_distance(normal(128, 8, 2 * s), normal(128, 8, 2 * s + 1), distance, 16) for s in range(60)]
    values = np.array([f.difference.value for f in found])
    error = values.std() / math.sqrt(60)
    assert values.mean() == pytest.approx(0, abs=3.5 * error)
    assert np.mean([f.plug_in for f in found]) > 20 * error
    inside = sum(f.difference.low <= 0 <= f.difference.high for f in found)
    assert inside >= 51


def test_a_translation_along_the_line_has_its_squared_length_in_the_mean() -> None:
    """Squared distances: the floor of a translated law is that of the law."""
    values = []
    for seed in range(30):
        x, y = normal(256, 2, 2 * seed), normal(256, 2, 2 * seed + 1) + 2
        values.append(floored_distance(x, y, lambda a, b: exact_distance(a, b, 2), 32).difference.value)
    assert np.mean(values) == pytest.approx(8, abs=3.5 * np.std(values) / math.sqrt(30))


def test_batches_are_compared_as_written() -> None:
    x, y = normal(40, 2, 0), normal(43, 2, 1) + 1
    found = floored_distance(x, y, exact_distance, 5)
    a, b = x.split(5), y.split(5)
    differences, floors = [], []
    for j in (0, 2, 4, 6):
        floors.append((exact_distance(a[j], a[j + 1]) + exact_distance(b[j], b[j + 1])) / 2)
        differences.append((exact_distance(a[j], b[j]) + exact_distance(a[j + 1], b[j + 1])) / 2 - floors[-1])
    assert found.difference.value == pytest.approx(np.mean(differences), rel=1e-12)
    assert found.difference.stderr == pytest.approx(np.std(differences, ddof=1) / 2, rel=1e-12)
    assert found.floor == pytest.approx(np.mean(floors), rel=1e-12)
    assert found.plug_in == pytest.approx(found.difference.value + found.floor, rel=1e-12)
    assert found.batch == 5


@pytest.mark.parametrize(("rows", "batch"), [(16, 2), (23, 2), (24, 3), (80, 10), (1000, 100)])
def test_a_batch_shrinks_until_there_are_four_estimates(rows: int, batch: int) -> None:
    sizes: list[int] = []

    def distance(a: Tensor, b: Tensor) -> float:
        sizes.extend([len(a), len(b)])
        return float(len(sizes))

    found = floored_distance(torch.zeros(rows, 1), torch.zeros(rows + 50, 1), distance, 100)
    assert found.batch == batch
    assert set(sizes) == {batch}
    assert len(sizes) // 8 >= 4


def test_fewer_than_sixteen_rows_are_refused() -> None:
    with pytest.raises(MeasureError, match="at least 16 samples of each law, got 15"):
        floored_distance(normal(15, 2, 0), normal(100, 2, 1), exact_distance, 8)


def test_the_split_floor_falls_with_the_sample() -> None:
    rng = np.random.default_rng(0)
    small, large = (np.mean([split_floor(rng.normal(size=n), s) for s in range(20)]) for n in (100, 10_000))
    assert small > 5 * large > 0
