"""MMD against brute force, against closed forms for Gaussians, and as a test: level and power."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssa_analysis.errors import MeasureError
from ssa_analysis.measures.shift import coordinates
from ssa_analysis.numerics.mmd import median_bandwidth, mmd_test, pair_kernel, rbf_kernel
from ssa_analysis.numerics.resampling import jackknife_stderr


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def brute_force(kernel: Tensor, n: int) -> float:
    k = kernel.numpy()
    m = len(k) - n
    xx = sum(k[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k[i, j] for i in range(n, n + m) for j in range(n, n + m) if i != j) / (m * (m - 1))
    xy = sum(k[i, j] for i in range(n) for j in range(n, n + m)) / (n * m)
    return xx + yy - 2 * xy


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 9), (12, 3)])
def test_the_statistic_is_the_double_sum(n: int, m: int) -> None:
    pooled = torch.cat([normal(n, 3, 0), normal(m, 3, 1) + 0.5])
    kernel = rbf_kernel(pooled, pooled, 1.3)
    assert mmd_test(kernel, n, permutations=1).value == pytest.approx(brute_force(kernel, n), abs=1e-12)


def test_permutations_are_the_double_sum_of_the_permuted_sample() -> None:
    n, m, seed = 5, 7, 4
    pooled = torch.cat([normal(n, 3, 0), normal(m, 3, 1) + 0.5])
    kernel = rbf_kernel(pooled, pooled, 1.3)
    result = mmd_test(kernel, n, permutations=6, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.ones(n), -torch.ones(m)])
    for value in result.null:
        mask = labels[torch.randperm(n + m, generator=rng)]
        order = torch.cat([(mask > 0).nonzero()[:, 0], (mask < 0).nonzero()[:, 0]])
        assert value == pytest.approx(brute_force(kernel[order][:, order], n), abs=1e-12)


def test_the_error_is_the_jackknife_written_out() -> None:
    n, m = 8, 6
    pooled = torch.cat([normal(n, 2, 0), normal(m, 2, 1) + 1])
    kernel = rbf_kernel(pooled, pooled, 1.0)
    loo = []
    for left_out in range(n + m):
        keep = [i for i in range(n + m) if i != left_out]
        loo.append(brute_force(kernel[keep][:, keep], n - (left_out < n)))
    expected = math.hypot(jackknife_stderr(np.array(loo[:n])), jackknife_stderr(np.array(loo[n:])))
    assert mmd_test(kernel, n, permutations=1).stderr == pytest.approx(expected, rel=1e-10)


def gaussian_mmd2(mean: float, d: int, bandwidth: float) -> float:
    """Squared MMD between N(0, I) and N(mean e_1, I) in d dimensions under the Gaussian kernel."""
    b2 = bandwidth**2
    same = (b2 / (b2 + 2)) ** (d / 2)
    return 2 * same * (1 - math.exp(-(mean**2) / (2 * (b2 + 2))))


def test_the_estimate_covers_the_closed_form_for_gaussians() -> None:
    truth = gaussian_mmd2(1.0, 3, 1.5)
    inside, values = 0, []
    for seed in range(60):
        x, y = normal(150, 3, 2 * seed), normal(120, 3, 2 * seed + 1)
        y[:, 0] += 1.0
        pooled = torch.cat([x, y])
        result = mmd_test(rbf_kernel(pooled, pooled, 1.5), 150, permutations=1)
        values.append(result.value)
        inside += abs(result.value - truth) <= 1.96 * result.stderr
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / math.sqrt(60))
    assert inside >= 51  # 85 % of a nominal 95 %


def test_a_true_null_is_rejected_at_its_level() -> None:
    rejected = 0
    for seed in range(300):
        pooled = normal(40, 2, seed)
        rejected += mmd_test(rbf_kernel(pooled, pooled, 1.0), 20, permutations=99, seed=seed).p_value <= 0.05
    # binomial(300, 0.05): 15 expected, 26 is the 99.7 % point
    assert 4 <= rejected <= 26


def dependent_pairs(n: int, correlation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of unit vectors with uniform marginals whatever the dependence."""
    z, noise = normal(n, 16, seed), normal(n, 16, seed + 1)
    return normalize(z, dim=1), normalize(correlation * z + math.sqrt(1 - correlation**2) * noise, dim=1)


def test_a_shift_of_dependence_alone_is_seen_by_the_difference_and_the_cross_moment() -> None:
    """The trap: equal marginals, other dependence. The joint kernel with the median bandwidth is the blind one."""
    first, second = dependent_pairs(200, 0.9, 0), dependent_pairs(200, 0.0, 10)
    p_values = {}
    x, y = coordinates(first), coordinates(second)
    for name in x:
        pooled = torch.cat([x[name], y[name]])
        p_values[name] = mmd_test(rbf_kernel(pooled, pooled, median_bandwidth(pooled)), 200, permutations=199).p_value
    both = tuple(torch.cat([a, b]) for a, b in zip(first, second, strict=True))
    p_values["cross_moment"] = mmd_test(pair_kernel(both, both), 200, permutations=199).p_value
    assert p_values["difference"] == 1 / 200
    assert p_values["cross_moment"] == 1 / 200
    assert p_values["marginal"] > 0.05


def test_the_pair_kernel_is_the_frobenius_distance_of_cross_moments() -> None:
    """With all pairs kept (biased statistic), the squared MMD is |C_p - C_q|_F^2 exactly (rung R7)."""
    (z, z_plus), (w, w_plus) = dependent_pairs(30, 0.8, 0), dependent_pairs(20, 0.1, 5)
    difference = z.T @ z_plus / 30 - w.T @ w_plus / 20
    biased = (
        pair_kernel((z, z_plus), (z, z_plus)).mean()
        + pair_kernel((w, w_plus), (w, w_plus)).mean()
        - 2 * pair_kernel((z, z_plus), (w, w_plus)).mean()
    )
    assert float(biased) == pytest.approx(float(difference.square().sum()), rel=1e-10)


def test_a_collapsed_sample_has_no_bandwidth() -> None:
    with pytest.raises(MeasureError, match="collapsed"):
        median_bandwidth(torch.ones(10, 3))


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(MeasureError, match="at least 3"):
        mmd_test(torch.eye(5), 2)
