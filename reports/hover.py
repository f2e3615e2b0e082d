"""What a figure says under the pointer: points in the picture with their values, read off a laid-out matplotlib figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

MOST = 200  # points of one line; of longer ones every so many
COLOUR_BAR = "<colorbar>"  # the label that matplotlib gives its axes


def tell(artist: Artist, texts: Sequence[str]) -> None:
    """Say ``texts`` at the points of an artist, one for each in the order they were drawn; empty says nothing."""
    artist.hover_texts = list(texts)


def tell_grid(axes: Axes, x: np.ndarray, y: np.ndarray, texts: Sequence[Sequence[str]]) -> None:
    """Say ``texts[row][column]`` at the places ``(x[column], y[row])`` of axes on which an area is drawn."""
    places = [(a, b, t) for b, row in zip(y, texts, strict=True) for a, t in zip(x, row, strict=True)]
    axes.hover_places = [*getattr(axes, "hover_places", []), *places]


def hover_points(figure: Figure) -> list[dict[str, Any]]:
    """Where the pointer finds what, of a figure whose layout has been worked out.

    Returns:
        For each axes ``box``: left, top, right, bottom, and ``points``: ``[x, y, text]``; lengths in thousandths of the figure's
        width and height, from its upper left corner. Axes without points are left out, as are those in three dimensions.
    """
    width, height = figure.canvas.get_width_height(physical=True)
    found = []
    for axes in figure.axes:
        if not axes.get_visible() or axes.get_label() == COLOUR_BAR or axes.name == "3d":
            continue
        points = []
        for x, y, text in _told(axes):
            px, py = axes.transData.transform((x, y))
            if text and np.isfinite([px, py]).all():
                points.append([round(1000 * px / width, 1), round(1000 * (1 - py / height), 1), text])
        if points:
            box = axes.get_window_extent()
            edges = (box.x0 / width, 1 - box.y1 / height, box.x1 / width, 1 - box.y0 / height)
            found.append({"box": [round(1000 * e, 1) for e in edges], "points": points})
    return found


def _told(axes: Axes) -> Iterator[tuple[float, float, str]]:
    """Data coordinates and text of everything in an axes that has a value to tell."""
    yield from getattr(axes, "hover_places", [])
    for line in axes.lines:
        if line.get_transform() is axes.transData:  # not a line across the whole panel
            x, y = (np.asarray(v, float) for v in line.get_data(orig=False))
            step = 1 if hasattr(line, "hover_texts") else max(1, len(x) // MOST)
            yield from _points(axes, line, x, y, step)
    for collection in axes.collections:
        if isinstance(collection, PathCollection):
            offsets = np.ma.filled(np.ma.asarray(collection.get_offsets(), float), np.nan)
            yield from _points(axes, collection, offsets[:, 0], offsets[:, 1])
    for patch in axes.patches:
        if isinstance(patch, Rectangle) and hasattr(patch, "hover_texts"):
            yield patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2, patch.hover_texts[0]
    for image in () if hasattr(axes, "hover_places") else axes.images:
        yield from _cells(axes, image)


def _points(axes: Axes, artist: Artist, x: np.ndarray, y: np.ndarray, step: int = 1) -> Iterator[tuple[float, float, str]]:
    texts = getattr(artist, "hover_texts", None)
    label = str(artist.get_label())
    opening = "" if label.startswith("_") else f"{label}\n"
    for i in range(0, len(x), step):
        if np.isfinite(x[i]) and np.isfinite(y[i]):
            said = texts[i] if texts is not None else f"{opening}{_named(axes, 'x')}{x[i]:.4g}\n{_named(axes, 'y')}{y[i]:.4g}"
            yield float(x[i]), float(y[i]), said


def _named(axes: Axes, which: str) -> str:
    label = getattr(axes, f"get_{which}label")()
    if not label:  # a shared axis is labelled at the edge of the figure
        siblings = getattr(axes, f"get_shared_{which}_axes")().get_siblings(axes)
        label = next((text for other in siblings if (text := getattr(other, f"get_{which}label")())), "")
    return f"{' '.join(label.split())}: " if label else ""


def _cells(axes: Axes, image: AxesImage) -> Iterator[tuple[float, float, str]]:
    """The cells of a heat map, by the names at its ticks."""
    values = np.ma.filled(np.ma.asarray(image.get_array(), float), np.nan)
    if values.ndim != 2:
        return  # a picture
    names = [[t.get_text().replace(r"\$", "$") for t in axis.get_ticklabels()] for axis in (axes.xaxis, axes.yaxis)]
    if len(names[0]) != values.shape[1] or len(names[1]) != values.shape[0]:
        return
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            yield float(column), float(row), f"{names[1][row]}, {names[0][column]}: {value:.4g}"
