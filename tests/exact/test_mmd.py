"""MMD against brute force, against closed forms for Gaussians, and as a test: level, power, and size."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from processes import run_script
from torch import Tensor
from torch.nn.functional import normalize

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics import mmd
from ssa_analysis.numerics.bures import pair_coordinates
from ssa_analysis.numerics.kernels import (
    LADDER,
    BlockKernel,
    GaussianKernel,
    MatrixKernel,
    PairKernel,
    ladder_kernel,
    median_bandwidth,
)
from ssa_analysis.numerics.mmd import MMDResult, mmd_test, stratified_mmd
from ssa_analysis.numerics.resampling import jackknife_stderr

DRAWS = 500
# of 500 draws at 5 %: 25 expected; outside of this with a chance of 1e-3 on either side
LEVEL = (11, 41)


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def brute_force(kernel: Tensor, in_x: list[bool], blocks: list[int] | None = None) -> float:
    """The double sum, pairs of equal blocks left out."""
    k, ids = kernel.tolist(), blocks or list(range(len(in_x)))
    sums, counts = {}, {}
    for i, side in enumerate(in_x):
        for j, other in enumerate(in_x):
            if side != other or ids[i] != ids[j]:
                sums[side, other] = sums.get((side, other), 0.0) + k[i][j]
                counts[side, other] = counts.get((side, other), 0) + 1
    mean = {key: sums[key] / counts[key] for key in sums}
    return mean[True, True] + mean[False, False] - 2 * mean[True, False]


def sample(n: int, m: int) -> tuple[Tensor, list[bool]]:
    return torch.cat([normal(n, 3, 0), normal(m, 3, 1) + 0.5]), [True] * n + [False] * m


# rows of a block lie apart from each other, and sides have blocks of other sizes
BLOCKS = {
    "single rows": (12, 9, None),
    "equal blocks": (12, 9, [0, 1, 2, 3] * 3 + [4, 5, 6] * 3),
    "unequal blocks": (12, 9, [7, 7, 3, 3, 3, 9, 1, 1, 7, 1, 9, 1, 20, 20, 21, 21, 21, 21, 22, 20, 23]),
    "few on one side": (15, 3, [0, 0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 6, 6, 6, 6, 17, 16, 15]),
}


def blocks_of(name: str) -> tuple[int, int, list[int] | None, Tensor | None]:
    n, m, ids = BLOCKS[name]
    return n, m, ids, None if ids is None else torch.tensor(ids)


@pytest.fixture(params=[(2048, 256), (5, 2), (7, 7), (1, 1)], ids=str)
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmd, "TILE", request.param[0])
    monkeypatch.setattr(mmd, "STRIP", request.param[1])


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("name", BLOCKS)
def test_the_statistic_is_the_double_sum(name: str) -> None:
    n, m, ids, blocks = blocks_of(name)
    pooled, in_x = sample(n, m)
    kernel = GaussianKernel(pooled, [1.3], centred=False)
    values = kernel.block(slice(0, n + m), slice(0, n + m))
    found = mmd_test(kernel, n, permutations=1, blocks=blocks)
    assert found.value == pytest.approx(brute_force(values, in_x, ids), abs=1e-10)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("name", BLOCKS)
def test_permutations_are_the_double_sum_of_permuted_blocks(name: str) -> None:
    n, m, ids, blocks = blocks_of(name)
    pooled, in_x = sample(n, m)
    kernel = GaussianKernel(pooled, [1.3], centred=False)
    values = kernel.block(slice(0, n + m), slice(0, n + m))
    result = mmd_test(kernel, n, permutations=6, seed=4, blocks=blocks)
    rng = torch.Generator().manual_seed(4)
    numbers = ids or list(range(n + m))
    names = sorted(set(numbers))
    side_of = dict(zip(numbers, in_x, strict=True))
    labels = torch.tensor([side_of[b] for b in names])
    for value in result.null:
        shuffled = dict(zip(names, labels[torch.randperm(len(names), generator=rng)].tolist(), strict=True))
        assert value == pytest.approx(brute_force(values, [shuffled[b] for b in numbers], ids), abs=1e-10)
    assert result.p_value == (1 + int((result.null >= result.value).sum())) / 7


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("name", BLOCKS)
def test_the_error_is_the_jackknife_written_out(name: str) -> None:
    n, m, ids, blocks = blocks_of(name)
    pooled, in_x = sample(n, m)
    kernel = GaussianKernel(pooled, [1.0], centred=False)
    values = kernel.block(slice(0, n + m), slice(0, n + m))
    numbers = ids or list(range(n + m))
    without: dict[bool, list[float]] = {True: [], False: []}
    for left_out in sorted(set(numbers)):
        keep = [i for i in range(n + m) if numbers[i] != left_out]
        rest = brute_force(values[keep][:, keep], [in_x[i] for i in keep], [numbers[i] for i in keep])
        without[in_x[numbers.index(left_out)]].append(rest)
    expected = math.hypot(*(jackknife_stderr(np.array(side)) for side in without.values()))
    assert mmd_test(kernel, n, permutations=1, blocks=blocks).stderr == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_constant_added_to_the_kernel_changes_nothing(name: str) -> None:
    n, m, _, blocks = blocks_of(name)
    pooled, _ = sample(n, m)
    every = slice(0, n + m)
    plain = GaussianKernel(pooled, [1.3], centred=False)
    results = [
        mmd_test(kernel, n, permutations=20, blocks=blocks)
        for kernel in (plain, GaussianKernel(pooled, [1.3]), MatrixKernel(plain.block(every, every) + 3))
    ]
    for other in results[1:]:
        assert other.value == pytest.approx(results[0].value, abs=1e-12)
        assert other.stderr == pytest.approx(results[0].stderr, abs=1e-12)
        np.testing.assert_allclose(other.null, results[0].null, atol=1e-12)


def test_the_numbers_of_blocks_are_only_names() -> None:
    n, m, _, blocks = blocks_of("unequal blocks")
    assert blocks is not None
    pooled, _ = sample(n, m)
    one, other = (mmd_test(GaussianKernel(pooled, [1.0]), n, permutations=9, blocks=b) for b in (blocks, 1000 * blocks - 5000))
    assert one.value == other.value
    assert one.null.tolist() == other.null.tolist()


def test_the_seed_moves_the_null_alone() -> None:
    pooled, _ = sample(20, 20)
    one, same, other = (mmd_test(GaussianKernel(pooled, [1.0]), 20, permutations=9, seed=s) for s in (0, 0, 1))
    assert one.null.tolist() == same.null.tolist()
    assert one.value == other.value
    assert one.null.tolist() != other.null.tolist()


@pytest.mark.parametrize("factor", [*LADDER, 0.0])
def test_single_precision_moves_the_statistic_by_little_of_its_null(factor: float) -> None:
    """Unit rows in 64 dimensions, whose wide kernels are all but constant; factor 0 stands for the ladder."""
    pooled = normalize(normal(1200, 64, 0) + 0.5, dim=1)
    median = median_bandwidth(pooled)

    def kernel(x: Tensor) -> BlockKernel:
        return GaussianKernel(x, [factor * median]) if factor else ladder_kernel(x, median)

    double, single = (mmd_test(kernel(x), 600, permutations=50) for x in (pooled, pooled.float()))
    spread = double.null.std(ddof=1)
    assert abs(single.value - double.value) < 1e-3 * spread
    assert np.abs(single.null - double.null).max() < 1e-3 * spread
    assert single.stderr == pytest.approx(double.stderr, rel=1e-3)


def test_single_precision_is_enough_for_pairs_in_a_narrow_cone_and_sides_of_different_size() -> None:
    """The kernel is all but 1 everywhere, and nothing is taken off it."""
    first = normalize(normal(4500, 64, 0) + 5, dim=1)
    second = normalize(first + 0.05 * normal(4500, 64, 1), dim=1)
    double, single = (
        mmd_test(PairKernel(first.to(t), second.to(t)), 3000, permutations=30) for t in (torch.float64, torch.float32)
    )
    spread = double.null.std(ddof=1)
    assert abs(single.value - double.value) < 5e-3 * spread
    assert np.abs(single.null - double.null).max() < 5e-3 * spread
    assert single.stderr == pytest.approx(double.stderr, rel=1e-3)


def gaussian_mean(d: int, b2: float, variance: float, distance: float = 0.0) -> float:
    """``E k(x, y)`` where x - y is normal with variance ``variance`` I and a mean of length ``distance``."""
    return (b2 / (b2 + variance)) ** (d / 2) * math.exp(-(distance**2) / (2 * (b2 + variance)))


@pytest.mark.parametrize(("mean", "scale"), [(1.0, 1.0), (0.0, 2.0), (0.7, 0.4)])
def test_the_estimate_has_the_closed_form_for_gaussians_as_its_mean(mean: float, scale: float) -> None:
    d, b2 = 3, 1.5**2
    truth = gaussian_mean(d, b2, 2) + gaussian_mean(d, b2, 2 * scale**2) - 2 * gaussian_mean(d, b2, 1 + scale**2, mean)
    values = []
    for seed in range(100):
        x, y = normal(100, d, 2 * seed), scale * normal(80, d, 2 * seed + 1)
        y[:, 0] += mean
        values.append(mmd_test(GaussianKernel(torch.cat([x, y]), [1.5]), 100, permutations=1).value)
    error = np.std(values) / 10
    assert np.mean(values) == pytest.approx(truth, abs=3.5 * error)
    assert error < 0.05 * truth


def rejections(draw: str, blocked: bool = True) -> int:
    """Of 500 draws of one law on both sides."""
    count = 0
    for seed in range(DRAWS):
        blocks = None
        if draw == "five rows an image":
            images = normal(40, 3, seed).repeat_interleave(5, dim=0)
            pooled = images + 0.3 * normal(200, 3, DRAWS + seed)
            blocks = torch.arange(40).repeat_interleave(5) if blocked else None
            n = 100
        else:
            n, pooled = 20, normal(45, 4, seed)
        if draw == "ladder":
            kernel: BlockKernel = ladder_kernel(pooled, median_bandwidth(pooled))
        elif draw == "pairs":
            kernel = PairKernel(pooled, pooled + normal(45, 4, DRAWS + seed))
        else:
            kernel = GaussianKernel(pooled, [2.0])
        count += mmd_test(kernel, n, permutations=99, seed=seed, blocks=blocks).p_value <= 0.05
    return count


@pytest.mark.parametrize("draw", ["single rows", "ladder", "pairs", "five rows an image"])
def test_a_true_null_is_rejected_at_its_level(draw: str) -> None:
    assert LEVEL[0] <= rejections(draw) <= LEVEL[1]


def test_rows_of_an_image_taken_for_independent_reject_nearly_always() -> None:
    assert rejections("five rows an image", blocked=False) > 0.8 * DRAWS


def dependent_pairs(n: int, correlation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of unit vectors with uniform marginals whatever the dependence."""
    z, noise = normal(n, 16, seed), normal(n, 16, seed + 1)
    return normalize(z, dim=1), normalize(correlation * z + math.sqrt(1 - correlation**2) * noise, dim=1)


