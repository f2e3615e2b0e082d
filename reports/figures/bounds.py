"""The bounds: waterfalls, bound against truth, slack over training, the trade-off of the PAC-Bayes bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from ssa_analysis.reports.figures.frames import (
    MAX_LINES,
    error_bars,
    hide_rest,
    legend_of_methods,
    lowest_panels,
    named_values,
    panel_choice,
    points_by_method,
    rows_of,
)
from ssa_analysis.reports.hover import tell
from ssa_analysis.reports.style import PAGE, PALETTE, UNKNOWN, Look, method_styles, new_figure, ordered_methods, styled

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


Bar = tuple[str, float, float, str]  # name, bottom, top, colour


def bound_waterfall(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """From the probe's loss to the ideal bound, and on to the practical pairs; one panel a checkpoint."""

    def bars_of(row: Any) -> list[Bar]:
        bars = _steps([SHORT.get(s, s) for s in row.arrays["step"]], row.arrays["value"])
        # after the R2 step stands its total, and at the end what the practical pairs show
        return [*bars[:3], ("bound", 0.0, bars[2][2], TOTAL), *bars[3:], ("practical", 0.0, bars[-1][2], TOTAL)]

    return _waterfalls(rows_of(frame, "bounds", "ideal_bound"), bars_of, look, alike=True)


