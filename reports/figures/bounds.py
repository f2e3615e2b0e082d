"""The bounds: waterfalls, bound against truth, slack over training, the trade-off of the PAC-Bayes bound."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from ssa_analysis.reports.figures.frames import error_bars, grid_shape, lowest_panels, panel_choice, rows_of
from ssa_analysis.reports.style import PALETTE, method_label, method_style, new_figure, ordered_methods, plain, styled

UP, DOWN, TOTAL = "#D55E00", "#56B4E9", "#666666"
SHORT = {
    "trained probe": "probe",
    "mean classifier gap (R1)": "R1",
    "class-collapse gap (R2)": "R2",
    "uniformity gap (R8)": "R8 unif.",
    "alignment gap (R8)": "R8 align.",
    "mean classifier": "mean class. (R1)",
    "class collapse": "collapse (R2)",
    "Jensen": "Jensen (R3)",
    "finite K": "finite K (R4)",
}
TRUTH = "mean_classifier_loss"
BOUNDS = {"ideal_bound": "R2 (ideal pairs)", "tightest_route": "tightest route", "chain": "chain with certificate"}
SLACKS = ("R1", "R2", "R3", "R4", "R6", "R7")


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
            _draw_bars(panel, bars, row)
        for panel in axes[len(rows) :]:
            panel.set_visible(False)
        lowest_panels(axes, len(rows), shape[1])
        for panel in axes[:: shape[1]]:
            panel.set_ylabel("nats")
    return figure


def _draw_bars(panel: Axes, bars: list[tuple[str, float, float, str]], row: object) -> None:
    """Bars (name, bottom, top, colour) with the chance level across."""
    for place, (_, start, end, colour) in enumerate(bars):
        panel.bar(place, end - start, bottom=start, color=colour, width=0.7)
    panel.axhline(row.settings["chance"], color="black", linestyle="--", linewidth=0.9)  # type: ignore[attr-defined]
    panel.set_title(plain(row.checkpoint))  # type: ignore[attr-defined]
    panel.set_xticks(range(len(bars)), [b[0] for b in bars], rotation=60, ha="right", rotation_mode="anchor", fontsize=6)
    panel.grid(visible=False, axis="x")


def bound_chain(frame: pd.DataFrame) -> Figure | None:
    """The whole chain by the tightest route: from the probe's loss to what the held-out certificate says."""
    return _chain_waterfall(frame, "chain")


def pac_bayes_chain(frame: pd.DataFrame) -> Figure | None:
    """The same with the PAC-Bayes bound of the training run in the certificate's place."""
    return _chain_waterfall(frame, "chain_pac_bayes")


def _chain_waterfall(frame: pd.DataFrame, name: str) -> Figure | None:
    rows = panel_choice(rows_of(frame, "bounds", name))
    rows = rows[[bool(a.get("step")) for a in rows["arrays"]]]
    if rows.empty:
        return None
    shape = grid_shape(len(rows))
    figure, axes = new_figure(2.2 * shape[0] + 0.3, rows=shape[0], columns=shape[1], sharey=True)
    with styled():
        for panel, row in zip(axes, rows.itertuples(), strict=False):
            used = [i for i, value in enumerate(row.arrays["value"]) if value or i == 0]  # parts that a chain does not have
            cause = {"shift": f"shift ({row.settings['route']})", "complexity": "complexity (R9)"}
            ends = np.cumsum(np.array(row.arrays["value"], float)[used])
            starts = np.concatenate([[0.0], ends[:-1]])
            names = [SHORT.get(s, cause.get(s, s)) for s in np.array(row.arrays["step"])[used]]
            bars = [(s, a, b, UP if b >= a else DOWN) for s, a, b in zip(names, starts, ends, strict=True)]
            bars[0] = (*bars[0][:3], TOTAL)
            bars.append(("bound", 0.0, float(ends[-1]), TOTAL))
            _draw_bars(panel, bars, row)
        for panel in axes[len(rows) :]:
            panel.set_visible(False)
        for panel in axes[:: shape[1]]:
            panel.set_ylabel("nats")
    return figure


def bound_against_truth(frame: pd.DataFrame) -> Figure | None:
    """Three bounds of the mean classifier's loss over that loss, one point a checkpoint; a theorem lies above the diagonal."""
    truth = rows_of(frame, "bounds", TRUTH).set_index("sha256")
    panels = {name: rows_of(frame, "bounds", name) for name in BOUNDS}
    certified = [s.get("confidence") is not None for s in panels["chain"]["settings"]]
    panels["chain"] = panels["chain"][np.array(certified, bool)]  # others end before it
    panels = {name: rows[rows["sha256"].isin(truth.index)] for name, rows in panels.items()}
    panels = {name: rows for name, rows in panels.items() if not rows.empty}
    if not panels:
        return None
    methods = ordered_methods(list(truth["method"]))
    figure, axes = new_figure(2.9, rows=1, columns=len(panels), sharex=True)
    with styled():
        for panel, (name, rows) in zip(axes, panels.items(), strict=True):
            for method in methods:
                group = rows[rows["method"] == method]
                if group.empty:
                    continue
                matched = truth.loc[group["sha256"]]
                bars = {"xerr": error_bars(matched), "yerr": error_bars(group)}
                style = method_style(method, methods)
                panel.errorbar(matched["value"], group["value"], **bars, linestyle="none", markersize=4, elinewidth=0.6, **style)
            ends = [float(truth["value"].min()), float(truth["value"].max())]
            room = 0.05 * max(ends[1] - ends[0], 0.1)
            panel.plot([ends[0] - room, ends[1] + room], [ends[0] - room, ends[1] + room], color="black", linewidth=0.8)
            for chance in sorted({round(float(s["chance"]), 6) for s in rows["settings"]}):
                panel.axhline(chance, color="black", linestyle="--", linewidth=0.9)
            panel.set_title(BOUNDS[name])
            panel.set_xlabel("mean classifier's loss (nats)")
        axes[0].set_ylabel("bound (nats)")
        handles = [Line2D([], [], linestyle="none", label=plain(method_label(m)), **method_style(m, methods)) for m in methods]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    return figure