def median_test(x: Tensor, y: Tensor) -> MMDResult:
    pooled = torch.cat([x, y])
    return mmd_test(GaussianKernel(pooled, [median_bandwidth(pooled)]), len(x), permutations=199)


@pytest.mark.parametrize("n", [200, 500])
def test_a_shift_of_dependence_alone_is_seen_by_the_difference_and_the_cross_moment(n: int) -> None:
    """The trap: equal marginals, other dependence. The joint kernel with the median bandwidth is the blind one."""
    first, second = dependent_pairs(n, 0.3, 100), dependent_pairs(n, 0.0, 110)
    cross = mmd_test(PairKernel(*(torch.cat([a, b]) for a, b in zip(first, second, strict=True))), n, permutations=199)
    assert median_test(pair_coordinates(*first)[1], pair_coordinates(*second)[1]).p_value == 1 / 200
    assert cross.p_value == 1 / 200
    assert median_test(first[0], second[0]).p_value > 0.05
    assert median_test(torch.cat(first, dim=1), torch.cat(second, dim=1)).p_value > 0.05


def test_a_shift_of_the_marginal_is_seen_by_the_marginal() -> None:
    x, y = normalize(normal(200, 16, 0), dim=1), normalize(normal(200, 16, 1) + 0.15, dim=1)
    assert median_test(x, y).p_value == 1 / 200


