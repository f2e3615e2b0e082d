"""Scores against downstream accuracy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from ssa_analysis.reports.figures.frames import grid_shape, legend_of_methods, points_by_method, rows_of
from ssa_analysis.reports.names import KEY_SCORES, labelled
from ssa_analysis.reports.style import new_figure, ordered_methods, styled

from ssa_analysis.errors import DataError
from ssa_analysis.linking.rank import link_scores, link_table

TARGET = "downstream.probe_accuracy"
PANELS = (
    "curvature.lambda_max",
    "flatness.worst_case",
    "landscape.rise_half",
    "shift.mmd2_difference",
    "shift.gaussian_w2",
    "robustness.mean_error",
    "representation.effective_rank",
    "bounds.ideal_bound",
)


def score_scatter(frame: pd.DataFrame) -> Figure | None:
    """Probe accuracy over each of eight scores, one point a checkpoint, with intervals both ways."""
    target = rows_of(frame, *TARGET.split(".")).set_index("sha256")
    panels = {key: rows_of(frame, *key.split(".")) for key in PANELS}
    panels = {key: rows[rows["sha256"].isin(target.index)] for key, rows in panels.items()}
    panels = {key: rows for key, rows in panels.items() if not rows.empty}
    if not panels:
        return None
    methods = ordered_methods(list(target["method"]))
    rows_count, columns = grid_shape(len(panels))
    figure, axes = new_figure(1.9 * rows_count + 0.4, rows=rows_count, columns=columns, sharey=True)
    with styled():
        for panel, (key, rows) in zip(axes, panels.items(), strict=False):
            points_by_method(panel, rows, target.loc[rows["sha256"]], methods)
            panel.set_xlabel(labelled(frame, key))
        for panel in axes[len(panels) :]:
            panel.set_visible(False)
        for panel in axes[::columns]:
            panel.set_ylabel("probe accuracy")
        legend_of_methods(figure, methods, linestyle="none")
    return figure


def correlations(frame: pd.DataFrame) -> Figure | None:
    """Spearman correlation of the key scores with probe accuracy, with intervals; None with too few checkpoints."""
    try:
        links = {link.score: link for link in link_scores(frame, TARGET)}
    except DataError:
        return None
    keys = [row.key for row in KEY_SCORES if row.key in links]
    if not keys:
        return None
    table = link_table([links[key] for key in keys[::-1]])
    figure, (axes,) = new_figure(0.28 * len(keys) + 0.9)
    with styled():
        places = np.arange(len(keys))
        value = table["spearman"].to_numpy()
        bars = np.stack([value - table["spearman_low"], table["spearman_high"] - value]).clip(min=0)
        decided = (table["spearman_low"] > 0) | (table["spearman_high"] < 0)
        axes.errorbar(value, places, xerr=np.nan_to_num(bars), fmt="none", ecolor="#0072B2")
        axes.scatter(value, places, s=22, c=np.where(decided, "#0072B2", "white"), edgecolors="#0072B2", zorder=3)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(places, [labelled(frame, k) for k in keys[::-1]])
        axes.set_xlim(-1.05, 1.05)
        axes.set_xlabel(f"Spearman correlation with probe accuracy ({int(table['n'].max())} checkpoints)")
    return figure
