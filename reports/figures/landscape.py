"""Slices of the loss around the weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from ssa_analysis.reports.figures.frames import grid_shape, lowest_panels, panel_choice, rows_of, with_arrays
from ssa_analysis.reports.style import method_label, method_style, new_figure, ordered_methods, plain, styled


def landscape_slices(frame: pd.DataFrame) -> Figure | None:
    """Loss over the offset, one panel a method, one line a checkpoint."""
    curves = list(with_arrays(rows_of(frame, "landscape", "rise_full"), "loss"))
    if not curves:
        return None
    methods = ordered_methods([m for _, m, _ in curves])
    rows, columns = grid_shape(len(methods))
    figure, axes = new_figure(2.5 * rows, rows=rows, columns=columns, sharex=True, sharey=True)
    with styled():
        for panel, method in zip(axes, methods, strict=False):
            colour = method_style(method, methods)["color"]
            for _, _, arrays in (c for c in curves if c[1] == method):
                offset, losses = np.array(arrays["offset"]), np.array(arrays["loss"])
                panel.plot(offset, losses.mean(0), color=colour)
                panel.fill_between(offset, losses.min(0), losses.max(0), color=colour, alpha=0.15, linewidth=0)
            panel.set_title(plain(method_label(method)))
            panel.set_xlabel("offset (filter norms)")
        lowest_panels(axes, len(methods), columns)
        for panel in axes[len(methods) :]:
            panel.set_visible(False)
        axes[0].set_ylabel("contrastive loss (nats)")
    return figure


def landscape_surfaces(frame: pd.DataFrame) -> Figure | None:
    """Contours of the rise of the loss on a plane, one panel a checkpoint."""
    chosen = list(with_arrays(panel_choice(rows_of(frame, "landscape", "rise_2d")), "loss"))
    if not chosen:
        return None
    surfaces = []
    for _, _, arrays in chosen:
        loss = np.array(arrays["loss"])
        middle = loss.shape[0] // 2
        surfaces.append(loss - loss[middle, middle])
    low, high = min(s.min() for s in surfaces), max(s.max() for s in surfaces)
    levels = np.linspace(low, high if high > low else low + 1e-9, 13)
    rows, columns = grid_shape(len(chosen))
    figure, axes = new_figure(1.9 * rows + 0.3, rows=rows, columns=columns, sharex=True, sharey=True)
    with styled():
        for panel, (name, _, arrays), surface in zip(axes, chosen, surfaces, strict=False):
            drawn = panel.contourf(arrays["offset"], arrays["offset"], surface, levels=levels, cmap="cividis")
            panel.contour(arrays["offset"], arrays["offset"], surface, levels=levels, colors="white", linewidths=0.3)
            panel.plot(0, 0, "+", color="white")
            panel.set_title(plain(name))
            panel.set_aspect("equal")
            panel.grid(visible=False)
        for panel in axes[len(chosen) :]:
            panel.set_visible(False)
        lowest_panels(axes, len(chosen), columns)
        figure.colorbar(drawn, ax=axes, label="rise of the loss (nats)", shrink=0.8)
    return figure