def test_strata_are_a_weighted_mean() -> None:
    pooled, _ = sample(20, 20)
    parts = [mmd_test(GaussianKernel(pooled + k, [1.0 + k]), 20, permutations=39, seed=k) for k in range(3)]
    weights = np.array([0.5, 0.3, 0.2])
    found = stratified_mmd(parts, weights)
    assert found.value == pytest.approx(sum(w * p.value for w, p in zip(weights, parts, strict=True)))
    assert found.stderr == pytest.approx(np.sqrt(sum((w * p.stderr) ** 2 for w, p in zip(weights, parts, strict=True))))
    np.testing.assert_allclose(found.null, weights @ np.stack([p.null for p in parts]))
    assert found.p_value == (1 + (found.null >= found.value).sum()) / 40


def test_strata_whose_shares_differ_are_no_shift() -> None:
    """A third of one class here, two thirds there: pooled rows differ, rows of a class do not."""
    within, pooled = 0, 0
    for seed in range(100):
        x = [normal(30, 2, 4 * seed), normal(15, 2, 4 * seed + 1) + 4]
        y = [normal(15, 2, 4 * seed + 2), normal(30, 2, 4 * seed + 3) + 4]
        parts = [
            mmd_test(GaussianKernel(torch.cat([a, b]), [2.0]), len(a), permutations=59, seed=seed)
            for a, b in zip(x, y, strict=True)
        ]
        within += stratified_mmd(parts, np.array([1 / 3, 2 / 3])).p_value <= 0.05
        pooled += mmd_test(GaussianKernel(torch.cat([*x, *y]), [2.0]), 45, permutations=59, seed=seed).p_value <= 0.05
    assert within <= 14
    assert pooled > 60


