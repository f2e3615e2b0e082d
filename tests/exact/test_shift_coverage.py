"""The errors of the distances between laws, over many draws whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scale import often
from torch import Tensor

from ssa_analysis.numerics.bures import SubsetMoments, extrapolated, gaussian_w2
from ssa_analysis.numerics.kernels import GaussianKernel, PairKernel
from ssa_analysis.numerics.mmd import mmd_test
from ssa_analysis.numerics.resampling import Interval, group_jackknife
from ssa_analysis.numerics.sliced import floored_sliced, max_sliced_wasserstein2, random_directions
from ssa_analysis.numerics.transport import exact_distance, floored_distance

DRAWS = often(100, 200)
ENOUGH = 0.87 * DRAWS  # intervals at 95 %; fewer than 174 of 200 have a chance of 1e-4 at 93 %


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def check(name: str, truth: float | np.ndarray, found: list[Interval]) -> None:
    """Enough intervals around the truth, and errors that are no larger than they must be."""
    values, errors, low, high = (np.array([getattr(i, part) for i in found]) for part in ("value", "stderr", "low", "high"))
    inside = int(((low <= truth) & (truth <= high)).sum())
    actual = float(np.sqrt(np.mean(np.square(values - truth))))
    said = f"{name}: {inside} of {len(found)} inside, mean error {errors.mean() / actual:.2f} of the actual one"
    assert inside >= ENOUGH, said
    assert 0.8 * actual < errors.mean() < 1.6 * actual, said


def normal_interval(value: float, stderr: float) -> Interval:
    return Interval(value, stderr, value - 1.96 * stderr, value + 1.96 * stderr)


@pytest.mark.parametrize(("mean", "scale"), [(0.3, 1.0), (1.0, 1.0), (0.0, 1.5)])
def test_mmd(mean: float, scale: float) -> None:
    d, b2 = 3, 1.5**2

    def expected(variance: float, distance: float = 0.0) -> float:
        return float((b2 / (b2 + variance)) ** (d / 2) * math.exp(-(distance**2) / (2 * (b2 + variance))))

    truth = expected(2) + expected(2 * scale**2) - 2 * expected(1 + scale**2, mean)
    found = []
    for seed in range(DRAWS):
        x, y = normal(150, d, 2 * seed), scale * normal(120, d, 2 * seed + 1)
        y[:, 0] += mean
        result = mmd_test(GaussianKernel(torch.cat([x, y]), [1.5]), 150, permutations=1)
        found.append(normal_interval(result.value, result.stderr))
    check(f"mmd, mean {mean}, scale {scale}", truth, found)


def test_mmd_of_five_rows_an_image() -> None:
    """Rows are an image and noise: in law normal, with the closed form of independent ones."""
    b2, variance = 4.0, 1 + 0.3**2
    same = (b2 / (b2 + 2 * variance)) ** 1.5
    truth = 2 * same * (1 - math.exp(-1 / (2 * (b2 + 2 * variance))))
    found, naive = [], []
    blocks = torch.arange(100).repeat_interleave(5)
    for seed in range(DRAWS):
        pooled = normal(100, 3, seed).repeat_interleave(5, dim=0) + 0.3 * normal(500, 3, DRAWS + seed)
        pooled[250:, 0] += 1
        for given, intervals in ((blocks, found), (None, naive)):
            result = mmd_test(GaussianKernel(pooled, [2.0]), 250, permutations=1, blocks=given)
            intervals.append(normal_interval(result.value, result.stderr))
    check("mmd in blocks", truth, found)
    assert sum(i.low <= truth <= i.high for i in naive) < ENOUGH


def pairs(n: int, correlation: float, seed: int, d: int = 8) -> tuple[Tensor, Tensor]:
    z, noise = normal(n, d, seed), normal(n, d, seed + 1)
    return z, correlation * z + math.sqrt(1 - correlation**2) * noise


def test_mmd_of_the_cross_moment() -> None:
    found = []
    for seed in range(DRAWS):
        x, y = pairs(120, 0.8, 4 * seed), pairs(120, 0.2, 4 * seed + 2)
        kernel = PairKernel(*(torch.cat([a, b]) for a, b in zip(x, y, strict=True)))
        result = mmd_test(kernel, 120, permutations=1)
        found.append(normal_interval(result.value, result.stderr))
    check("cross moment", 8 * 0.6**2, found)


def debiased(plug_in: Callable[[list[np.ndarray]], float]) -> Callable[[list[np.ndarray]], float]:
    """As the measure does it: halves by the parity of a row's number."""

    def value(index: list[np.ndarray]) -> float:
        halves = [[plug_in([i[i % 2 == half] for i in index])] for half in (0, 1)]
        return extrapolated([plug_in(index)], halves)[0]

    return value


def deviations(correlation: float) -> np.ndarray:
    return np.sqrt([1 + correlation, 1 - correlation])


@pytest.mark.parametrize(("correlation", "other"), [(0.9, 0.2), (0.5, 0.3)])
def test_gaussian_distance_of_pairs(correlation: float, other: float) -> None:
    truth = 8 * float(np.square(deviations(correlation) - deviations(other)).sum())
    found = []
    for seed in range(DRAWS):
        x, y = pairs(200, correlation, 4 * seed), pairs(150, other, 4 * seed + 2)

        sides = SubsetMoments(x), SubsetMoments(y)

        def plug_in(index: list[np.ndarray], sides: tuple[SubsetMoments, SubsetMoments] = sides) -> float:
            return sum(sides[0].of(index[0]).distances(sides[1].of(index[1])))

        found.append(group_jackknife(debiased(plug_in), [200, 150], 10, seed)[0])
    check(f"gaussian, correlations {correlation} and {other}", truth, found)