def bound_chain(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """The whole chain by the tightest route: from the probe's loss to what the held-out certificate says."""
    return _waterfalls(rows_of(frame, "bounds", "chain"), _chain_bars, look)


def pac_bayes_chain(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """The same with the PAC-Bayes bound of the training run in the certificate's place."""
    return _waterfalls(rows_of(frame, "bounds", "chain_pac_bayes"), _chain_bars, look)


def _chain_bars(row: Any) -> list[Bar]:
    told = {"shift": f"shift ({row.settings['route']})", "complexity": "complexity (R9)", **SHORT}
    # a part that a chain does not have is exactly 0
    used = [(s, v) for i, (s, v) in enumerate(zip(row.arrays["step"], row.arrays["value"], strict=True)) if v or not i]
    bars = _steps([told.get(s, s) for s, _ in used], [v for _, v in used])
    return [*bars, ("bound", 0.0, bars[-1][2], TOTAL)]


def _steps(names: Sequence[str], values: Sequence[float]) -> list[Bar]:
    """A bar from each running sum to the next; the first is a total, not a step."""
    ends = np.cumsum(values)
    starts = np.concatenate([[0.0], ends[:-1]])
    bars = [(n, float(a), float(b), UP if b >= a else DOWN) for n, a, b in zip(names, starts, ends, strict=True)]
    return [(*bars[0][:3], TOTAL), *bars[1:]]


def _waterfalls(rows: pd.DataFrame, bars_of: Callable[[Any], list[Bar]], look: Look, alike: bool = False) -> Figure | None:
    """A panel a checkpoint with its bars and the chance level across; ``alike``: all panels have the same bars."""
    rows = panel_choice(rows)
    rows = rows[[bool(a.get("step")) for a in rows["arrays"]]]
    if rows.empty:
        return None
    shape = look.grid(len(rows))
    figure, axes = new_figure(2.2 * shape[0] + 0.3, look, rows=shape[0], columns=shape[1], sharey=True, sharex=alike)
    with styled(look):
        for panel, row in zip(axes, rows.itertuples(), strict=False):
            bars = bars_of(row)
            for place, (name, start, end, colour) in enumerate(bars):
                (bar,) = panel.bar(place, end - start, bottom=start, color=colour, width=0.7)
                size = f"{end:.4g} nats" if colour == TOTAL else f"{end - start:+.4g} nats, to {end:.4g}"
                tell(bar, [f"{row.checkpoint}\n{name}: {size}"])
            panel.axhline(row.settings["chance"], color="black", linestyle="--", linewidth=0.9)
            panel.set_title(look.fitted(row.checkpoint, shape[1]))
            names = [bar[0] for bar in bars]
            panel.set_xticks(range(len(bars)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=6)
            panel.grid(visible=False, axis="x")
        hide_rest(axes, len(rows))
        if alike:
            lowest_panels(axes, len(rows), shape[1])
        for panel in axes[:: shape[1]]:
            panel.set_ylabel("nats")
    return figure


def bound_against_truth(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
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
    shape = look.grid(len(panels), 3)
    figure, axes = new_figure(2.6 * shape[0] + 0.3, look, rows=shape[0], columns=shape[1], sharex=True)
    with styled(look):
        for panel, (name, rows) in zip(axes, panels.items(), strict=False):
            labels = ("mean classifier's loss", BOUNDS[name])
            points_by_method(panel, truth.loc[rows["sha256"]], rows, method_styles(frame), labels)
            ends = [float(truth["value"].min()), float(truth["value"].max())]
            room = 0.05 * max(ends[1] - ends[0], 0.1)
            panel.plot([ends[0] - room, ends[1] + room], [ends[0] - room, ends[1] + room], color="black", linewidth=0.8)
            for chance in sorted({round(float(s["chance"]), 6) for s in rows["settings"]}):
                panel.axhline(chance, color="black", linestyle="--", linewidth=0.9)
            panel.set_title(BOUNDS[name])
        hide_rest(axes, len(panels))
        for panel in lowest_panels(axes, len(panels), shape[1]):
            panel.set_xlabel(look.wrapped("mean classifier's loss (nats)", shape[1]))
        for panel in axes[:: shape[1]]:
            panel.set_ylabel("bound (nats)")
        legend_of_methods(figure, frame, methods, look, linestyle="none")
    return figure


def slack_over_epochs(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Slack of each rung over the epochs of training, one line a run; None unless some run has two checkpoints or more."""
    rows = frame[(frame["measure"] == "bounds") & frame["name"].isin(SLACKS) & np.isfinite(frame["value"])]
    rows = rows[np.isfinite(rows["epoch"]) & (rows["run"] != "")]
    several = rows.groupby("run", sort=False)["epoch"].nunique()
    rows = rows[rows["run"].isin(several[several >= 2].index[:MAX_LINES])]
    rungs = [r for r in SLACKS if (rows["name"] == r).any()]
    if not rungs:
        return None
    methods = ordered_methods(list(rows["method"].fillna(UNKNOWN)))
    shape, styles = look.grid(len(rungs), 3), method_styles(frame)
    figure, axes = new_figure(1.9 * shape[0] + 0.4, look, rows=shape[0], columns=shape[1], sharex=True)
    with styled(look):
        for panel, rung in zip(axes, rungs, strict=False):
            own = rows[rows["name"] == rung].drop_duplicates(["run", "epoch"])
            for _, line in own.groupby("run", sort=False):
                line = line.sort_values("epoch")
                style = styles[line["method"].fillna(UNKNOWN).iloc[0]]
                drawn = panel.errorbar(
                    line["epoch"], line["value"], yerr=error_bars(line), markersize=3, elinewidth=0.6, linewidth=1.0, **style
                )
                tell(drawn[0], named_values(line, f"slack of {rung}"))
            panel.set_title(rung)
            panel.set_ylim(bottom=min(0.0, float(own["low"].fillna(own["value"]).min())))
            panel.set_ylabel("slack (cosine)" if rung == "R7" else "slack (nats)")
        hide_rest(axes, len(rungs))
        for panel in lowest_panels(axes, len(rungs), shape[1]):
            panel.set_xlabel("epoch")
        legend_of_methods(figure, frame, methods, look)
    return figure


def sharpness_complexity(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """The PAC-Bayes bound over the scale of the noise, and the two that pull at it; logarithmic both ways."""
    rows = panel_choice(rows_of(frame, "bounds", "pac_bayes"))
    rows = rows[[bool(a.get("classic_complexity")) for a in rows["arrays"]]]
    if rows.empty:
        return None
    shape = look.grid(len(rows))
    figure, axes = new_figure(2.0 * shape[0] + 0.7, look, rows=shape[0], columns=shape[1], sharey=True, sharex=True)
    lines = {
        "sharpness": (PALETTE[5], "-", "sharpness"),
        "classic_complexity": (PALETTE[0], "-", "complexity, unlimited"),
        "classic": (PALETTE[7], "-", "loss + all parts, unlimited"),
        "bound": ("black", "-", "bound"),
    }
    with styled(look):
        for panel, row in zip(axes, rows.itertuples(), strict=False):
            arrays = {key: np.array(values, float) for key, values in row.arrays.items()}
            arrays["classic"] = sum(arrays[k] for k in ("loss", "sharpness", "monte_carlo", "classic_complexity"))
            for key, (colour, line, text) in lines.items():
                shown = np.where(arrays[key] > 0, arrays[key], np.nan)
                panel.plot(arrays["scale"], shown, color=colour, linestyle=line, linewidth=1.1, label=text)
                if key in ("classic", "bound"):
                    best = int(np.nanargmin(arrays[key]))
                    panel.plot(arrays["scale"][best], arrays[key][best], color=colour, marker="o", markersize=4)
            panel.axhline(row.settings["constant"], color="black", linestyle="--", linewidth=0.9)
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.minorticks_off()  # of a dozen logarithmic panels they would take half the time
            panel.set_title(look.fitted(row.checkpoint, shape[1]))
        hide_rest(axes, len(rows))
        for panel in lowest_panels(axes, len(rows), shape[1]):
            panel.set_xlabel("scale s of the noise")
        for panel in axes[:: shape[1]]:
            panel.set_ylabel("nats")
        axes[0].set_ylim(bottom=1e-2)
        handles = [Line2D([], [], color=c, linestyle=line, label=text) for c, line, text in lines.values()]
        handles += [Line2D([], [], color="black", linestyle="none", marker="o", markersize=4, label="minimum")]
        handles += [Line2D([], [], color="black", linestyle="--", label="constant embedding")]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, look.panels))
    return figure
