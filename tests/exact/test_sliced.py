"""Sliced and max-sliced distances: exact on every slice, centred where nothing differs, and what they find."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssa_analysis.numerics import sliced
from ssa_analysis.numerics.sliced import (
    find_direction,
    floored_sliced,
    max_sliced_wasserstein2,
    random_directions,
    slice_distances,
    slice_floors,
    sliced_wasserstein2,
)
from ssa_analysis.numerics.transport import transport_lp

SEEDS = 200


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 9), seed=st.integers(0, 10_000))
def test_on_the_line_it_is_the_exact_distance(n: int, m: int, seed: int) -> None:
    x, y = normal(n, 1, seed), normal(m, 1, seed + 1)
    expected = transport_lp(np.full(n, 1 / n), np.full(m, 1 / m), (x - y.T).square().numpy())
    value, error = sliced_wasserstein2(x, y, projections=3, seed=seed)
    assert value == pytest.approx(expected, rel=1e-7, abs=1e-9)
    assert error == pytest.approx(0, abs=1e-12)


def test_it_is_the_mean_over_the_directions() -> None:
    x, y = normal(12, 3, 0), 2 * normal(12, 3, 1) + 1
    slices = [(np.sort(x.numpy() @ t) - np.sort(y.numpy() @ t)) for t in random_directions(3, 7, 4).numpy()]
    squares = np.array([np.square(s).mean() for s in slices])
    value, error = sliced_wasserstein2(x, y, projections=7, seed=4)
    assert value == pytest.approx(squares.mean(), rel=1e-12)
    assert error == pytest.approx(squares.std(ddof=1) / math.sqrt(7), rel=1e-12)


def test_directions_are_sorted_in_parts_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(12, 3, 0), normal(17, 3, 1)
    whole = sliced_wasserstein2(x, y, projections=10)
    monkeypatch.setattr(sliced, "TOGETHER", 40)
    assert sliced_wasserstein2(x, y, projections=10) == pytest.approx(whole, rel=1e-12)


def test_a_translation_has_its_squared_length_over_the_dimension() -> None:
    x, shift = normal(60, 4, 0), torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
    value, error = sliced_wasserstein2(x, x + shift, projections=4000)
    assert value == pytest.approx(float(shift.square().sum()) / 4, abs=4 * error)
    assert error < 0.05 * value


def test_repeated_points_change_nothing() -> None:
    x, y = normal(6, 3, 0), normal(8, 3, 1)
    once, _ = sliced_wasserstein2(x, y, seed=1)
    assert sliced_wasserstein2(x.repeat(2, 1), y, seed=1)[0] == pytest.approx(once, rel=1e-9)
    assert sliced_wasserstein2(x, y.repeat_interleave(3, dim=0), seed=1)[0] == pytest.approx(once, rel=1e-9)
    assert sliced_wasserstein2(x, x.repeat(3, 1))[0] == pytest.approx(0, abs=1e-20)


def test_order_and_sides_do_not_matter() -> None:
    x, y = normal(9, 3, 0), normal(14, 3, 1)
    value, _ = sliced_wasserstein2(x, y)
    assert sliced_wasserstein2(y, x)[0] == pytest.approx(value, rel=1e-12)
    assert sliced_wasserstein2(x.flip(0), y)[0] == pytest.approx(value, rel=1e-12)


def test_the_samples_are_not_written_to() -> None:
    x, y = normal(9, 3, 0), normal(9, 3, 1)
    before = x.clone(), y.clone()
    floored_sliced(x, y)
    max_sliced_wasserstein2(x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_the_seed_is_that_of_the_directions() -> None:
    x, y = normal(20, 5, 0), normal(20, 5, 1) + 1
    values = [sliced_wasserstein2(x, y, projections=5, seed=s)[0] for s in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    directions = random_directions(5, 1000, 3)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(1000, dtype=torch.float64))
    assert float(directions.mean(0).abs().max()) < 4 / math.sqrt(5 * 1000)


def test_the_floor_is_the_distance_of_the_halves_at_whole_size() -> None:
    x = normal(40, 3, 0)
    half = torch.arange(40) < 10
    even = sliced_wasserstein2(x[::2], x[1::2])[0]
    directions = random_directions(x.shape[1], 200, 0).to(x)
    assert slice_floors(x, directions).mean() == pytest.approx(even / 2, rel=1e-12)
    uneven = sliced_wasserstein2(x[:10], x[10:])[0]
    assert slice_floors(x, directions, half).mean() == pytest.approx(uneven * (1 / 40 + 1 / 40) / (1 / 10 + 1 / 30), rel=1e-12)


def test_the_floor_of_two_samples_is_half_of_each() -> None:
    x, y = normal(40, 3, 0), normal(30, 3, 1)
    found = floored_sliced(x, y, projections=9, seed=2)
    directions = random_directions(x.shape[1], 9, 2).to(x)
    floors = (slice_floors(x, directions) + slice_floors(y, directions)) / 2
    assert found.floor == pytest.approx(floors.mean(), rel=1e-12)
    assert found.value == pytest.approx(sliced_wasserstein2(x, y, projections=9, seed=2)[0] - found.floor, rel=1e-12)
    assert found.stderr == pytest.approx((slice_distances(x, y, directions) - floors).std(ddof=1) / 3, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(200, 200), (100, 300)])
def test_without_a_shift_the_floor_is_all_there_is(n: int, m: int) -> None:
    """Uniform rows, whose noise falls like 1/n; the tails of a normal law leave 3 to 10 % of the floor."""
    found, floors = [], []
    for seed in range(SEEDS):
        rng = torch.Generator().manual_seed(seed)
        x, y = (torch.rand(k, 3, dtype=torch.float64, generator=rng) for k in (n, m))
        result = floored_sliced(x, y, projections=20, seed=seed)
        found.append(result.value)
        floors.append(result.floor)
    error = np.std(found) / math.sqrt(SEEDS)
    assert np.mean(found) == pytest.approx(0, abs=3.5 * error)
    assert np.mean(floors) > 10 * error


def test_without_a_shift_the_largest_slice_is_about_zero() -> None:
    found = [max_sliced_wasserstein2(normal(200, 10, 2 * s), normal(160, 10, 2 * s + 1), seed=s) for s in range(60)]
    values, plug_in = np.array([f.value for f in found]), np.array([f.plug_in for f in found])
    assert np.mean(values) == pytest.approx(0, abs=3.5 * values.std() / math.sqrt(60))
    assert plug_in.mean() > 5 * abs(values.mean())
    assert plug_in.min() > 0.1


@pytest.mark.parametrize("planted", ["mean", "spread"])
def test_a_planted_direction_is_found(planted: str) -> None:
    direction = normal(1, 10, 5)[0]
    direction /= direction.norm()
    found = []
    for seed in range(20):
        x, y = normal(400, 10, 2 * seed), normal(300, 10, 2 * seed + 1)
        y += direction if planted == "mean" else (y @ direction)[:, None] * direction
        result = max_sliced_wasserstein2(x, y, seed=seed)
        assert abs(float(result.direction @ direction)) > 0.9
        assert float(result.direction.norm()) == pytest.approx(1, rel=1e-9)
        found.append(result.value)
    # the truth is 1 for both: a shift by 1, or deviations of 1 and 2
    error = np.std(found) / math.sqrt(20)
    assert np.mean(found) < 1 + 3 * error
    assert np.mean(found) > 0.75


def test_a_direction_that_no_moment_tells_of_is_climbed_to() -> None:
    """Along one coordinate, +-1 against a normal law: same mean and spread. Four starts miss it in one of ten."""
    for seed in range(4):
        x, y = normal(800, 5, 2 * seed), normal(800, 5, 2 * seed + 1)
        y[:, 2] = y[:, 2].sign()
        value, direction = find_direction(x, y, starts=32, seed=seed)
        assert abs(float(direction[2])) > 0.95
        assert value == pytest.approx(2 - 2 * math.sqrt(2 / math.pi), rel=0.3)


def test_the_ascent_ends_above_its_starts() -> None:
    x, y = normal(100, 6, 0), normal(100, 6, 1) * torch.tensor([1, 1, 1, 1, 1, 2.0]) + 0.2
    value, direction = find_direction(x, y)
    assert value == pytest.approx(float(((x @ direction).sort().values - (y @ direction).sort().values).square().mean()))
    slices = [sliced_wasserstein2((x @ t)[:, None], (y @ t)[:, None], projections=1)[0] for t in random_directions(6, 500, 9)]
    assert value > max(slices)
    near = [direction + 0.05 * t for t in random_directions(6, 50, 8)]
    near_values = [sliced_wasserstein2((x @ (t / t.norm()))[:, None], (y @ (t / t.norm()))[:, None])[0] for t in near]
    assert max(near_values) <= 1.02 * value


def test_equal_samples_have_no_direction_and_no_distance() -> None:
    x = normal(40, 3, 0)
    found = max_sliced_wasserstein2(x, x)
    assert found.plug_in == pytest.approx(0, abs=1e-20)
    assert torch.isfinite(found.direction).all()
