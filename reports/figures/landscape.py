"""Slices of the loss around the weights: random directions, eigenvectors, paths between checkpoints, surfaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator
from mpl_toolkits.mplot3d import Axes3D
from ssa_analysis.reports.figures.frames import (
    MAX_LINES,
    hide_rest,
    lowest_panels,
    one_of_each,
    panel_choice,
    rows_of,
    with_arrays,
)
from ssa_analysis.reports.hover import tell, tell_grid
from ssa_analysis.reports.style import (
    PAGE,
    PALETTE,
    Look,
    method_label,
    method_styles,
    new_figure,
    ordered_methods,
    plain,
    styled,
)

WIDE = 50.0  # losses that differ by more than this factor are drawn on a logarithmic scale
LEVELS = 13
MISSING = "0.85"  # grey behind points whose loss is not finite
COLOURS = "cividis"


def loss_label(rows: pd.DataFrame) -> str:
    """``contrastive loss (nats)`` or what else the rows say they measured."""
    names = {dict(settings).get("loss", "contrastive") for settings in rows["settings"]}
    return f"{plain(str(names.pop()))} loss (nats)" if len(names) == 1 else "loss (nats)"


def _numbers(values: Any) -> np.ndarray:
    """Stored arrays have None for missing points."""
    return np.array(values, dtype=float)


def _told(name: str, offsets: Any, losses: np.ndarray) -> list[str]:
    """What the pointer is told along a curve."""
    values = np.ma.filled(np.ma.asarray(losses, float), np.nan)
    return [f"{name}\n{value:.4g} nats at {offset:.3g}" for offset, value in zip(offsets, values, strict=True)]


def landscape_slices(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Loss over the offset along random directions, one panel a method, one line a checkpoint."""

    def draw(panel: Any, name: str, arrays: dict[str, Any], style: dict[str, Any]) -> None:
        losses = np.ma.masked_invalid(_numbers(arrays["loss"]))
        (line,) = panel.plot(arrays["offset"], losses.mean(0), color=style["color"])
        tell(line, _told(name, arrays["offset"], losses.mean(0)))
        panel.fill_between(arrays["offset"], losses.min(0), losses.max(0), color=style["color"], alpha=0.15, linewidth=0)

    return _panel_a_method(frame, "rise_full", "offset (filter norms)", draw, look)


def _panel_a_method(
    frame: pd.DataFrame, score: str, x_label: str, draw: Callable[[Any, str, dict[str, Any], dict[str, Any]], None], look: Look
) -> Figure | None:
    """A panel for each method, in which ``draw(panel, name, arrays, style)`` draws each checkpoint; one scale for all."""
    rows = one_of_each(rows_of(frame, "landscape", score), MAX_LINES)
    curves = list(with_arrays(rows, "loss"))
    if not curves:
        return None
    methods = ordered_methods([m for _, m, _ in curves])
    styles = method_styles(frame)
    count, columns = look.grid(len(methods))
    figure, axes = new_figure(2.5 * count, look, rows=count, columns=columns, sharex=True, sharey=True)
    with styled(look):
        for panel, method in zip(axes, methods, strict=False):
            for name, _, arrays in (c for c in curves if c[1] == method):
                draw(panel, name, arrays, styles[method])
            panel.set_title(look.fitted(method_label(method), columns))
            panel.set_xlabel(look.wrapped(x_label, columns))
        _finish_panels(axes, len(methods), columns)
        axes[0].set_ylabel(loss_label(rows))
    return figure


def _finish_panels(axes: list[Any], count: int, columns: int) -> None:
    lowest_panels(axes, count, columns)
    hide_rest(axes, count)