def test_z_is_the_value_in_deviations_of_its_null() -> None:
    null = np.array([-1.0, 0.0, 1.0, 2.0])
    assert MMDResult(3.0, 0.1, 0.2, null).z == pytest.approx((3 - 0.5) / null.std(ddof=1))
    assert math.isnan(MMDResult(3.0, 0.1, 0.5, np.array([1.0])).z)
    assert math.isnan(MMDResult(3.0, 0.1, 0.5, np.zeros(10)).z)


def test_too_few_independent_rows_are_refused() -> None:
    with pytest.raises(MeasureError, match="at least 3"):
        mmd_test(MatrixKernel(torch.eye(5)), 2)
    with pytest.raises(MeasureError, match="at least 3 independent samples on each side, got 3 and 2"):
        mmd_test(MatrixKernel(torch.eye(12)), 6, blocks=torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4]))


def test_a_block_on_both_sides_is_refused() -> None:
    with pytest.raises(MeasureError, match="both samples"):
        mmd_test(MatrixKernel(torch.eye(10)), 5, blocks=torch.tensor([0, 1, 2, 3, 4, 4, 5, 6, 7, 8]))


def test_a_block_for_every_row_is_asked_for() -> None:
    with pytest.raises(MeasureError, match=r"blocks must be \(10,\)"):
        mmd_test(MatrixKernel(torch.eye(10)), 5, blocks=torch.arange(9))


SCALE = """
import re, sys, torch
from ssa_analysis.numerics.kernels import GaussianKernel
from ssa_analysis.numerics.mmd import mmd_test

def peak():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1]) / 2**20

torch.set_num_threads(1)
n = int(sys.argv[1])
pooled = torch.randn(2 * n, 64, generator=torch.Generator().manual_seed(0))
mmd_test(GaussianKernel(pooled[:20], [8.0]), 10, permutations=10)
before = peak()
result = mmd_test(GaussianKernel(pooled, [8.0]), n, permutations=100)
print(peak() - before, result.p_value, result.z)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("n", [10, 10_000])
def test_a_large_sample_needs_little_memory(n: int) -> None:
    """The kernel of 20,000 rows would be 1.6 GB in single precision; a third of it would be seen, and it takes a twentieth."""
    done = run_script(SCALE, n)
    assert done.returncode == 0, done.stderr
    growth, p_value, z = map(float, done.stdout.split())
    assert growth < 0.5
    assert 0 < p_value <= 1
    assert abs(z) < 5
