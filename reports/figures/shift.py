"""The shift between ideal and practical pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from ssa_analysis.reports.figures.frames import error_bars, grid_shape, lowest_panels, panel_choice, rows_of, with_arrays
from ssa_analysis.reports.style import method_label, method_style, new_figure, ordered_methods, plain, styled

STATISTICS = ("marginal", "sum", "difference", "joint", "cross_moment")
SIGNIFICANT = 0.05


def shift_statistics(frame: pd.DataFrame) -> Figure | None:
    """Squared MMD of each coordinate and checkpoint, with intervals; filled where the permutation test rejects."""
    rows = {name: rows_of(frame, "shift", f"mmd2_{name}") for name in STATISTICS}
    rows = {name: r for name, r in rows.items() if not r.empty}
    if not rows:
        return None
    methods = ordered_methods([m for r in rows.values() for m in r["method"]])
    figure, axes = new_figure(2.6, columns=len(rows))
    with styled():
        for panel, (name, group) in zip(axes, rows.items(), strict=True):
            for place, ((_, row), error) in enumerate(zip(group.iterrows(), error_bars(group).T, strict=True)):
                style = method_style(row["method"], methods)
                filled = row["settings"].get("p_value", 1.0) <= SIGNIFICANT
                face = style["color"] if filled else "white"
                panel.errorbar(place, row["value"], error[:, None], markersize=4, markerfacecolor=face, linestyle="none", **style)
            panel.axhline(0, color="black", linewidth=0.6)
            panel.set_title(name.replace("_", " "))
            panel.set_xticks([])
            panel.tick_params(axis="y", labelsize=6)
        axes[0].set_ylabel("MMD² (unbiased)")
        handles = [Line2D([], [], linestyle="none", label=plain(method_label(m)), **method_style(m, methods)) for m in methods]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    return figure


def pair_similarities(frame: pd.DataFrame) -> Figure | None:
    """Histograms of z.z+ under both laws, one panel a checkpoint."""
    chosen = list(with_arrays(panel_choice(rows_of(frame, "shift", "alignment_gap")), "ideal"))
    if not chosen:
        return None
    rows, columns = grid_shape(len(chosen))
    figure, axes = new_figure(1.7 * rows + 0.3, rows=rows, columns=columns, sharex=True, sharey=True)
    low = min(min(a["ideal"] + a["practical"]) for _, _, a in chosen)
    bins = np.linspace(low, 1, 25)
    with styled():
        for panel, (name, _, arrays) in zip(axes, chosen, strict=False):
            panel.hist(arrays["ideal"], bins, density=True, histtype="step", color="black", label="ideal (same class)")
            panel.hist(arrays["practical"], bins, density=True, alpha=0.5, color="#56B4E9", label="practical (two views)")
            panel.set_title(plain(name))
        for panel in axes[len(chosen) :]:
            panel.set_visible(False)
        for panel in lowest_panels(axes, len(chosen), columns):
            panel.set_xlabel("z·z⁺")
        axes[0].set_ylabel("density")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