def slack_over_epochs(frame: pd.DataFrame) -> Figure | None:
    """Slack of each rung over the epochs of training, one line a run; None unless some run has two checkpoints or more."""
    rows = frame[(frame["measure"] == "bounds") & frame["name"].isin(SLACKS) & np.isfinite(frame["value"])]
    rows = rows[np.isfinite(rows["epoch"]) & (rows["run"] != "")]
    several = rows.groupby("run")["epoch"].nunique()
    rows = rows[rows["run"].isin(several[several >= 2].index)]
    rungs = [r for r in SLACKS if (rows["name"] == r).any()]
    if not rungs:
        return None
    methods = ordered_methods(list(rows["method"].fillna("unknown")))
    shape = grid_shape(len(rungs), 3)
    figure, axes = new_figure(1.9 * shape[0] + 0.4, rows=shape[0], columns=shape[1], sharex=True)
    with styled():
        for panel, rung in zip(axes, rungs, strict=False):
            own = rows[rows["name"] == rung].drop_duplicates(["run", "epoch"])
            for _, line in own.groupby("run", sort=False):
                line = line.sort_values("epoch")
                style = method_style(str(line["method"].iloc[0]), methods)
                panel.errorbar(
                    line["epoch"], line["value"], yerr=error_bars(line), markersize=3, elinewidth=0.6, linewidth=1.0, **style
                )
            panel.set_title(rung)
            panel.set_ylim(bottom=min(0.0, float(own["low"].fillna(own["value"]).min())))
            panel.set_ylabel("slack (cosine)" if rung == "R7" else "slack (nats)")
        for panel in axes[len(rungs) :]:
            panel.set_visible(False)
        for panel in lowest_panels(axes, len(rungs), shape[1]):
            panel.set_xlabel("epoch")
        handles = [Line2D([], [], label=plain(method_label(m)), **method_style(m, methods)) for m in methods]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    return figure


def sharpness_complexity(frame: pd.DataFrame) -> Figure | None:
    """The PAC-Bayes bound over the scale of the noise, and the two that pull at it; logarithmic both ways."""
    rows = panel_choice(rows_of(frame, "bounds", "pac_bayes"))
    rows = rows[[bool(a.get("classic_complexity")) for a in rows["arrays"]]]
    if rows.empty:
        return None
    shape = grid_shape(len(rows))
    figure, axes = new_figure(2.0 * shape[0] + 0.7, rows=shape[0], columns=shape[1], sharey=True, sharex=True)
    lines = {
        "sharpness": (PALETTE[5], "-", "sharpness"),
        "classic_complexity": (PALETTE[0], "-", "complexity, unlimited"),
        "classic": (PALETTE[7], "-", "loss + all parts, unlimited"),
        "bound": ("black", "-", "bound"),
    }
    with styled():
        for panel, row in zip(axes, rows.itertuples(), strict=False):
            arrays = {key: np.array(values, float) for key, values in row.arrays.items()}
            arrays["classic"] = sum(arrays[k] for k in ("loss", "sharpness", "monte_carlo", "classic_complexity"))
            for key, (colour, line, _) in lines.items():
                shown = np.where(arrays[key] > 0, arrays[key], np.nan)
                panel.plot(arrays["scale"], shown, color=colour, linestyle=line, linewidth=1.1)
                if key in ("classic", "bound"):
                    best = int(np.nanargmin(arrays[key]))
                    panel.plot(arrays["scale"][best], arrays[key][best], color=colour, marker="o", markersize=4)
            panel.axhline(row.settings["constant"], color="black", linestyle="--", linewidth=0.9)
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_title(plain(row.checkpoint))
        for panel in axes[len(rows) :]:
            panel.set_visible(False)
        for panel in lowest_panels(axes, len(rows), shape[1]):
            panel.set_xlabel("scale s of the noise")
        for panel in axes[:: shape[1]]:
            panel.set_ylabel("nats")
        axes[0].set_ylim(bottom=1e-2)
        handles = [Line2D([], [], color=c, linestyle=line, label=text) for c, line, text in lines.values()]
        handles += [Line2D([], [], color="black", linestyle="none", marker="o", markersize=4, label="minimum")]
        handles += [Line2D([], [], color="black", linestyle="--", label="constant embedding")]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
