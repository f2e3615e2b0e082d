"""The shift between ideal and practical pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from ssa_analysis.reports.figures.frames import (
    error_bars,
    hide_rest,
    legend_of_methods,
    lowest_panels,
    named_values,
    one_of_each,
    panel_choice,
    rows_of,
    with_arrays,
)
from ssa_analysis.reports.hover import tell, tell_grid
from ssa_analysis.reports.style import PAGE, Look, method_styles, new_figure, ordered_methods, styled

STATISTICS = ("marginal", "sum", "difference", "joint", "cross_moment")
SIGNIFICANT = 0.05
NULL_CHECKPOINTS = 4  # rows of the figures that take a row a checkpoint


def shift_statistics(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Squared MMD of each coordinate and checkpoint, with intervals; filled where the permutation test rejects."""
    rows = {name: rows_of(frame, "shift", f"mmd2_{name}") for name in STATISTICS}
    rows = {name: r for name, r in rows.items() if not r.empty}
    if not rows:
        return None
    methods = ordered_methods([m for r in rows.values() for m in r["method"]])
    shape = look.grid(len(rows), 5) if look.panels < 4 else (1, len(rows))
    figure, axes = new_figure(2.2 * shape[0] + 0.4, look, rows=shape[0], columns=shape[1])
    styles = method_styles(frame)
    with styled(look):
        hide_rest(axes, len(rows))
        for panel, (name, group) in zip(axes, rows.items(), strict=False):
            p = np.array([s.get("p_value", 1.0) for s in group["settings"]], float)
            texts = np.array([f"{text}, p {v:.2g}" for text, v in zip(named_values(group, f"MMD² {name}"), p, strict=True)])
            for method in methods:
                for filled in (True, False):
                    own = ((group["method"] == method) & ((p <= SIGNIFICANT) == filled)).to_numpy()
                    style = styles[method]
                    face = style["color"] if filled else "white"
                    drawn = panel.errorbar(np.flatnonzero(own), group["value"][own], error_bars(group[own]), markersize=4,
                                           markerfacecolor=face, linestyle="none", **style)  # fmt: skip
                    tell(drawn[0], list(texts[own]))
            panel.axhline(0, color="black", linewidth=0.6)
            panel.set_title(name.replace("_", " "))
            panel.set_xticks([])
            panel.tick_params(axis="y", labelsize=6)
        for panel in axes[:: shape[1]]:
            panel.set_ylabel("MMD² (unbiased)")
        legend_of_methods(figure, frame, methods, look, linestyle="none")
    return figure