def landscape_eigenvectors(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Loss along the top eigenvectors, solid, and its second-order Taylor polynomial, dashed; one panel a checkpoint."""
    rows = panel_choice(rows_of(frame, "landscape", "eigen_rise_1"))
    chosen = [name for name, _, _ in with_arrays(rows, "loss")]
    if not chosen:
        return None
    curves: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in chosen}
    number = 1
    while True:
        found = list(with_arrays(rows_of(frame, "landscape", f"eigen_rise_{number}"), "loss"))
        if not found:
            break
        for name, _, arrays in found:
            curves.setdefault(name, {})[number] = arrays
        number += 1
    count, columns = look.grid(len(chosen))
    figure, axes = new_figure(2.2 * count + 0.5, look, rows=count, columns=columns)
    with styled(look):
        for panel, name in zip(axes, chosen, strict=False):
            seen = []
            for i, arrays in curves[name].items():
                loss = np.ma.masked_invalid(_numbers(arrays["loss"]))
                seen.append(loss.compressed())
                colour = PALETTE[(i - 1) % len(PALETTE)]
                (line,) = panel.plot(arrays["offset"], loss, color=colour)
                tell(line, _told(f"{name}, eigenvector {i}", arrays["offset"], loss))
                panel.plot(arrays["offset"], arrays["quadratic"], color=colour, linestyle="--", linewidth=0.9)
            low, high = min(s.min() for s in seen), max(s.max() for s in seen)
            room = 0.15 * (high - low) or 1e-6
            panel.set_ylim(low - room, high + room)  # the parabola may leave the panel, the loss may not
            panel.set_title(look.fitted(name, columns))
            panel.set_xlabel("offset (l2)")
        hide_rest(axes, len(chosen))
        axes[0].set_ylabel(loss_label(rows))
        handles = [Line2D([], [], color=PALETTE[(i - 1) % len(PALETTE)], label=f"eigenvector {i}") for i in range(1, number)]
        handles.append(Line2D([], [], color="0.3", linestyle="--", linewidth=0.9, label="quadratic model"))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), look.panels))
    return figure


def landscape_paths(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Loss between a checkpoint (0) and another one (1), one panel a method; the dotted line joins the ends."""

    def draw(panel: Any, name: str, arrays: dict[str, Any], style: dict[str, Any]) -> None:
        offset, loss = _numbers(arrays["offset"]), np.ma.masked_invalid(_numbers(arrays["loss"]))
        ends = [int(np.flatnonzero(offset == t)[0]) for t in (0, 1)]
        (line,) = panel.plot(offset, loss, color=style["color"])
        tell(line, _told(name, offset, loss))
        panel.plot(offset[ends], loss[ends], color=style["color"], linestyle=":", marker=style["marker"], linewidth=0.9)

    return _panel_a_method(frame, "barrier", "from this (0) to the other (1)", draw, look)


@dataclass(frozen=True)
class _Surface:
    """A panel's surface: offsets of its columns and rows, and what is drawn."""

    name: str
    x: np.ndarray
    y: np.ndarray
    height: np.ma.MaskedArray


def _surfaces(frame: pd.DataFrame, score: str) -> tuple[list[_Surface], str, Normalize]:
    """Surfaces of the chosen panels with the label and the colour scale that they share.

    Rises over the loss at the weights on a linear scale, or, where the losses range over more than a factor ``WIDE``,
    the losses on a logarithmic one.
    """
    rows = panel_choice(rows_of(frame, "landscape", score))
    found = []
    for name, _, arrays in with_arrays(rows, "loss"):
        x = _numbers(arrays["offset"])
        found.append(_Surface(name, x, _numbers(arrays.get("second", x)), np.ma.masked_invalid(_numbers(arrays["loss"]))))
    if not found:
        return [], "", Normalize()
    low, high = min(s.height.min() for s in found), max(s.height.max() for s in found)
    if low > 0 and high / low > WIDE:
        return found, loss_label(rows), LogNorm(low, high)
    found = [_Surface(s.name, s.x, s.y, s.height - _origin(s)) for s in found]
    low, high = min(s.height.min() for s in found), max(s.height.max() for s in found)
    return found, "rise of the loss (nats)", Normalize(low, high if high > low else low + 1e-9)


def _origin(surface: _Surface) -> float:
    """The loss at the weights themselves; the lowest one where it is missing."""
    value = surface.height[np.abs(surface.y).argmin(), np.abs(surface.x).argmin()]
    return float(surface.height.min() if np.ma.is_masked(value) else value)


def _contours(
    frame: pd.DataFrame,
    score: str,
    labels: tuple[str, str],
    points: tuple[tuple[float, float], ...],
    look: Look,
    share: bool = True,
) -> Figure | None:
    """One panel a surface, with the same levels in all; ``share`` where all have the same axes."""
    surfaces, label, norm = _surfaces(frame, score)
    if not surfaces:
        return None
    spaced = np.geomspace if isinstance(norm, LogNorm) else np.linspace
    levels = spaced(norm.vmin, norm.vmax, LEVELS)
    levels[[0, -1]] = norm.vmin, norm.vmax
    count, columns = look.grid(len(surfaces))
    figure, axes = new_figure(1.9 * count + 0.3, look, rows=count, columns=columns, sharex=share, sharey=share)
    with styled(look):
        for panel, s in zip(axes, surfaces, strict=False):
            panel.contourf(s.x, s.y, s.height, levels=levels, cmap=COLOURS, norm=norm)
            panel.contour(s.x, s.y, s.height, levels=levels, colors="white", linewidths=0.3)
            for place, marker in zip(points, "+x", strict=False):
                panel.plot(*place, marker, color="white")
            told = [
                [f"{s.name}\n{label}: {v:.4g}" if np.isfinite(v) else "not finite" for v in row]
                for row in s.height.filled(np.nan)
            ]
            tell_grid(panel, s.x, s.y, told)
            if np.ma.is_masked(s.height):
                panel.set_facecolor(MISSING)
            panel.set_title(look.fitted(s.name, columns))
            panel.set_box_aspect(1)
            panel.grid(visible=False)
        _finish_panels(axes, len(surfaces), columns)
        for panel in axes[max(0, len(surfaces) - columns) : len(surfaces)]:
            panel.set_xlabel(look.wrapped(labels[0], columns))
        for panel in axes[: len(surfaces) : columns]:
            panel.set_ylabel(look.wrapped(labels[1], columns))
        _colour_bar(figure, axes, norm, label, 0.8)
    return figure


def landscape_surfaces(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Contours of the loss on a random filter-normalised plane, one panel a checkpoint."""
    return _contours(frame, "rise_2d", ("first direction", "second direction (filter norms)"), ((0, 0),), look)


def landscape_eigen_surfaces(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Contours of the loss on the plane of the two top eigenvectors."""
    return _contours(frame, "eigen_rise_2d", ("first eigenvector", "second eigenvector (l2)"), ((0, 0),), look, share=False)


def landscape_path_surfaces(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Contours of the loss on a plane through a checkpoint (+) and another one (x)."""
    labels = ("this (0) to other (1)", "random (filter norms)")
    return _contours(frame, "path_rise_2d", labels, ((0, 0), (1, 0)), look)


def landscape_surfaces_3d(frame: pd.DataFrame, look: Look = PAGE, score: str = "rise_2d") -> Figure | None:
    """The surfaces of :func:`landscape_surfaces`, or of another 2-D score, seen from above the plane."""
    surfaces, label, norm = _surfaces(frame, score)
    if not surfaces:
        return None
    logarithmic = isinstance(norm, LogNorm)
    count, columns = look.grid(len(surfaces), 3)
    figure, axes = new_figure(2.4 * count + 0.3, look, rows=count, columns=columns, subplot_kw={"projection": Axes3D.name})
    with styled(look):
        for panel, s in zip(axes, surfaces, strict=False):
            x, y = np.meshgrid(s.x, s.y)
            height = s.height.filled(np.nan)
            panel.plot_surface(
                x, y, np.log10(height) if logarithmic else height, facecolors=_face_colours(s.height, norm),
                rcount=len(s.y), ccount=len(s.x), linewidth=0, antialiased=False, shade=False, rasterized=True,
            )  # fmt: skip
            ends = np.log10([norm.vmin, norm.vmax]) if logarithmic else (norm.vmin, norm.vmax)
            panel.set_zlim(*ends)
            if logarithmic:
                panel.zaxis.set_major_formatter(lambda value, _: f"{10**value:.2g}")
            panel.tick_params(labelsize=6, pad=-2)
            for axis in (panel.xaxis, panel.yaxis, panel.zaxis):
                axis.set_major_locator(MaxNLocator(4))
            panel.set_title(look.fitted(s.name, columns))
            panel.view_init(elev=35, azim=-60)
        for panel in axes[len(surfaces) :]:
            panel.remove()  # invisible 3-D axes are too much for the layout
        _colour_bar(figure, axes[: len(surfaces)], norm, label, 0.6)
    return figure


def _colour_bar(figure: Figure, axes: list[Any], norm: Normalize, label: str, shrink: float) -> None:
    """One colour bar for all panels, with round ticks on either scale."""
    ticks = LogLocator(numticks=7) if isinstance(norm, LogNorm) else None
    figure.colorbar(ScalarMappable(norm, COLOURS), ax=axes, label=label, shrink=shrink, ticks=ticks)


def _face_colours(height: np.ma.MaskedArray, norm: Normalize) -> np.ndarray:
    return np.asarray(colormaps[COLOURS](norm(height)))
