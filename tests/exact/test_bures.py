"""The Gaussian distance: matrix formula, the two parts of pairs, and the extrapolated bias."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from ssa_analysis.numerics import bures as module
from ssa_analysis.numerics.bures import SubsetMoments, bures, extrapolated, gaussian_w2, pair_coordinates, pair_gaussian_w2


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrix_formula(x: Tensor, y: Tensor) -> float:
    cx, cy = np.cov(x.numpy().T), np.cov(y.numpy().T)
    root = sqrtm(cx).real
    return float((x.mean(0) - y.mean(0)).square().sum()) + float(np.trace(cx + cy - 2 * sqrtm(root @ cy @ root).real))


def test_it_is_the_matrix_formula() -> None:
    x, y = normal(200, 3, 0) @ normal(3, 3, 1), normal(150, 3, 2) @ normal(3, 3, 3) + 1
    assert gaussian_w2(x, y) == pytest.approx(matrix_formula(x, y), rel=1e-8)
    assert gaussian_w2(y, x) == pytest.approx(gaussian_w2(x, y), rel=1e-9)
    assert gaussian_w2(x, x) == pytest.approx(0, abs=1e-9)


def test_a_translation_has_its_squared_length() -> None:
    x, shift = normal(60, 4, 0), torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
    assert gaussian_w2(x, x + shift) == pytest.approx(float(shift.square().sum()), rel=1e-9)


def test_commuting_gaussians_differ_by_their_deviations() -> None:
    q = torch.linalg.qr(normal(4, 4, 0)).Q
    one, other = torch.tensor([1.0, 4.0, 0.0, 9.0]).double(), torch.tensor([9.0, 1.0, 2.0, 9.0]).double()
    mean = torch.zeros(4, dtype=torch.float64)
    value = bures(mean, (q * one) @ q.T, mean + 1, (q * other) @ q.T)
    assert value == pytest.approx(4 + float((one.sqrt() - other.sqrt()).square().sum()), rel=1e-8)


def test_one_dimension_is_a_dimension() -> None:
    x, y = normal(50, 1, 0), 3 * normal(40, 1, 1) + 2
    expected = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    assert gaussian_w2(x, y) == pytest.approx(float(expected), rel=1e-9)


def test_single_precision_rows_are_summed_in_double() -> None:
    x, y = normal(300, 5, 0) + 100, normal(300, 5, 1) + 100
    assert gaussian_w2(x.float(), y.float()) == pytest.approx(gaussian_w2(x, y), rel=1e-3)


def test_fewer_samples_than_dimensions_are_finite_and_symmetric() -> None:
    x, y = normal(5, 20, 0), normal(6, 20, 1)
    assert gaussian_w2(x, y) == pytest.approx(gaussian_w2(y, x), rel=1e-6)
    assert gaussian_w2(x, y) > 0


def pairs(n: int, correlation: float, seed: int, mean: float = 0.0) -> tuple[Tensor, Tensor]:
    z, noise = normal(n, 4, seed) @ normal(4, 4, 99), normal(n, 4, seed + 1)
    return z + mean, correlation * z + noise + mean


def test_coordinates_of_pairs_are_a_rotation() -> None:
    first, second = pairs(30, 0.5, 0)
    total, difference = pair_coordinates(first, second)
    before, after = torch.cat([first, second], 1), torch.cat([total, difference], 1)
    torch.testing.assert_close(torch.cdist(before, before), torch.cdist(after, after), rtol=1e-9, atol=1e-6)
    torch.testing.assert_close((total - difference) / 2**0.5, second)


def symmetrised(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of pairs and swapped pairs; its sums, which are there twice, with ``n - 1`` as divisor."""
    n, d = pair[0].shape
    both = torch.cat([torch.cat(pair, 1), torch.cat(pair[::-1], 1)])
    covariance = torch.cov(both.T, correction=0)
    onto_sums = torch.eye(d, dtype=torch.float64).repeat(2, 2) / 2
    return both.mean(0), covariance + onto_sums @ covariance @ onto_sums / (n - 1)


def test_the_two_parts_add_up_to_the_joint_distance_of_the_symmetrised_pairs() -> None:
    x, y = pairs(25, 0.8, 0), pairs(40, 0.1, 5, mean=0.5)
    parts = pair_gaussian_w2(x, y)
    assert sum(parts) == pytest.approx(bures(*symmetrised(x), *symmetrised(y)), rel=1e-8)
    assert pair_gaussian_w2(x[::-1], y) == pytest.approx(parts, rel=1e-9)


def test_a_mean_is_in_the_sums_and_a_dependence_in_both() -> None:
    x = pairs(500, 0.8, 0)
    moved = (x[0] + 1, x[1] + 1)
    assert pair_gaussian_w2(x, moved) == pytest.approx((8, 0), abs=1e-7)
    total, difference = pair_gaussian_w2(x, (x[0], x[1].roll(1, 0)))
    assert total > 0.1
    assert difference > 0.1


def test_a_difference_with_a_mean_counts_as_spread() -> None:
    """Swapping gives it both signs."""
    zero = torch.zeros(10, 1, dtype=torch.float64)
    assert pair_gaussian_w2((zero, zero), (zero, zero + 2)) == pytest.approx((2, 2), abs=1e-9)


def test_extrapolation_is_twice_the_whole_less_the_half() -> None:
    assert extrapolated([3.0, 1.0], [[4.0, 1.0], [6.0, 2.0]]) == [1.0, 0.5]


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_extrapolation_takes_the_bias_out(shift: float) -> None:
    """20 dimensions from 200 rows: the plug-in is 0.5 off, which is 20 % of the larger truth."""
    d, n, scale = 20, 200, 1.3
    truth = d * (scale - 1) ** 2 + d * shift**2
    plug_in, found = [], []
    for seed in range(60):
        x, y = normal(n, d, 2 * seed), scale * normal(n, d, 2 * seed + 1) + shift
        whole = gaussian_w2(x, y)
        plug_in.append(whole)
        found += extrapolated([whole], [[gaussian_w2(x[k::2], y[k::2])] for k in (0, 1)])
    error = np.std(found) / math.sqrt(60)
    assert np.mean(plug_in) - truth > 0.3
    assert np.mean(found) == pytest.approx(truth, abs=3 * error + 0.1 * (np.mean(plug_in) - truth))


@pytest.mark.parametrize("kept", [0, 2**28])
def test_moments_of_subsets_are_kept_and_those_of_the_subset(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", kept)
    rng = torch.Generator().manual_seed(0)
    x, y = ((torch.randn(30, 4, generator=rng), torch.randn(30, 4, generator=rng)) for _ in range(2))
    sides = SubsetMoments(x), SubsetMoments(y)
    subsets = [np.arange(30), np.arange(0, 30, 2), np.arange(7, 30), np.arange(30)]
    for one in subsets:
        for other in subsets:
            pairs = [(side[0][torch.from_numpy(i)], side[1][torch.from_numpy(i)]) for side, i in ((x, one), (y, other))]
            assert sides[0].of(one).distances(sides[1].of(other)) == pair_gaussian_w2(*pairs)
    assert len(sides[0]._kept) == (3 if kept else 1)
