"""Reading the long table: one score of all checkpoints, arrays, panels of checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from ssa_analysis.reports.style import method_label, method_style, ordered_methods, plain

MAX_PANELS = 12  # checkpoints with a panel of their own in one figure; beyond it the first of each method are shown


def rows_of(frame: pd.DataFrame, measure: str, name: str) -> pd.DataFrame:
    """Rows of one score with a finite value, methods in their order, then checkpoints."""
    rows = frame[(frame["measure"] == measure) & (frame["name"] == name) & np.isfinite(frame["value"])]
    place = {m: i for i, m in enumerate(ordered_methods(list(rows["method"].fillna("unknown"))))}
    rows = rows.assign(method=rows["method"].fillna("unknown"))
    return (
        rows.assign(_place=rows["method"].map(place)).sort_values(["_place", "checkpoint"], kind="stable").drop(columns="_place")
    )


def with_arrays(rows: pd.DataFrame, key: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """``(checkpoint, method, arrays)`` of rows whose arrays hold ``key``."""
    for row in rows.itertuples():
        arrays = row.arrays
        if isinstance(arrays, dict) and arrays.get(key):
            yield str(row.checkpoint), str(row.method), arrays


def panel_choice(rows: pd.DataFrame) -> pd.DataFrame:
    """At most ``MAX_PANELS`` rows, spread evenly over the methods."""
    if len(rows) <= MAX_PANELS:
        return rows
    share = max(1, MAX_PANELS // rows["method"].nunique())
    return rows.groupby("method", sort=False).head(share).head(MAX_PANELS)


def one_of_each(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """At most ``count`` rows: the first of each method, then the second ones, and so on."""
    return rows.assign(_turn=rows.groupby("method", sort=False).cumcount()).sort_values("_turn", kind="stable").head(count)


def grid_shape(count: int, columns: int = 4) -> tuple[int, int]:
    """Rows and columns for ``count`` panels."""
    columns = min(columns, count)
    return math.ceil(count / columns), columns


def lowest_panels(axes: list[Axes], count: int, columns: int) -> list[Axes]:
    """Those of ``count`` panels that have none below them, with tick labels, which a shared axis would hide."""
    panels = axes[max(0, count - columns) : count]
    for panel in panels:
        panel.xaxis.set_tick_params(labelbottom=True)
    return panels


def error_bars(rows: pd.DataFrame) -> np.ndarray:
    """``(2, n)`` distances to low and high, 0 where there is no interval."""
    low = (rows["value"] - rows["low"]).fillna(0).clip(lower=0)
    high = (rows["high"] - rows["value"]).fillna(0).clip(lower=0)
    return np.stack([low.to_numpy(float), high.to_numpy(float)])


def points_by_method(panel: Axes, across: pd.DataFrame, up: pd.DataFrame, methods: list[str]) -> None:
    """One point a checkpoint, with intervals both ways, in its method's colour; the two tables row by row."""
    for method in methods:
        own = (across["method"] == method).to_numpy()
        if own.any():
            bars = {"xerr": error_bars(across[own]), "yerr": error_bars(up[own])}
            style = method_style(method, methods)
            panel.errorbar(
                across["value"][own], up["value"][own], **bars, linestyle="none", markersize=4, elinewidth=0.6, **style
            )


def legend_of_methods(figure: Figure, methods: list[str], **style: str) -> None:
    """A legend of the methods below a figure."""
    handles = [Line2D([], [], label=plain(method_label(m)), **method_style(m, methods), **style) for m in methods]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
