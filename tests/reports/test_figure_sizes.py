"""Figures at the sizes of the venues: as wide as the column, nothing cut off, letters that can be read."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from ssa_analysis.reports.figure_files import lay_out
from ssa_analysis.reports.figures import FIGURES, FigureEntry
from ssa_analysis.reports.style import PAGE, SIZES, Look

LEAST = 5.0  # points
HIGHEST = 9.5  # inches: the text of a page
ROOM = 0.02


def texts_of(figure: Figure) -> list[Text]:
    """Letters that are seen: what matplotlib keeps of empty or hidden ones is left out, as is what lies in three dimensions."""
    hidden = {text for axes in figure.axes if not axes.get_visible() or axes.name == "3d" for text in axes.findobj(Text)}
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in hidden]


@pytest.mark.parametrize(
    ("entry", "size"),
    [*((entry, "icml-column") for entry in FIGURES), *((entry, "neurips") for entry in FIGURES[::6])],
    ids=lambda e: getattr(e, "name", e),
)
def test_a_figure_fits_its_column(entry: FigureEntry, size: str, frame: pd.DataFrame) -> None:
    figure = entry.draw(frame, SIZES[size])
    assert figure is not None
    assert figure.get_figwidth() == SIZES[size].width
    assert figure.get_figheight() <= HIGHEST
    lay_out(figure)
    drawn = figure.get_tightbbox()  # inches, of all that is seen
    assert drawn.x0 >= -ROOM
    assert drawn.y0 >= -ROOM
    assert drawn.x1 <= figure.get_figwidth() + ROOM
    assert drawn.y1 <= figure.get_figheight() + ROOM
    assert min(text.get_fontsize() for text in texts_of(figure)) >= LEAST


@pytest.mark.parametrize("size", ["page", "icml-column"])
@pytest.mark.parametrize("name", ["pair_similarities", "landscape_surfaces", "bound_waterfall", "corruption_curves"])
def test_titles_of_neighbours_do_not_meet(name: str, size: str, frame: pd.DataFrame) -> None:
    """Also with names that are far too long for a panel."""
    frame["checkpoint"] = [f"a-rather-long-name-of-a-run-{name}" for name in frame["checkpoint"]]
    (entry,) = [e for e in FIGURES if e.name == name]
    figure = entry.draw(frame, SIZES[size])
    lay_out(figure)
    titles = [axes.title for axes in figure.axes if axes.get_visible() and axes.title.get_text()]
    assert len(titles) >= 3
    for one in titles:
        for other in titles:
            assert one is other or not one.get_window_extent().overlaps(other.get_window_extent()), one.get_text()


def test_names_are_shortened_in_the_middle() -> None:
    assert PAGE.fitted("simclr-s0", 4) == "simclr-s0"
    long = "simclr-fourier-lr0.05-tau0.2-width64-s0"
    short = PAGE.fitted(long, 4)
    assert len(short) < len(long)
    first, last = short.split("…")
    assert long.startswith(first)
    assert long.endswith(last)
    assert PAGE.fitted("a$b$c") == r"a\$b\$c"


@pytest.mark.parametrize(
    ("look", "count", "columns", "expected"),
    [
        (PAGE, 8, None, (2, 4)),
        (PAGE, 3, None, (1, 3)),
        (PAGE, 7, 3, (3, 3)),
        (Look(panels=2), 5, 4, (3, 2)),
        (PAGE, 1, 4, (1, 1)),
    ],
)
def test_panels_in_rows(look: Look, count: int, columns: int | None, expected: tuple[int, int]) -> None:
    assert look.grid(count, columns) == expected
