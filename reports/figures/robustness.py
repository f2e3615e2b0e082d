"""Error under corruptions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from ssa_analysis.reports.figures.frames import grid_shape, lowest_panels, rows_of, with_arrays
from ssa_analysis.reports.style import method_label, method_style, new_figure, ordered_methods, plain, styled


def corruption_curves(frame: pd.DataFrame) -> Figure | None:
    """Error over severity, one panel a corruption, one line a method; the band spans its checkpoints."""
    tables = list(with_arrays(rows_of(frame, "robustness", "mean_error"), "error"))
    if not tables:
        return None
    names = tables[0][2]["corruption"]
    tables = [t for t in tables if t[2]["corruption"] == names]
    methods = ordered_methods([m for _, m, _ in tables])
    rows, columns = grid_shape(len(names))
    figure, axes = new_figure(1.7 * rows + 0.4, rows=rows, columns=columns, sharex=True, sharey=True)
    severities = [0, *tables[0][2]["severity"]]
    with styled():
        for number, (panel, name) in enumerate(zip(axes, names, strict=False)):
            for method in methods:
                curves = np.array([[a["clean"], *a["error"][number]] for _, m, a in tables if m == method])
                style = method_style(method, methods)
                panel.plot(severities, curves.mean(0), markersize=3, label=plain(method_label(method)), **style)
                panel.fill_between(severities, curves.min(0), curves.max(0), color=style["color"], alpha=0.15, linewidth=0)
            panel.set_title(name.replace("_", " "))
        for panel in axes[len(names) :]:
            panel.set_visible(False)
        for panel in lowest_panels(axes, len(names), columns):
            panel.set_xlabel("severity")
        for panel in axes[::columns]:
            panel.set_ylabel("error")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(handles)))
    return figure
