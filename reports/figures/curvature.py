"""Eigenvalues and spectral density of the Hessian."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from ssa_analysis.reports.figures.frames import error_bars, rows_of, with_arrays
from ssa_analysis.reports.style import method_label, method_style, new_figure, ordered_methods, plain, styled


def eigenvalues(frame: pd.DataFrame) -> Figure | None:
    """Eigenvalue over its index, one line a checkpoint."""
    names = [n for n in frame.loc[frame["measure"] == "curvature", "name"].unique() if re.fullmatch(r"lambda_\d+", n)]
    rows = pd.concat([rows_of(frame, "curvature", n).assign(index=int(n.split("_")[1])) for n in names]) if names else frame[:0]
    if rows.empty:
        return None
    figure, (axes,) = new_figure(3.0)
    methods = ordered_methods(list(rows["method"]))
    with styled():
        for method in methods:
            for number, (_, group) in enumerate(rows[rows["method"] == method].groupby("checkpoint", sort=False)):
                group = group.sort_values("index")
                label = plain(method_label(method)) if number == 0 else None
                style = method_style(method, methods)
                axes.errorbar(group["index"], group["value"], error_bars(group), label=label, markersize=4, alpha=0.85, **style)
        axes.set_xlabel("index of the eigenvalue")
        axes.set_ylabel("eigenvalue (nats)")
        axes.set_xticks(sorted(rows["index"].unique()))
        if (rows["value"] > 0).all():
            axes.set_yscale("log")
        axes.legend(title="method")
    return figure


FAINTEST = 1e-12  # of the highest density, below which nothing is drawn
SCALES_APART = 10  # ratio of two spectra's ranges from which one linear axis cannot show both


def _floor(curves: list[dict[str, Any]]) -> float:
    """A little below the outermost bumps: a single eigenvalue of n has the mass 1 / n, and should be seen."""
    heights, highest = [], 0.0
    for density in (np.array(arrays["density"], float) for arrays in curves):
        peaks = density[1:-1][(density[1:-1] >= density[:-2]) & (density[1:-1] >= density[2:]) & (density[1:-1] > 0)]
        heights += [peaks[0], peaks[-1]] if len(peaks) else []
        highest = max(highest, float(density.max()))
    return max(FAINTEST * highest, 0.2 * min(heights)) if heights else 1e-6


def spectral_density(frame: pd.DataFrame) -> Figure | None:
    """Density over the eigenvalue axis with its band, on a logarithmic scale.

    Spectra of very different ranges share an axis that is linear near zero and logarithmic beyond.
    """
    curves = list(with_arrays(rows_of(frame, "curvature", "negative_mass"), "density"))
    if not curves:
        return None
    figure, (axes,) = new_figure(3.0)
    methods = ordered_methods([m for _, m, _ in curves])
    seen: set[str] = set()
    floor = _floor([arrays for _, _, arrays in curves])
    ranges = [float(np.ptp(arrays["eigenvalue"])) for _, _, arrays in curves]
    with styled():
        for _, method, arrays in curves:
            grid, density = np.array(arrays["eigenvalue"]), np.array(arrays["density"], float)
            colour = method_style(method, methods)["color"]
            label = None if method in seen else plain(method_label(method))
            axes.plot(grid, np.maximum(density, floor), color=colour, alpha=0.85, label=label)
            low, high = (np.array(arrays.get(edge, density), float) for edge in ("low", "high"))  # None is NaN: no band there
            axes.fill_between(grid, np.maximum(low, floor), np.maximum(high, floor), color=colour, alpha=0.15, linewidth=0)
            seen.add(method)
        if max(ranges) > SCALES_APART * min(ranges):
            linear = 0.05 * min(ranges)
            axes.set_xscale("symlog", linthresh=linear)
            sizes = [10.0**k for k in range(math.ceil(math.log10(linear)), math.floor(math.log10(max(ranges))) + 1)]
            axes.set_xticks([-size for size in sizes if -size > min(a["eigenvalue"][0] for _, _, a in curves)] + [0.0, *sizes])
        axes.set_yscale("log")
        axes.set_ylim(bottom=floor)
        axes.set_xlabel("eigenvalue (nats)")
        axes.set_ylabel("density (1/nats)")
        axes.legend(title="method")
    return figure
