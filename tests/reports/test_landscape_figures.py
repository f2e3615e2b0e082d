"""Figures of the landscape by their content."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from ssa_analysis.reports.figures.landscape import (
    landscape_eigen_surfaces,
    landscape_eigenvectors,
    landscape_path_surfaces,
    landscape_paths,
    landscape_slices,
    landscape_surfaces,
    landscape_surfaces_3d,
)
from ssa_analysis.reports.style import METHOD_LABELS, PALETTE

NAMES = [f"{m}-s{s}" for m in METHOD_LABELS for s in (0, 1)]


def panels(figure: Figure | None) -> list[Axes]:
    assert figure is not None
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]


def bar_of(figure: Figure | None) -> Axes:
    assert figure is not None
    (bar,) = (axes for axes in figure.axes if axes.get_label() == "<colorbar>")
    return bar


def change(frame: pd.DataFrame, name: str, key: str, value: Callable[[list[list[float]]], object]) -> None:
    for arrays in frame.loc[frame["name"] == name, "arrays"]:
        arrays[key] = value(arrays[key])


def test_missing_points_leave_gaps_in_the_slices(frame: pd.DataFrame) -> None:
    change(frame, "rise_full", "loss", lambda _: [[None, 1.0, 3.0], [None, 1.0, 5.0]])
    line = panels(landscape_slices(frame))[0].lines[0].get_ydata()
    assert np.ma.getmaskarray(line).tolist() == [True, False, False]
    assert line[1:].tolist() == [1.0, 4.0]


def test_the_axis_says_which_loss(frame: pd.DataFrame) -> None:
    table = frame.assign(settings=[{**s, "loss": "supervised"} for s in frame["settings"]])
    assert panels(landscape_slices(table))[0].get_ylabel() == "supervised loss (nats)"
    assert panels(landscape_paths(table))[0].get_ylabel() == "supervised loss (nats)"
    table.loc[table["checkpoint"] == NAMES[0], "settings"] = pd.Series([{}] * len(table), index=table.index)
    assert panels(landscape_slices(table))[0].get_ylabel() == "loss (nats)"


def test_eigenvector_panels_show_loss_and_quadratic_model(frame: pd.DataFrame) -> None:
    figure = landscape_eigenvectors(frame)
    shown = panels(figure)
    assert [p.get_title() for p in shown] == NAMES
    first = shown[0]
    solid, dashed = first.lines[::2], first.lines[1::2]
    assert [line.get_ydata().tolist() for line in solid] == [[1.4, 1.0, 1.6], [1.2, 1.0, 1.3]]
    assert [list(line.get_ydata()) for line in dashed] == [[10.0, 1.0, 10.5], [5.5, 1.0, 5.75]]
    assert [line.get_linestyle() for line in first.lines] == ["-", "--"] * 2
    assert [line.get_color() for line in solid] == [line.get_color() for line in dashed] == list(PALETTE[:2])
    low, high = first.get_ylim()
    assert 0.85 < low < 1.0
    assert 1.6 < high < 1.75  # the parabola's 10 does not squeeze the loss
    assert first.get_xlabel() == "offset (l2)"
    assert figure is not None
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["eigenvector 1", "eigenvector 2", "quadratic model"]


def test_paths_mark_both_ends_and_the_line_between_them(frame: pd.DataFrame) -> None:
    shown = panels(landscape_paths(frame))
    assert [p.get_title() for p in shown] == list(METHOD_LABELS.values())
    path, ends = shown[0].lines[:2]
    assert np.ma.getmaskarray(path.get_ydata()).tolist() == [False] * 4 + [True]
    assert path.get_xdata().tolist() == [-0.25, 0.0, 0.5, 1.0, 1.25]
    assert (ends.get_xdata().tolist(), ends.get_ydata().tolist()) == ([0.0, 1.0], [1.0, 1.5])
    assert (ends.get_marker(), ends.get_linestyle()) == ("o", ":")
    assert shown[0].get_xlabel().replace("\n", " ") == "from this (0) to the other (1)"


def test_path_surfaces_have_two_checkpoints_and_two_kinds_of_axes(frame: pd.DataFrame) -> None:
    shown = panels(landscape_path_surfaces(frame))
    assert len(shown) == 8
    markers = {line.get_marker(): (line.get_xdata()[0], line.get_ydata()[0]) for line in shown[0].lines}
    assert markers == {"+": (0, 0), "x": (1, 0)}
    assert shown[0].get_xlim() == (-0.25, 1.25)
    assert shown[0].get_ylim() == (-1.0, 1.0)
    assert shown[0].get_ylabel().replace("\n", " ") == "random (filter norms)"
    assert shown[-1].get_xlabel().replace("\n", " ") == "this (0) to other (1)"
    # the rise is over the loss at (0, 0), not in the middle of the grid
    levels = shown[0].collections[0].levels
    assert levels[0] == pytest.approx(0.0)
    # what is not finite is grey: the last corner, for all but the first checkpoint
    assert to_hex(shown[0].get_facecolor()) == "#ffffff"
    assert to_hex(shown[1].get_facecolor()) == to_hex("0.85")


def test_eigen_surfaces_have_their_own_spans(frame: pd.DataFrame) -> None:
    spans = iter(range(1, 9))
    change(frame, "eigen_rise_2d", "second", lambda _: [-1.0 * (n := next(spans)), 0.0, 1.0 * n])
    limits = [p.get_ylim() for p in panels(landscape_eigen_surfaces(frame))]
    assert sorted(limits) == [(-float(n), float(n)) for n in range(8, 0, -1)]


def test_levels_are_even_in_the_logarithm_where_losses_span_orders_of_magnitude(frame: pd.DataFrame) -> None:
    change(frame, "rise_2d", "loss", lambda _: [[1e4, 10.0, 1e4], [1.0, 0.01, 2.0], [3.0, 5.0, 1e6]])
    figure = landscape_surfaces(frame)
    levels = panels(figure)[0].collections[0].levels
    np.testing.assert_allclose(np.diff(np.log10(levels)), 8 / 12)
    assert (levels[0], levels[-1]) == (0.01, 1e6)  # losses themselves, not rises
    assert isinstance(panels(figure)[0].collections[0].norm, LogNorm)
    assert bar_of(figure).get_ylabel() == "contrastive loss (nats)"
    assert bar_of(figure).get_yscale() == "log"


def test_a_surface_with_missing_points_is_drawn_around_them(frame: pd.DataFrame) -> None:
    change(frame, "rise_2d", "loss", lambda _: [[None, 1.5, 2.0], [1.2, None, 1.3], [1.9, 1.4, 1.1]])
    levels = panels(landscape_surfaces(frame))[0].collections[0].levels
    assert (levels[0], levels[-1]) == pytest.approx((0.0, 0.9))  # over the lowest, since the weights' own is missing


def test_surfaces_in_three_dimensions(frame: pd.DataFrame) -> None:
    figure = landscape_surfaces_3d(frame)
    shown = panels(figure)
    assert [p.get_title() for p in shown] == NAMES
    assert {p.name for p in shown} == {"3d"}
    assert shown[0].get_zlim() == pytest.approx((0.0, 1.0))  # type: ignore[attr-defined]
    (surface,) = shown[0].collections
    assert isinstance(surface, Poly3DCollection)
    assert surface.get_rasterized()
    assert len(surface.get_facecolor()) == 4  # two by two cells
    assert len({tuple(c) for c in surface.get_facecolor()}) > 1
    assert bar_of(figure).get_ylabel() == "rise of the loss (nats)"


def test_wide_surfaces_in_three_dimensions_have_logarithmic_heights(frame: pd.DataFrame) -> None:
    change(frame, "rise_2d", "loss", lambda _: [[1e4, 10.0, 1e4], [1.0, 0.01, 2.0], [3.0, None, 1e6]])
    figure = landscape_surfaces_3d(frame)
    axes = panels(figure)[0]
    assert axes.get_zlim() == pytest.approx((-2.0, 6.0))  # type: ignore[attr-defined]
    assert axes.zaxis.get_major_formatter()(3, 0) == "1e+03"  # type: ignore[attr-defined]
    assert bar_of(figure).get_yscale() == "log"
    assert figure is not None
    figure.draw_without_rendering()


def test_other_scores_can_be_drawn_in_three_dimensions(frame: pd.DataFrame) -> None:
    shown = panels(landscape_surfaces_3d(frame, score="path_rise_2d"))
    assert shown[0].get_xlim()[1] > 1  # the other checkpoint is on it