def _paired(frame: pd.DataFrame, score: str, keys: tuple[str, str], label: str, look: Look) -> Figure | None:
    """Densities of one quantity under both laws, one panel a checkpoint; ``keys`` name the arrays, ideal first."""
    chosen = list(with_arrays(panel_choice(rows_of(frame, "shift", score)), keys[0]))
    if not chosen:
        return None
    rows, columns = look.grid(len(chosen))
    figure, axes = new_figure(1.7 * rows + 0.3, look, rows=rows, columns=columns, sharex=True, sharey=True)
    pooled = np.concatenate([np.array(a[keys[0]] + a[keys[1]]) for _, _, a in chosen])
    bins = np.linspace(pooled.min(), pooled.max() + 1e-9, 30)
    with styled(look):
        for panel, (name, _, arrays) in zip(axes, chosen, strict=False):
            panel.hist(arrays[keys[0]], bins, density=True, histtype="step", color="black", label="ideal (same class)")
            filled = {"histtype": "stepfilled", "alpha": 0.5, "color": "#56B4E9"}
            heights, *_ = panel.hist(arrays[keys[1]], bins, density=True, label="practical (two views)", **filled)
            for key, line in zip(keys, ({"color": "black"}, {"color": "#0072B2", "linestyle": "--"}), strict=True):
                panel.axvline(float(np.mean(arrays[key])), linewidth=0.8, **line)
            means = "\n".join(f"{key.split('_')[0]}: mean {np.mean(arrays[key]):.4g}" for key in keys)
            for middle, height in zip((bins[1:] + bins[:-1]) / 2, heights, strict=True):  # on the bars, where one points
                tell_grid(panel, np.array([middle]), np.array([height / 2]), [[f"{name}\n{means}"]])
            panel.set_title(look.fitted(name, columns))
        hide_rest(axes, len(chosen))
        for panel in lowest_panels(axes, len(chosen), columns):
            panel.set_xlabel(label)
        for panel in axes[::columns]:
            panel.set_ylabel("density")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def pair_similarities(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Similarities z.z+ under both laws."""
    return _paired(frame, "alignment_gap", ("ideal", "practical"), "z·z⁺", look)


def pair_differences(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Lengths of the difference coordinate under both laws."""
    return _paired(frame, "alignment_gap", ("ideal_difference", "practical_difference"), "|z − z⁺| / √2", look)


def margins(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Margins u under both laws; their W1 is rung R6."""
    return _paired(frame, "margin_w1", ("ideal", "practical"), "margin u (nats)", look)


def null_histograms(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """The MMD of each coordinate under permutation, and the observed one: a row for each of the first checkpoints."""
    chosen = one_of_each(rows_of(frame, "shift", "mmd2_difference"), NULL_CHECKPOINTS)["checkpoint"].tolist()
    found = {
        (row.checkpoint, row.name): row
        for row in frame[(frame["measure"] == "shift") & frame["name"].str.startswith("mmd2_")].itertuples(index=False)
        if row.checkpoint in chosen and row.arrays.get("null")
    }
    if not found:
        return None
    figure, axes = new_figure(1.5 * len(chosen) + 0.4, look, rows=len(chosen), columns=len(STATISTICS))
    with styled(look):
        for number, panel in enumerate(axes):
            checkpoint, statistic = chosen[number // len(STATISTICS)], STATISTICS[number % len(STATISTICS)]
            row = found.get((checkpoint, f"mmd2_{statistic}"))
            if row is None:
                panel.set_visible(False)
                continue
            panel.hist(row.arrays["null"], 30, density=True, histtype="stepfilled", color="#999999")
            panel.axvline(row.value, color="#D55E00", linewidth=1.2)
            said = f"{checkpoint}\nMMD² {statistic}: {row.value:.4g}, p {row.settings['p_value']:.2g}"
            tell_grid(panel, np.array([row.value]), np.array([np.mean(panel.get_ylim())]), [[said]])
            name = look.wrapped(statistic.replace("_", " "), len(STATISTICS))
            panel.set_title(f"{name}\np = {row.settings['p_value']:.2g}")
            panel.xaxis.set_major_locator(MaxNLocator(3))
            panel.set_yticks([])
            panel.tick_params(axis="x", labelsize=5)
            panel.xaxis.get_offset_text().set_fontsize(5)
            if number % len(STATISTICS) == 0:
                panel.set_ylabel(look.fitted(checkpoint, 5), fontsize=look.font - 2)
        handles = [
            Line2D([], [], color="#999999", linewidth=5, label="under permutation"),
            Line2D([], [], color="#D55E00", label="observed MMD²"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def pair_map(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Both ends of pairs on their two principal components, joined by a line: ideal pairs left, practical ones right."""
    chosen = list(with_arrays(one_of_each(rows_of(frame, "shift", "alignment_gap"), NULL_CHECKPOINTS), "map_ideal"))
    if not chosen:
        return None
    figure, axes = new_figure(2.4 * len(chosen) + 0.3, look, rows=len(chosen), columns=2, sharex="row", sharey="row")
    with styled(look):
        for (name, _, arrays), panels in zip(chosen, zip(axes[::2], axes[1::2], strict=True), strict=True):
            for panel, law, color in zip(panels, ("ideal", "practical"), ("black", "#0072B2"), strict=True):
                ends = np.array(arrays[f"map_{law}"], float)
                x, y = (np.column_stack([ends[:, [k, k + 2]], np.full(len(ends), np.nan)]).ravel() for k in (0, 1))
                (line,) = panel.plot(x, y, color=color, linewidth=0.5, alpha=0.6, marker="o", markersize=1.8)
                tell(line, [f"{law} pair {k + 1}" for k in range(len(ends)) for _ in range(3)])
                panel.set_title(f"{look.fitted(name, 2)}\n{law} pairs")
                share = f"component 1 (both: {arrays['map_share']:.0%} of the variance)"
                panel.set_xlabel(look.wrapped(share, 2), fontsize=look.font - 1)
            panels[0].set_ylabel("component 2")
    return figure
