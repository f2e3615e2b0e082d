"""Curves and surfaces whose rises, ruggedness, curvature and barriers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssa_analysis.numerics.directions import filter_normalised_direction, moving, path_offsets, point_key
from ssa_analysis.numerics.surfaces import barrier, nonconvexity, plane_curvatures, quadratic_reach, rise_at, ruggedness

AXIS = np.linspace(-1, 1, 9)


def test_the_rise_is_the_mean_of_both_sides() -> None:
    curve = 5 + 3 * AXIS + 2 * AXIS**2
    assert rise_at(AXIS, curve, 5.0, 1.0) == pytest.approx(2.0)  # the slope cancels
    assert rise_at(AXIS, curve, 5.0, 0.5) == pytest.approx(0.5)
    assert rise_at(AXIS, curve, 5.0, 0.375) == pytest.approx((0.125 + 0.5) / 2)  # between two points, on the chord
    assert rise_at(np.linspace(-1.1, 1.1, 21), np.ones(21), 0.0, 1.1 / 2) == pytest.approx(1.0)


def test_the_rise_at_a_point_does_not_ask_its_neighbours() -> None:
    curve = AXIS**2
    curve[[0, -1]] = np.nan
    assert rise_at(AXIS, curve, 0.0, 0.75) == pytest.approx(0.75**2)
    assert np.isnan(rise_at(AXIS, curve, 0.0, 1.0))


@pytest.mark.parametrize("curve", [AXIS**2, np.abs(AXIS - 0.4), 1 - np.exp(-9 * AXIS**2), -AXIS, np.full(9, 3.0)])
def test_unimodal_curves_are_not_rugged_even_where_they_flatten_out(curve: np.ndarray) -> None:
    assert ruggedness(curve) == 0


def test_ruggedness_is_the_share_that_goes_back_down() -> None:
    curve = np.array([4.0, 2.0, 3.0, 1.0, 0.0, 2.0, 1.0, 5.0])
    # outwards from 0: right +2 -1 +4, left +1 +2 -1 +2
    assert ruggedness(curve) == pytest.approx(2 / 13)
    assert ruggedness(7 + 100 * curve) == pytest.approx(2 / 13)
    assert ruggedness(curve[::-1]) == pytest.approx(2 / 13)
    curve[2] = np.nan
    assert ruggedness(curve) == pytest.approx(1 / 11)


def test_rounding_is_not_ruggedness() -> None:
    noise = np.random.default_rng(0).normal(size=9) * 1e-8
    assert ruggedness(1 + noise) == 0
    assert ruggedness(1 + AXIS**2 + noise) == 0


def test_plane_curvatures_are_those_of_a_quadratic_whatever_the_spacing() -> None:
    hessian = np.array([[2.0, 1.5], [1.5, -1.0]])
    for x, y in ((AXIS, AXIS), (np.array([-1.0, -0.2, 0.0, 0.7, 1.1]), np.array([-3.0, 0.5, 1.0, 4.0]))):
        points = np.stack(np.meshgrid(x, y), -1)  # rows along y
        surface = 0.5 * np.einsum("mni,ij,mnj->mn", points, hessian, points) + points @ np.array([3.0, -2.0])
        lower, upper = plane_curvatures(surface, x, y)
        assert lower.shape == (len(y) - 2, len(x) - 2)
        expected = np.linalg.eigvalsh(hessian)
        np.testing.assert_allclose(lower, expected[0], atol=1e-9)
        np.testing.assert_allclose(upper, expected[1], atol=1e-9)


def test_nonconvexity_of_a_bowl_a_saddle_and_a_hill() -> None:
    x, y = np.meshgrid(AXIS, AXIS)
    assert nonconvexity(x**2 + 3 * y**2, AXIS, AXIS) == 0
    assert nonconvexity(4 * x**2 - y**2, AXIS, AXIS) == pytest.approx(0.25)
    assert nonconvexity(-(x**2) - y**2, AXIS, AXIS) == pytest.approx(1.0)
    assert nonconvexity(np.full_like(x, 2.0), AXIS, AXIS) == 0


def test_what_is_missing_of_a_surface_is_left_out() -> None:
    x, y = np.meshgrid(AXIS, AXIS)
    surface = np.where(x < 0, x**2 + y**2, -(x**2) - y**2)
    surface[:, AXIS >= 0] = np.nan
    assert nonconvexity(surface, AXIS, AXIS) == 0
    corner = x**2 + y**2
    corner[0, 0] = np.nan
    lower, upper = plane_curvatures(corner, AXIS, AXIS)
    assert np.argwhere(np.isnan(lower)).tolist() == np.argwhere(np.isnan(upper)).tolist() == [[0, 0]]
    assert np.isnan(nonconvexity(np.full((3, 3), np.nan), AXIS[:3], AXIS[:3]))


def test_the_barrier_is_measured_from_the_line_between_the_ends() -> None:
    t = np.array(path_offsets(21))
    bump = np.where((t > 0) & (t < 1), 4 * t * (1 - t), 0.0)
    found = barrier(t, 1 + 2 * t + 0.7 * bump + 99 * ((t < 0) | (t > 1)))
    assert found.height == pytest.approx(0.7)
    assert found.at == 0.5
    assert 0.65 < found.coarse <= 0.7
    assert barrier(t, t**2).height == 0  # below the line: no barrier
    assert np.isnan(barrier(t, np.where(t == 1, np.nan, t)).height)
    gap = 1 + bump
    gap[t == 0.5] = np.nan
    assert 0.9 < barrier(t, gap).height < 1


@pytest.mark.parametrize("points", [3, 5, 7, 9, 13, 21, 51])
def test_path_offsets_hold_both_ends_and_the_middle(points: int) -> None:
    offsets = path_offsets(points)
    assert len(offsets) == points
    assert sorted(set(offsets)) == offsets
    assert {0.0, 0.5, 1.0} <= set(offsets)
    assert (offsets[0], offsets[-1]) == ((-0.25, 1.25) if points >= 7 else (0.0, 1.0))


def test_quadratic_reach() -> None:
    rises = 0.5 * 6 * AXIS**2
    assert quadratic_reach(AXIS, 2 + rises + AXIS, 2.0, 6.0) == 1.0
    assert quadratic_reach(AXIS, 2 + rises * (1 - 0.15 * np.abs(AXIS)), 2.0, 6.0) == 0.5
    assert quadratic_reach(AXIS, 2 + rises, 2.0, 12.0) == 0.0
    rises[-1] = np.nan
    assert quadratic_reach(AXIS, 2 + rises, 2.0, 6.0) == 0.75


def test_filters_of_a_direction_have_the_norms_of_the_weights() -> None:
    torch.manual_seed(0)
    parameters = [torch.randn(5, 3, 2, 2), torch.randn(7), torch.randn(4, 6), torch.zeros(2, 3)]
    direction = filter_normalised_direction(parameters, torch.Generator().manual_seed(1))
    for p, d in zip(parameters, direction, strict=True):
        assert d.shape == p.shape
        if p.ndim < 2:
            assert (d == 0).all()
        else:
            torch.testing.assert_close(d.flatten(1).norm(dim=1), p.flatten(1).norm(dim=1))
    again = filter_normalised_direction(parameters, torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(direction, again, strict=True))


def test_moving_restores_the_bits_also_after_an_error_and_points_do_not_depend_on_their_order() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(3, 4, requires_grad=True), torch.randn(5)]
    before = [t.detach().clone() for t in tensors]
    one, two = ([torch.randn_like(t) for t in before] for _ in range(2))
    places = []

    def walk() -> None:
        with moving(tensors) as movable:
            for path in ([(0.3, one), (0.1, two)], [(7.0, two)], [(0.3, one), (0.1, two)]):
                movable.move(path)
                places.append([t.detach().clone() for t in tensors])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        walk()
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(places[0], places[2], strict=True))
    torch.testing.assert_close(places[0][1], before[1] + 0.3 * one[1] + 0.1 * two[1])
    torch.testing.assert_close(places[1][0], before[0] + 7 * two[0])


def test_a_point_is_named_by_what_is_not_zero() -> None:
    assert point_key({"b": 0.5, "a": -1}) == (("a", -1.0), ("b", 0.5))
    assert point_key({"a": 0.0, "b": -0.0}) == ()
