"""What the pointer finds in a figure: where the points are drawn, with their values."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from ssa_analysis.reports.figure_files import figure_files, inline_svg, lay_out
from ssa_analysis.reports.figures import FIGURES
from ssa_analysis.reports.hover import MOST, hover_points, tell, tell_grid
from ssa_analysis.reports.style import new_figure


def told(figure: Figure) -> list[tuple[float, float, str]]:
    """Points of the only axes."""
    lay_out(figure)
    (axes,) = hover_points(figure)
    return [tuple(point) for point in axes["points"]]


def test_a_point_stands_where_its_marker_is_drawn() -> None:
    figure, (axes,) = new_figure(3.0)
    axes.set_xscale("log")
    axes.plot([1, 10, 1000], [0.0, 0.5, 1.0], "none")
    axes.plot([10], [0.5], marker="s", markersize=6, color="#ff00ff", label="here")
    axes.set(xlabel="size", ylabel="share\nof all")
    points = [p for p in told(figure) if p[2].startswith("here")]
    assert [text for *_, text in points] == ["here\nsize: 10\nshare of all: 0.5"]
    pixels = np.asarray(Image.open(io.BytesIO(figure_files(figure, ["png"])["png"])).convert("RGB"))
    rows, columns = np.nonzero((pixels == (255, 0, 255)).all(-1))
    height, width = pixels.shape[:2]
    assert points[0][0] == pytest.approx(1000 * (columns.mean() + 0.5) / width, abs=1)
    assert points[0][1] == pytest.approx(1000 * (rows.mean() + 0.5) / height, abs=2)


def test_what_is_told_takes_the_place_of_the_numbers() -> None:
    figure, (axes,) = new_figure(3.0)
    drawn = axes.errorbar([1, 2, np.nan, 4], [1, 2, 3, 4], [[0.1] * 4, [0.2] * 4])
    tell(drawn[0], ["a", "b", "c", ""])
    assert [text for *_, text in told(figure)] == ["a", "b"]  # the third has no place, the fourth nothing to tell


def test_lines_across_a_panel_and_hidden_panels_are_silent() -> None:
    figure, (first, second) = new_figure(3.0, columns=2)
    first.axhline(0.5)
    first.axvline(0.5)
    second.plot([1, 2], [1, 2])
    second.set_visible(False)
    lay_out(figure)
    assert hover_points(figure) == []


def test_long_lines_are_thinned() -> None:
    figure, (axes,) = new_figure(3.0)
    axes.plot(np.arange(50 * MOST), np.arange(50 * MOST))
    assert MOST / 2 <= len(told(figure)) <= 2 * MOST


def test_cells_of_a_heat_map_by_the_names_at_its_ticks() -> None:
    figure, (axes,) = new_figure(3.0)
    axes.imshow([[0.1, 0.2], [0.3, np.nan]])
    axes.set_xticks([0, 1], ["left", "right"])
    axes.set_yticks([0, 1], ["top", r"cost in \$"])
    assert [text for *_, text in told(figure)] == ["top, left: 0.1", "top, right: 0.2", "cost in $, left: 0.3"]


def test_a_picture_has_no_cells() -> None:
    figure, (axes,) = new_figure(3.0)
    axes.imshow(np.zeros((2, 2, 3)))
    lay_out(figure)
    assert hover_points(figure) == []


def test_areas_bars_and_scattered_points() -> None:
    figure, (axes,) = new_figure(3.0)
    tell_grid(axes, np.array([0.0, 1.0]), np.array([5.0]), [["one", "two"]])
    (bar,) = axes.bar(0.5, 4.0)
    tell(bar, ["a bar"])
    tell(axes.scatter([0.2], [1.0]), ["a point"])
    assert {text for *_, text in told(figure)} == {"one", "two", "a bar", "a point"}
    place = {text: (x, y) for x, y, text in told(figure)}
    assert place["one"][1] < place["a bar"][1] < place["a point"][1]  # from the top: 5, 2, 1
    assert place["one"][0] < place["a point"][0] < place["a bar"][0] < place["two"][0]


@pytest.mark.parametrize("entry", [e for e in FIGURES if e.name != "landscape_surfaces_3d"], ids=lambda e: e.name)
def test_every_figure_tells_its_values(entry: object, frame: pd.DataFrame) -> None:
    figure = entry.draw(frame)  # type: ignore[attr-defined]
    lay_out(figure)
    found = hover_points(figure)
    assert found
    for axes in found:
        left, top, right, bottom = axes["box"]
        assert 0 <= left < right <= 1000
        assert 0 <= top < bottom <= 1000
    texts = [text for axes in found for *_, text in axes["points"]]
    assert all(texts)
    assert not [text for text in texts if "nan" in text.lower().split()]
    assert any(any(character.isdigit() for character in text) for text in texts)


def test_a_drawing_keeps_the_names_it_refers_to_and_no_others() -> None:
    figure, (axes,) = new_figure(3.0)
    axes.plot([1, 2], [1, 2], marker="o")
    svg = inline_svg(figure_files(figure, ["svg"])["svg"])
    assert svg.startswith("<svg ")
    assert 'viewBox="0 0 486 216"' in svg
    assert 'width="486' not in svg.split(">")[0]
    assert 'id="axes_1"' not in svg
    assert "metadata" not in svg
    assert "<!--" not in svg
    import re

    wanted = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert wanted
    assert set(re.findall(r'\bid="([^"]+)"', svg)) == wanted
