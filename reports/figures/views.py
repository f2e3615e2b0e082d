"""The augmentation adviser: shift under every variant of the recipe."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from ssa_analysis.reports.figures.frames import error_bars, hide_rest, values_of
from ssa_analysis.reports.hover import tell
from ssa_analysis.reports.style import MARKERS, PAGE, PALETTE, Look, new_figure, styled

GROUPS = ("recipe", "alone", "left out", "strength", "fourier")
ADVISED = 3  # checkpoints in one figure
LABEL = "shift: Gaussian W² of pairs, without its bias"


def variant_label(name: str) -> str:
    """``without_crop`` -> ``without crop``, ``crop_x0.5`` -> ``crop × 0.5``."""
    spaced = re.sub(r"(alpha|window)(?=[0-9])", r"\1 ", name)
    return spaced.replace("_x", " × ").replace("_", " ")


def ranked(frame: pd.DataFrame, most: int = ADVISED) -> dict[str, pd.DataFrame]:
    """Checkpoint -> its variants, the smallest shift first; with columns ``group``, ``part`` and ``strength``.

    Of the first ``most`` checkpoints.
    """
    rows = frame[(frame["measure"] == "views") & np.isfinite(frame["value"])]
    rows = rows[rows["checkpoint"].isin(rows["checkpoint"].unique()[:most])]
    rows = rows.assign(**{key: [s.get(key) for s in rows["settings"]] for key in ("group", "part", "strength")})
    return {str(name): group.sort_values("value", kind="stable") for name, group in rows.groupby("checkpoint", sort=False)}


def _floor(panel: Axes, rows: pd.DataFrame, horizontal: bool) -> None:
    """The class oracle as a band with its interval."""
    for floor in rows[rows["group"] == "floor"].itertuples():
        span, line = (panel.axvspan, panel.axvline) if horizontal else (panel.axhspan, panel.axhline)
        span(floor.low, floor.high, color="#999999", alpha=0.25, linewidth=0)
        line(floor.value, color="#666666", linestyle=":", linewidth=1)


def views_ranking(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Every variant with its interval, ranked; the recipe as a line, the class oracle as a band."""
    tables = ranked(frame)
    if not tables:
        return None
    count = max(len(t) for t in tables.values())
    shape = look.grid(len(tables), 3)
    figure, axes = new_figure((0.16 * count + 0.8) * shape[0] + 0.4, look, rows=shape[0], columns=shape[1])
    styles = {g: {"color": PALETTE[i], "marker": MARKERS[i]} for i, g in enumerate(GROUPS)}
    with styled(look):
        hide_rest(axes, len(tables))
        for panel, (name, table) in zip(axes, tables.items(), strict=False):
            shown = table[table["group"].isin(GROUPS)].iloc[::-1]
            texts = [f"{name}, {variant_label(v)}\n{t}" for v, t in zip(shown["name"], values_of(shown), strict=True)]
            for place, ((_, row), error) in enumerate(zip(shown.iterrows(), error_bars(shown).T, strict=True)):
                style = styles[row["group"]] | {"linestyle": "none", "markersize": 4, "elinewidth": 0.9}
                drawn = panel.errorbar(row["value"], place, xerr=error[:, None], **style)
                tell(drawn[0], [texts[place]])
            panel.set_yticks(range(len(shown)), [variant_label(n) for n in shown["name"]], fontsize=6.5)
            panel.set_ylim(-0.7, len(shown) - 0.3)
            _floor(panel, table, horizontal=True)
            for recipe in shown[shown["name"] == "recipe"].itertuples():
                panel.axvline(recipe.value, color="black", linewidth=0.8)
            panel.set_title(look.fitted(name, shape[1]))
            panel.set_xlabel(look.wrapped(LABEL, shape[1]), fontsize=look.font - 1)
        handles = [Line2D([], [], linestyle="none", label=g, **styles[g]) for g in GROUPS]
        handles.append(Line2D([], [], color="#666666", linestyle=":", label="class oracle"))
        handles.append(Line2D([], [], color="black", linewidth=0.8, label="the recipe itself"))
        figure.legend(handles=handles, loc="outside lower center", ncols=look.panels)
    return figure


def shift_against_strength(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Shift over the strength of each augmentation, of the whole recipe, and over alpha of the Fourier augmentation."""
    tables = ranked(frame)
    if not tables:
        return None
    figure, axes = new_figure(2.6 * len(tables) + 0.3, look, rows=len(tables), columns=2, sharey="row")
    with styled(look):
        for (name, table), (left, right) in zip(tables.items(), zip(axes[::2], axes[1::2], strict=True), strict=True):
            whole = table[table["name"] == "recipe"]
            parts = {p for p in table["part"] if isinstance(p, str) and p not in ("", "fourier alpha")}
            for place, part in enumerate(sorted(parts, key=lambda p: (p != "all", p))):
                curve = table[(table["part"] == part) & table["strength"].notna()]
                curve = curve if part == "all" else pd.concat([curve, whole.assign(strength=1.0)])
                style = {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}
                _curve(left, curve, "whole recipe" if part == "all" else part, style)
            alpha = table[(table["part"] == "fourier alpha") & table["strength"].notna()]
            _curve(right, alpha, "Fourier on top", {"color": PALETTE[1], "marker": "s"})
            for panel in (left, right):
                _floor(panel, table, horizontal=False)
            left.set_ylabel("shift (Gaussian W²)")
            left.set_title(f"{look.fitted(name, 2)}\naugmentations")
            right.set_title(f"{look.fitted(name, 2)}\nFourier augmentation")
            left.set_xlabel("strength, times that of the recipe")
            right.set_xlabel("α (0: without)")
            left.legend(fontsize=6.5)
            right.legend(fontsize=6.5)
    return figure


def _curve(panel: Axes, curve: pd.DataFrame, label: str, style: dict[str, str]) -> None:
    curve = curve.sort_values("strength")
    drawn = panel.errorbar(
        curve["strength"].astype(float),
        curve["value"],
        yerr=error_bars(curve),
        label=label,
        markersize=3.5,
        elinewidth=0.8,
        **style,
    )
    tell(drawn[0], [f"{label}, strength {s:.3g}\n{t}" for s, t in zip(curve["strength"], values_of(curve), strict=True)])


def views_sheet(tiles: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Images beside their views, amplitudes and phases, a row an image.

    Args:
        tiles: of :func:`ssa_analysis.data.sheet.view_tiles`.
    """
    if tiles.empty:
        return None
    titles, rows = list(dict.fromkeys(tiles["column"])), sorted(tiles["row"].unique())
    height, width = tiles["pixels"].iloc[0].shape[:2]
    gap = max(1, round(width / 12))
    sheet = np.full((len(rows) * (height + gap) - gap, len(titles) * (width + gap) - gap, 4), 0, np.uint8)
    for tile in tiles.itertuples():
        top, left = rows.index(tile.row) * (height + gap), titles.index(tile.column) * (width + gap)
        sheet[top : top + height, left : left + width, :3] = tile.pixels
        sheet[top : top + height, left : left + width, 3] = 255  # the gaps have no colour: the page shows through
    figure, (axes,) = new_figure(look.width * sheet.shape[0] / sheet.shape[1] + 0.9, look)
    with styled(look):
        axes.imshow(sheet, interpolation="nearest")
        axes.grid(visible=False)
        places = [k * (width + gap) + width / 2 - 0.5 for k in range(len(titles))]
        axes.set_xticks(places, titles, rotation=40, ha="left", rotation_mode="anchor")
        axes.set_yticks([])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure
