"""Kernels block by block: closed forms under Gaussians, bandwidths, and the ladder."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics.kernels import (
    LADDER,
    SAMPLE,
    GaussianKernel,
    MatrixKernel,
    PairKernel,
    centred_norm,
    ladder_kernel,
    median_bandwidth,
    spread_rows,
)
from ssa_analysis.numerics.mmd import mmd_test

EVERY = slice(None)


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def values_of(kernel: GaussianKernel | PairKernel | MatrixKernel) -> Tensor:
    every = slice(0, kernel.rows)
    return kernel.block(every, every)


def written_out(x: Tensor, bandwidths: list[float], weights: list[float]) -> Tensor:
    squared = (x[:, None] - x[None]).square().sum(2)
    return sum((w * (-squared / (2 * b**2)).exp() for b, w in zip(bandwidths, weights, strict=True)), torch.zeros(()))


def test_a_gaussian_kernel_is_its_formula() -> None:
    x = normal(20, 3, 0) + 5
    kernel = GaussianKernel(x, [0.7, 2.0, 9.0], [1.0, 0.5, 3.0], centred=False)
    expected = written_out(x, [0.7, 2.0, 9.0], [1.0, 0.5, 3.0])
    torch.testing.assert_close(values_of(kernel), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kernel.block(slice(3, 7), slice(5, 20)), expected[3:7, 5:20], rtol=1e-12, atol=1e-12)


def test_weights_are_one_by_default() -> None:
    x = normal(9, 2, 0)
    torch.testing.assert_close(
        values_of(GaussianKernel(x, [1.0, 3.0], centred=False)), written_out(x, [1.0, 3.0], [1.0, 1.0]), rtol=1e-12, atol=0
    )


def test_centring_takes_a_constant_off() -> None:
    x = normal(200, 3, 0)
    gap = values_of(GaussianKernel(x, [1.5], centred=False)) - values_of(GaussianKernel(x, [1.5]))
    assert float(gap.max() - gap.min()) < 1e-14
    assert abs(float(values_of(GaussianKernel(x, [1.5])).mean())) < 1e-14


def test_a_block_is_memory_of_its_own() -> None:
    x = normal(8, 2, 0)
    for kernel in (GaussianKernel(x, [1.0]), PairKernel(x, x), MatrixKernel(x @ x.T)):
        before = values_of(kernel).clone()
        kernel.block(EVERY, EVERY).zero_()
        torch.testing.assert_close(values_of(kernel), before, rtol=0, atol=0)


def test_a_wide_kernel_keeps_its_digits_in_single_precision() -> None:
    x = normal(300, 8, 0)
    width = 64 * median_bandwidth(x)
    double, single = GaussianKernel(x, [width]), GaussianKernel(x.float(), [width])
    spread = float(values_of(double).std())
    assert float((values_of(single).double() - values_of(double)).std()) < 1e-4 * spread


def test_rows_far_from_the_origin_keep_their_distances_in_single_precision() -> None:
    x = normal(50, 8, 0).float()
    far = x + 1000
    expected = values_of(GaussianKernel((far - 1000).double(), [2.0]))
    torch.testing.assert_close(values_of(GaussianKernel(far, [2.0])).double(), expected, rtol=0, atol=1e-4)


def test_the_pair_kernel_is_the_frobenius_distance_of_cross_moments() -> None:
    """With all pairs kept (biased statistic), the squared MMD is |C_p - C_q|_F^2 exactly (rung R7)."""
    first, second = normal(50, 6, 0), normal(50, 6, 1) + 0.3
    values = values_of(PairKernel(first, second))
    difference = first[:30].T @ second[:30] / 30 - first[30:].T @ second[30:] / 20
    biased = values[:30, :30].mean() + values[30:, 30:].mean() - 2 * values[:30, 30:].mean()
    assert float(biased) == pytest.approx(float(difference.square().sum()), rel=1e-10)


def test_the_median_bandwidth_is_the_median_distance() -> None:
    x = normal(60, 4, 0)
    assert median_bandwidth(x) == pytest.approx(float(torch.nn.functional.pdist(x).median()), rel=1e-12)


def test_the_bandwidth_of_a_mostly_repeated_sample_is_the_mean_distance() -> None:
    x = torch.zeros(20, 2)
    x[0, 0] = 3
    assert median_bandwidth(x) == pytest.approx(3 * 19 / 190)


def test_a_collapsed_sample_has_no_bandwidth() -> None:
    with pytest.raises(MeasureError, match="collapsed"):
        median_bandwidth(torch.ones(10, 3))


def test_spread_rows_come_from_all_parts_of_a_sample() -> None:
    x = torch.arange(10_000)[:, None]
    chosen = spread_rows(x)[:, 0]
    assert len(chosen) == SAMPLE
    assert chosen[0] == 0
    assert chosen[-1] == 9999
    assert chosen.diff().min() >= 9
    assert chosen.diff().max() <= 11
    assert len(spread_rows(x, 3)) == 3
    assert spread_rows(x[:5]) is not None
    assert len(spread_rows(x[:5])) == 5


def gaussian_centred_norm(d: int, b2: float) -> float:
    """Of the Gaussian kernel of squared bandwidth ``b2`` under N(0, I)."""
    second, of_means, mean = b2 / (b2 + 4), b2**2 / ((b2 + 1) * (b2 + 3)), (b2 / (b2 + 2)) ** 2
    return math.sqrt(second ** (d / 2) - 2 * of_means ** (d / 2) + mean ** (d / 2))


@pytest.mark.parametrize("bandwidth", [0.5, 2.0, 20.0])
def test_the_centred_norm_is_its_closed_form_under_a_gaussian(bandwidth: float) -> None:
    kernel = GaussianKernel(normal(2000, 3, 0), [bandwidth])
    assert centred_norm(values_of(kernel)) == pytest.approx(gaussian_centred_norm(3, bandwidth**2), rel=0.05)


def test_the_centred_norm_has_no_bias_in_small_samples() -> None:
    squares = [centred_norm(values_of(GaussianKernel(normal(12, 2, seed), [1.0]))) ** 2 for seed in range(400)]
    mean = sum(squares) / 400
    error = math.sqrt(sum((s - mean) ** 2 for s in squares)) / 400
    assert mean == pytest.approx(gaussian_centred_norm(2, 1.0) ** 2, abs=3 * error)
    assert error < 0.1 * mean


def test_the_centred_norm_does_not_know_the_diagonal_or_a_constant() -> None:
    x = normal(30, 2, 0)
    values = values_of(GaussianKernel(x, [1.0]))
    expected = centred_norm(values)
    assert centred_norm(values + 7) == pytest.approx(expected, rel=1e-10)
    assert centred_norm(values + torch.diag(torch.arange(30.0))) == pytest.approx(expected, rel=1e-10)
    assert centred_norm(3 * values) == pytest.approx(3 * expected, rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(60, 60), (40, 120)])
@pytest.mark.parametrize("kernel", ["narrow", "median", "wide", "ladder"])
def test_the_null_spread_is_the_centred_norm(n: int, m: int, kernel: str) -> None:
    """``sqrt(2) (1/n + 1/m)`` times it. The ladder, a mean of kernels of norm one, has at most one."""
    found = []
    for seed in range(120):
        pooled = normal(n + m, 4, seed)
        median = median_bandwidth(pooled)
        factor = {"narrow": 0.25, "median": 1.0, "wide": 16.0, "ladder": 1.0}[kernel]
        used = ladder_kernel(pooled, median) if kernel == "ladder" else GaussianKernel(pooled, [factor * 2.7])
        found.append(mmd_test(used, n, permutations=1).value)
    spread = torch.tensor(found).std().item()
    assert abs(sum(found) / 120) < 4 * spread / math.sqrt(120)
    scale = math.sqrt(2) * (1 / n + 1 / m)
    if kernel == "ladder":
        assert 0.5 * scale < spread < 1.2 * scale
    else:
        assert spread == pytest.approx(scale * gaussian_centred_norm(4, (factor * 2.7) ** 2), rel=0.25)


def test_the_ladder_does_not_change_when_everything_is_scaled() -> None:
    pooled = torch.cat([normal(50, 4, 0), normal(60, 4, 1) + 0.4])
    median = median_bandwidth(pooled)
    one = mmd_test(ladder_kernel(pooled, median), 50, permutations=49)
    ten = mmd_test(ladder_kernel(10 * pooled, median_bandwidth(10 * pooled)), 50, permutations=49)
    assert ten.value == pytest.approx(one.value, rel=1e-9)
    assert ten.stderr == pytest.approx(one.stderr, rel=1e-9)
    assert ten.p_value == one.p_value


def test_the_ladder_divides_every_kernel_by_its_norm() -> None:
    pooled = normal(80, 4, 0)
    median = median_bandwidth(pooled)
    kernel = ladder_kernel(pooled, median)
    assert kernel.bandwidths == pytest.approx([factor * median for factor in LADDER])
    assert all(w > 0 for w in kernel.weights)
    for width, weight in zip(kernel.bandwidths, kernel.weights, strict=True):
        assert weight * len(LADDER) * centred_norm(values_of(GaussianKernel(pooled, [width]))) == pytest.approx(1, rel=1e-9)


def test_kernels_that_are_constant_on_the_sample_are_left_out_of_the_ladder() -> None:
    pooled = normal(50, 4, 0)
    kernel = ladder_kernel(pooled, 0.01 * float(torch.nn.functional.pdist(pooled).min()))
    assert 0 < len(kernel.bandwidths) < len(LADDER)
    with pytest.raises(MeasureError, match="constant"):
        ladder_kernel(pooled, 1e-6)


def test_the_ladder_needs_four_rows() -> None:
    with pytest.raises(MeasureError, match="at least 4"):
        ladder_kernel(normal(3, 2, 0), 1.0)