def test_gaussian_distance_of_marginals() -> None:
    d, scale, shift = 8, 1.3, 0.3
    found = []
    for seed in range(DRAWS):
        x, y = normal(200, d, 2 * seed), scale * normal(150, d, 2 * seed + 1) + shift

        def plug_in(index: list[np.ndarray], x: Tensor = x, y: Tensor = y) -> float:
            return gaussian_w2(x[index[0]], y[index[1]])

        found.append(group_jackknife(debiased(plug_in), [200, 150], 10, seed)[0])
    check("gaussian, marginals", d * ((scale - 1) ** 2 + shift**2), found)


def halves_of(index: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    one, other = (torch.from_numpy(i % 2 == 0) for i in index)
    return one, other


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.3, 0.3)])
def test_floored_sliced_distance_along_its_directions(scale: float, shift: float) -> None:
    """Along one direction, normal laws differ by mean and deviation. The interval is for the directions drawn."""
    d, projections = 5, 20
    truths, found = [], []
    for seed in range(DRAWS):
        x, y = normal(150, d, 2 * seed), scale * normal(120, d, 2 * seed + 1) + shift

        def sliced(index: list[np.ndarray], x: Tensor = x, y: Tensor = y, seed: int = seed) -> float:
            return floored_sliced(x[index[0]], y[index[1]], halves_of(index), projections=projections, seed=seed).value

        found.append(group_jackknife(sliced, [150, 120], 10, seed)[0])
        along = random_directions(d, projections, seed).sum(1) * shift
        truths.append(float(along.square().mean()) + (scale - 1) ** 2)
    check(f"sliced, scale {scale}, shift {shift}", np.array(truths), found)


def test_max_sliced_distance_of_a_shifted_mean() -> None:
    found = []
    for seed in range(DRAWS):
        x, y = normal(200, 4, 2 * seed), normal(200, 4, 2 * seed + 1)
        y[:, 0] += 1.5

        def largest(index: list[np.ndarray], x: Tensor = x, y: Tensor = y) -> float:
            return max_sliced_wasserstein2(x[index[0]], y[index[1]], halves_of(index), starts=0, steps=5).value

        found.append(group_jackknife(largest, [200, 200], 5, seed)[0])
    check("max-sliced", 1.5**2, found)


def test_floored_exact_distance_of_a_translation() -> None:
    """Squared distances, whose floor a translation leaves as it is."""
    found = []
    for seed in range(DRAWS):
        x, y = normal(192, 3, 2 * seed), normal(192, 3, 2 * seed + 1) + 1
        found.append(floored_distance(x, y, lambda a, b: exact_distance(a, b, 2), 16).difference)
    check("exact, squared", 3, found)


def test_group_jackknife_of_a_difference_of_means() -> None:
    rng = np.random.default_rng(0)
    found = []
    for seed in range(DRAWS):
        x, y = rng.exponential(size=100), 2 * rng.exponential(size=60)
        found.append(group_jackknife(lambda i, x=x, y=y: float(x[i[0]].mean() - y[i[1]].mean()), [100, 60], 20, seed)[0])
    check("group jackknife", -1, found)


def test_group_jackknife_of_a_mean_is_its_standard_error() -> None:
    """With as many groups as rows, exactly; with 20, to the noise of a standard deviation from 20."""
    x = np.random.default_rng(0).normal(size=400)
    classical = x.std(ddof=1) / 20
    exact, without = group_jackknife(lambda i: float(x[i[0]].mean()), [400], 400)
    assert exact.value == pytest.approx(x.mean())
    assert exact.stderr == pytest.approx(classical, rel=1e-9)
    assert len(without[0]) == 400
    y = 3 * x[:50]
    both, _ = group_jackknife(lambda i: float(x[i[0]].mean() - y[i[1]].mean()), [400, 50], 400)
    assert both.stderr == pytest.approx(math.hypot(classical, y.std(ddof=1) / math.sqrt(50)), rel=1e-9)
    assert (both.high - both.low) / 2 == pytest.approx(2.0096 * both.stderr, rel=1e-3)  # Student's of 49
    errors = [group_jackknife(lambda i: float(x[i[0]].mean()), [400], 20, seed)[0].stderr for seed in range(50)]
    assert np.mean(errors) == pytest.approx(classical, rel=0.1)
    assert np.std(errors) > 0.01 * classical


def test_group_jackknife_keeps_every_row_in_turn() -> None:
    """Every row is left out once, and rows stay in order."""
    seen: list[list[np.ndarray]] = []
    group_jackknife(lambda index: float(len(seen.append(index) or index)), [7, 25], 10, 3)  # type: ignore[func-returns-value]
    assert [len(i) for i in seen[0]] == [7, 25]
    first, second = seen[1:8], seen[8:]
    assert len(second) == 10
    assert all(len(index[1]) == 25 for index in first)
    assert all(len(index[0]) == 7 for index in second)
    for side, size, group in ((first, 7, 0), (second, 25, 1)):
        left_out = np.concatenate([np.setdiff1d(np.arange(size), index[group]) for index in side])
        assert sorted(left_out) == list(range(size))
        assert all((np.diff(index[group]) > 0).all() for index in side)
