"""Scores against downstream accuracy."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from ssa_analysis.reports.analysis import linking_of
from ssa_analysis.reports.figures.frames import (
    hide_rest,
    interval_text,
    legend_of_methods,
    points_by_method,
    rows_of,
    tilted,
)
from ssa_analysis.reports.hover import tell
from ssa_analysis.reports.names import KEY_SCORES, labelled
from ssa_analysis.reports.style import (
    CELL_INK,
    CELL_WHITE,
    METHOD_ORDER,
    PAGE,
    Look,
    method_label,
    method_styles,
    new_figure,
    ordered_methods,
    styled,
)

from ssa_analysis.linking.granulated import Granulated
from ssa_analysis.linking.hypotheses import matched_differences, mean_over_cells
from ssa_analysis.linking.links import MINIMUM
from ssa_analysis.linking.rank import centred, correlation, weighted_ranks
from ssa_analysis.linking.resampling import configuration_weights, percentile_interval
from ssa_analysis.linking.table import design_of, wide_table

TARGET = "downstream.probe_accuracy"
SIGNIFICANT = 0.05
DRAWS = 1000  # resamples of the configurations
LEFT_OUT = (("configuration", "#0072B2", "o"), ("method", "#D55E00", "s"))
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


def score_scatter(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Probe accuracy over each of eight scores, one point a checkpoint, with intervals both ways."""
    target = rows_of(frame, *TARGET.split(".")).set_index("sha256")
    panels = {key: rows_of(frame, *key.split(".")) for key in PANELS}
    panels = {key: rows[rows["sha256"].isin(target.index)] for key, rows in panels.items()}
    panels = {key: rows for key, rows in panels.items() if not rows.empty}
    if not panels:
        return None
    methods = ordered_methods(list(target["method"]))
    rows_count, columns = look.grid(len(panels))
    figure, axes = new_figure(1.9 * rows_count + 0.4, look, rows=rows_count, columns=columns, sharey=True)
    with styled(look):
        for panel, (key, rows) in zip(axes, panels.items(), strict=False):
            labels = (labelled(frame, key), "probe accuracy")
            points_by_method(panel, rows, target.loc[rows["sha256"]], method_styles(frame), labels)
            panel.set_xlabel(look.wrapped(labels[0], columns))
        hide_rest(axes, len(panels))
        for panel in axes[::columns]:
            panel.set_ylabel("probe accuracy")
        legend_of_methods(figure, frame, methods, look, linestyle="none")
    return figure


