"""Wasserstein distances against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics.transport import (
    exact_wasserstein,
    gaussian_w2,
    sliced_wasserstein2,
    split_floor,
    transport_lp,
    wasserstein_1d,
)


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_translation_has_its_length() -> None:
    x, shift = normal(60, 4, 0), torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
    length = float(shift.norm())
    cost = torch.cdist(x, x + shift).numpy()
    assert exact_wasserstein(cost) == pytest.approx(length, abs=1e-9)
    assert gaussian_w2(x, x + shift) == pytest.approx(length**2, rel=1e-9)
    # a random direction sees the squared length divided by the dimension, on average
    value, error = sliced_wasserstein2(x, x + shift, projections=4000)
    assert value == pytest.approx(length**2 / 4, abs=4 * error)
    assert wasserstein_1d(np.arange(5.0), np.arange(5.0) + 3) == pytest.approx(3)


def test_bures_is_the_matrix_formula() -> None:
    x, y = normal(200, 3, 0) @ normal(3, 3, 1), normal(150, 3, 2) @ normal(3, 3, 3) + 1
    cx, cy = np.cov(x.numpy().T), np.cov(y.numpy().T)
    root = sqrtm(cx).real
    expected = float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(cx + cy - 2 * sqrtm(root @ cy @ root).real)
    assert gaussian_w2(x, y) == pytest.approx(expected, rel=1e-8)
    assert gaussian_w2(x, x) == pytest.approx(0, abs=1e-9)


def test_bures_of_commuting_gaussians_is_the_difference_of_deviations() -> None:
    x = normal(20000, 2, 0)
    value = gaussian_w2(x * torch.tensor([1.0, 2.0]), x * torch.tensor([3.0, 1.0]))
    assert value == pytest.approx(4 + 1, rel=0.05)


def test_bures_of_fewer_samples_than_dimensions_is_finite() -> None:
    assert np.isfinite(gaussian_w2(normal(5, 20, 0), normal(6, 20, 1)))


def test_sliced_distance_of_samples_of_different_size_is_the_exact_one_dimensional_distance() -> None:
    x, y = normal(7, 1, 0), normal(4, 1, 1)
    expected = transport_lp(np.full(7, 1 / 7), np.full(4, 1 / 4), (x - y.T).square().numpy())
    value, _ = sliced_wasserstein2(x, y, projections=3)
    assert value == pytest.approx(expected, rel=1e-6)


def test_sliced_distance_is_the_same_for_repeated_points() -> None:
    x, y = normal(6, 3, 0), normal(6, 3, 1)
    once, _ = sliced_wasserstein2(x, y, seed=1)
    twice, _ = sliced_wasserstein2(x.repeat(2, 1), y, seed=1)
    assert twice == pytest.approx(once, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 6), m=st.integers(1, 6), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_one_dimensional_distance_equals_the_linear_program(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, p, q = rng.normal(size=n), rng.normal(size=m), rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    assert wasserstein_1d(x, y, p, q) == pytest.approx(transport_lp(p, q, np.abs(x[:, None] - y[None, :])), abs=1e-8)


def test_assignment_equals_the_linear_program() -> None:
    cost = torch.cdist(normal(8, 3, 0), normal(8, 3, 1)).numpy()
    uniform = np.full(8, 1 / 8)
    assert exact_wasserstein(cost) == pytest.approx(transport_lp(uniform, uniform, cost), abs=1e-9)


def test_assignment_needs_equal_sizes() -> None:
    with pytest.raises(MeasureError, match="equal size"):
        exact_wasserstein(np.zeros((3, 4)))


def test_the_split_floor_falls_with_the_sample() -> None:
    rng = np.random.default_rng(0)
    small, large = (np.mean([split_floor(rng.normal(size=n), s) for s in range(20)]) for n in (100, 10_000))
    assert small > 5 * large > 0
