"""The waterfall of the bounds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from ssa_analysis.reports.figures.frames import grid_shape, lowest_panels, panel_choice, rows_of
from ssa_analysis.reports.style import new_figure, plain, styled

UP, DOWN, TOTAL = "#D55E00", "#56B4E9", "#666666"
SHORT = {
    "trained probe": "probe",
    "mean classifier gap (R1)": "R1",
    "class-collapse gap (R2)": "R2",
    "uniformity gap (R8)": "R8 unif.",
    "alignment gap (R8)": "R8 align.",
}


def bound_waterfall(frame: pd.DataFrame) -> Figure | None:
    """From the probe's loss to the ideal bound, and on to the practical pairs; one panel a checkpoint."""
    rows = panel_choice(rows_of(frame, "bounds", "ideal_bound"))
    rows = rows[[bool(a.get("step")) for a in rows["arrays"]]]
    if rows.empty:
        return None
    shape = grid_shape(len(rows))
    figure, axes = new_figure(2.0 * shape[0] + 0.3, rows=shape[0], columns=shape[1], sharey=True, sharex=True)
    with styled():
        for panel, row in zip(axes, rows.itertuples(), strict=False):
            steps = list(row.arrays["step"])
            values = np.array(row.arrays["value"], float)
            ends = np.cumsum(values)
            starts = np.concatenate([[0.0], ends[:-1]])
            # after the R2 step stands its total, and at the end what the practical pairs show
            bars = [(SHORT.get(s, s), a, b, UP if b >= a else DOWN) for s, a, b in zip(steps, starts, ends, strict=True)]
            bars[0] = (*bars[0][:3], TOTAL)
            bars.insert(3, ("bound", 0.0, ends[2], TOTAL))
            bars.append(("practical", 0.0, ends[-1], TOTAL))
            for place, (_, start, end, colour) in enumerate(bars):
                panel.bar(place, end - start, bottom=start, color=colour, width=0.7)
            panel.axhline(row.settings["chance"], color="black", linestyle="--", linewidth=0.9)
            panel.set_title(plain(row.checkpoint))
            panel.set_xticks(range(len(bars)), [b[0] for b in bars], rotation=60, ha="right", rotation_mode="anchor", fontsize=6)
            panel.grid(visible=False, axis="x")
        for panel in axes[len(rows) :]:
            panel.set_visible(False)
        lowest_panels(axes, len(rows), shape[1])
        for panel in axes[:: shape[1]]:
            panel.set_ylabel("nats")
    return figure
