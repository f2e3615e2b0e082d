"""Reading the long table: one score of all checkpoints, arrays, panels of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from ssa_analysis.reports.hover import tell
from ssa_analysis.reports.per_table import PerTable
from ssa_analysis.reports.style import UNKNOWN, Look, method_label, method_styles, ordered_methods, plain

MAX_PANELS = 8  # checkpoints with a panel of their own in one figure; beyond it the first of each method are shown
MANY = 100  # checkpoints
MAX_LINES = 40  # checkpoints with a line of their own

_known: PerTable[Mapping[tuple[str, str], np.ndarray]] = PerTable()


def _places(frame: pd.DataFrame) -> Mapping[tuple[str, str], np.ndarray]:
    """Where in a table each score stands; worked out once for each table."""
    places = _known.get(frame)
    return _known.put(frame, frame.groupby(["measure", "name"], sort=False).indices) if places is None else places


def rows_of(frame: pd.DataFrame, measure: str, name: str) -> pd.DataFrame:
    """Rows of one score with a finite value, methods in their order, then checkpoints."""
    rows = frame.iloc[_places(frame).get((measure, name), [])]
    rows = rows[np.isfinite(rows["value"].to_numpy(float))]
    rows = rows.assign(method=rows["method"].fillna(UNKNOWN))
    place = {m: i for i, m in enumerate(ordered_methods(list(rows["method"])))}
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
    """At most ``MAX_PANELS`` rows, spread evenly over the methods; half as many of more than ``MANY``, to be there sooner."""
    if len(rows) <= MAX_PANELS:
        return rows
    most = MAX_PANELS if len(rows) <= MANY else MAX_PANELS // 2
    share = max(1, most // rows["method"].nunique())
    return rows.groupby("method", sort=False).head(share).head(most)


def one_of_each(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """At most ``count`` rows: the first of each method, then the second ones, and so on."""
    return rows.assign(_turn=rows.groupby("method", sort=False).cumcount()).sort_values("_turn", kind="stable").head(count)


def lowest_panels(axes: list[Axes], count: int, columns: int) -> list[Axes]:
    """Those of ``count`` panels that have none below them, with tick labels, which a shared axis would hide."""
    panels = axes[max(0, count - columns) : count]
    for panel in panels:
        panel.xaxis.set_tick_params(labelbottom=True)
    return panels


def hide_rest(axes: list[Axes], count: int) -> None:
    """Hide the panels that a grid has beyond ``count``."""
    for panel in axes[count:]:
        panel.set_visible(False)


def tilted(count: int, look: Look, letters: int = 9) -> dict[str, Any]:
    """How ``count`` names of about ``letters`` letters stand below an axis: level where they have room."""
    if count * letters * look.font * 0.55 / 72 < 0.75 * look.width:
        return {}
    return {"rotation": 50, "ha": "right", "rotation_mode": "anchor"}


def error_bars(rows: pd.DataFrame) -> np.ndarray:
    """``(2, n)`` distances to low and high, 0 where there is no interval."""
    low = (rows["value"] - rows["low"]).fillna(0).clip(lower=0)
    high = (rows["high"] - rows["value"]).fillna(0).clip(lower=0)
    return np.stack([low.to_numpy(float), high.to_numpy(float)])


def interval_text(value: float, low: float, high: float) -> str:
    """``0.81 [0.79, 0.83]``, without brackets where there is no interval."""
    known = np.isfinite([low, high]).all() and high > low
    return f"{value:.4g}" + (f" [{low:.4g}, {high:.4g}]" if known else "")


def values_of(rows: pd.DataFrame) -> list[str]:
    """The values of rows as text, with their intervals."""
    return [interval_text(v, a, b) for v, a, b in zip(rows["value"], rows["low"], rows["high"], strict=True)]


def named_values(rows: pd.DataFrame, label: str = "") -> list[str]:
    """``checkpoint`` and, below it, ``label: value``, for the pointer."""
    opening = f"{label}: " if label else ""
    return [f"{name}\n{opening}{value}" for name, value in zip(rows["checkpoint"], values_of(rows), strict=True)]


def points_by_method(
    panel: Axes, across: pd.DataFrame, up: pd.DataFrame, styles: Mapping[str, Mapping[str, str]], labels: tuple[str, str]
) -> None:
    """One point a checkpoint, with intervals both ways, in its method's colour; the two tables row by row."""
    texts = np.array([f"{name}\n{up_text}" for name, up_text in zip(named_values(across, labels[0]),
                      [f"{labels[1]}: {v}" for v in values_of(up)], strict=True)])  # fmt: skip
    for method in ordered_methods(list(across["method"])):
        own = (across["method"] == method).to_numpy()
        bars = {"xerr": error_bars(across[own]), "yerr": error_bars(up[own])}
        drawn = panel.errorbar(
            across["value"][own], up["value"][own], **bars, linestyle="none", markersize=4, elinewidth=0.6, **styles[method]
        )
        tell(drawn[0], list(texts[own]))


def legend_of_methods(figure: Figure, frame: pd.DataFrame, methods: list[str], look: Look, **style: str) -> None:
    """A legend of the methods below a figure."""
    styles = method_styles(frame)
    handles = [Line2D([], [], label=plain(method_label(m)), **styles[m], **style) for m in methods]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(look.panels, len(handles)))