def correlations(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Spearman correlation of the key scores with the target: raw, and where the settings but the method's are equal."""
    links = {link.score: link for link in linking_of(frame).links}
    keys = [row.key for row in KEY_SCORES if row.key in links]
    if not keys:
        return None
    chosen = [links[key] for key in keys[::-1]]
    rows = [("all checkpoints", "#0072B2", [(link.spearman, link.p_holm) for link in chosen])]
    if any(np.isfinite(link.within.value) for link in chosen):
        rows.append(("at equal settings", "#D55E00", [(link.within, link.p_within_holm) for link in chosen]))
    figure, (axes,) = new_figure(0.3 * len(keys) + 1.1, look)
    with styled(look):
        places = np.arange(len(keys))
        for number, (label, colour, found) in enumerate(rows):
            offset = 0.14 - 0.28 * number if len(rows) > 1 else 0.0
            value = np.array([interval.value for interval, _ in found])
            bars = np.array([[i.value - i.low, i.high - i.value] for i, _ in found]).T.clip(min=0)
            axes.errorbar(value, places + offset, xerr=np.nan_to_num(bars), fmt="none", ecolor=colour, elinewidth=1)
            faces = [colour if p <= SIGNIFICANT else "white" for _, p in found]
            points = axes.scatter(value, places + offset, s=22, c=faces, edgecolors=colour, zorder=3, label=label)
            tell(points, [f"{labelled(frame, key)}, {label}\n{interval_text(i.value, i.low, i.high)}, p {p:.2g}"
                          for key, (i, p) in zip(keys[::-1], found, strict=True)])  # fmt: skip
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(places, [labelled(frame, k) for k in keys[::-1]])
        axes.set_xlim(-1.05, 1.05)
        label = f"Spearman correlation with {_target_label(frame)} ({max(link.n for link in chosen)} checkpoints)"
        axes.set_xlabel(look.wrapped(label))
        if len(rows) > 1:
            handles = [Line2D([], [], marker="o", linestyle="none", color=colour, label=label) for label, colour, _ in rows]
            figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def score_correlations(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Spearman correlations among the key scores, a heat map; bracketed where the 95 % interval holds 0.

    Intervals are those of a bootstrap over configurations (:mod:`ssa_analysis.linking.resampling`).
    """
    table = wide_table(frame) if len(frame) else pd.DataFrame()
    keys = [row.key for row in KEY_SCORES if row.key in table]
    table = table[keys].dropna(axis=1, thresh=max(MINIMUM, len(table) // 2)).dropna() if keys else table
    keys = [key for key in table.columns if table[key].nunique() > 1]
    if len(keys) < 2 or len(table) < MINIMUM:
        return None
    design = design_of(frame, list(table.index))
    weights = np.concatenate([np.ones((1, len(table))), configuration_weights(design, DRAWS)])
    ranks = {key: centred(weighted_ranks(table[key].to_numpy(float), weights), weights) for key in keys}
    values, brackets = np.eye(len(keys)), np.zeros((len(keys), len(keys)), dtype=bool)
    for (i, one), (j, other) in itertools.combinations(enumerate(keys), 2):
        found = correlation(ranks[one], ranks[other])
        interval = percentile_interval(float(found[0]), found[1:], design.configurations)
        values[i, j] = values[j, i] = interval.value
        brackets[i, j] = brackets[j, i] = not (interval.low > 0 or interval.high < 0)
    labels = [labelled(frame, key) for key in keys]
    figure, (axes,) = new_figure(0.26 * len(keys) + 2.0, look)
    with styled(look):
        image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        axes.set_xticks(range(len(keys)), labels, rotation=50, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(keys)), labels)
        axes.grid(False)
        for row, column in np.ndindex(*values.shape):
            if row != column and look.panels >= 4:
                text = f"{values[row, column]:.2f}".replace("0.", ".")
                axes.text(column, row, f"({text})" if brackets[row, column] else text, ha="center", va="center", fontsize=6,
                          color=CELL_WHITE if abs(values[row, column]) > 0.6 else CELL_INK)  # fmt: skip
        figure.colorbar(image, ax=axes, label=f"Spearman ({len(table)} checkpoints)", shrink=0.8)
    return figure


def granulated(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Kendall coefficients of the key scores with the target, each setting varying alone; the last column is their mean."""
    links = {link.score: link for link in linking_of(frame).links}
    keys = [row.key for row in KEY_SCORES if row.key in links and _psi_known(links[row.key].granulated)]
    if not keys:
        return None
    criteria = [links[key].granulated for key in keys]
    names = list(dict.fromkeys(name for c in criteria if c is not None for name in c.settings))
    values = np.array([[*(c.settings.get(n, np.nan) for n in names), c.psi.value] for c in criteria if c is not None])
    figure, (axes,) = new_figure(0.3 * len(keys) + 1.2, look)
    with styled(look):
        image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        axes.set_xticks(range(len(names) + 1), [*(name.replace("_", " ") for name in names), "mean Ψ"],
                        **tilted(len(names) + 1, look))  # fmt: skip
        axes.set_yticks(range(len(keys)), [labelled(frame, key) for key in keys])
        axes.grid(False)
        axes.axvline(len(names) - 0.5, color="black", linewidth=1)
        for row, column in np.ndindex(*values.shape):
            if np.isfinite(values[row, column]):
                dark = abs(values[row, column]) > 0.6
                axes.text(column, row, f"{values[row, column]:+.2f}", ha="center", va="center", fontsize=7,
                          color=CELL_WHITE if dark else CELL_INK)  # fmt: skip
        figure.colorbar(image, ax=axes, label=f"Kendall with {_target_label(frame)}", shrink=0.8)
        axes.set_xlabel("the setting that varies")
    return figure


def _psi_known(criterion: Granulated | None) -> bool:
    return criterion is not None and np.isfinite(criterion.psi.value)


def predicted_accuracy(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """R2 of ridge regressions from sets of scores, for left-out configurations and for left-out methods."""
    found = linking_of(frame).predictions
    if not found:
        return None
    names = list(dict.fromkeys(p.name for p in found))[::-1]
    figure, (axes,) = new_figure(0.32 * len(names) + 1.1, look)
    lowest = -1.0
    with styled(look):
        handles = []
        for (kind, colour, marker), offset in zip(LEFT_OUT, (0.14, -0.14), strict=True):
            own = [p for p in found if p.groups == kind]
            for p in own:
                place, value = names.index(p.name) + offset, p.r2.value
                if value < lowest:  # far worse than the mean: an arrow at the edge
                    axes.scatter(lowest, place, marker="<", color=colour, s=22, zorder=3)
                    continue
                bars = np.nan_to_num([[value - max(p.r2.low, lowest)], [p.r2.high - value]]).clip(min=0)
                drawn = axes.errorbar(value, place, xerr=bars, color=colour, marker=marker, markersize=4, elinewidth=1)
                tell(drawn[0], [f"{p.name}, a {kind} left out\nR² {interval_text(value, p.r2.low, p.r2.high)}"])
            if own:
                handles.append(Line2D([], [], color=colour, marker=marker, linestyle="none", label=f"a {kind} left out"))
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlim(lowest - 0.05, 1.02)
        axes.set_yticks(range(len(names)), names)
        label = f"R² of predicted {_target_label(frame)}; 0: no better than the mean of the others"
        axes.set_xlabel(look.wrapped(label))
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def method_contrasts(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """What each method changes against SimCLR, at equal other settings and seed: means over configurations, 95 % intervals.

    A sharpness by its logarithm, as in the verdicts.
    """
    table, whole = wide_table(frame), design_of(frame)
    panels = {}
    for key in (TARGET, "robustness.mean_error", "curvature.lambda_max", "flatness.worst_case", "shift.gaussian_w2"):
        if key not in table:
            continue
        values, label = table[key].dropna(), labelled(frame, key)
        if key in linking_of(frame).settings.sharpness and (values > 0).all():  # as the verdicts compare it
            values, label = np.log(values), f"ln ratio of {label.removesuffix(' (nats)')}"
        design = whole.of(list(values.index))
        rows = []
        for method in METHOD_ORDER[1:]:
            differences, cells = matched_differences(values.to_numpy(float), design, method, METHOD_ORDER[0])
            if len(differences) > 1:
                rows.append((method, mean_over_cells(differences, cells)))
        if rows:
            panels[key] = (label, rows)
    if not panels:
        return None
    methods = [m for m in METHOD_ORDER[1:] if any(m == method for _, rows in panels.values() for method, _ in rows)]
    count, columns = look.grid(len(panels), 5) if look.panels < 4 else (1, len(panels))
    figure, axes = new_figure((0.32 * len(methods) + 1.2) * count, look, rows=count, columns=columns, sharey=True)
    styles = method_styles(frame)
    with styled(look):
        hide_rest(axes, len(panels))
        for panel, (label, rows) in zip(axes, panels.values(), strict=False):
            for method, (interval, _) in rows:
                bars = np.nan_to_num([[interval.value - interval.low], [interval.high - interval.value]])
                place = methods.index(method)
                drawn = panel.errorbar(interval.value, place, xerr=bars, markersize=4, linestyle="none", **styles[method])
                tell(drawn[0], [f"{method_label(method)}\n{label}: {interval_text(interval.value, interval.low, interval.high)}"])
            panel.axvline(0, color="black", linewidth=0.8)
            panel.set_xlabel(look.wrapped(label, columns), fontsize=look.font - 2)
            panel.tick_params(axis="x", labelsize=6)
            panel.margins(y=0.3)
        axes[0].set_yticks(range(len(methods)), [method_label(m).replace(" + ", "\n+ ") for m in methods])
        axes[0].invert_yaxis()
    return figure


def _target_label(frame: pd.DataFrame) -> str:
    return labelled(frame, linking_of(frame).settings.target)
