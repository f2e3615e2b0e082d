"""Eigenvalues and spectral density of the Hessian."""

from __future__ import annotations

import re

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


def spectral_density(frame: pd.DataFrame) -> Figure | None:
    """Density over the eigenvalue axis, on a logarithmic scale."""
    curves = list(with_arrays(rows_of(frame, "curvature", "negative_mass"), "density"))
    if not curves:
        return None
    figure, (axes,) = new_figure(3.0)
    methods = ordered_methods([m for _, m, _ in curves])
    seen: set[str] = set()
    floor = 1e-6
    with styled():
        for _, method, arrays in curves:
            grid, density = np.array(arrays["eigenvalue"]), np.array(arrays["density"], float)
            colour = method_style(method, methods)["color"]
            axes.plot(
                grid,
                np.maximum(density, floor),
                color=colour,
                alpha=0.85,
                label=None if method in seen else plain(method_label(method)),
            )
            low, high = (np.array(arrays.get(edge, density), float) for edge in ("low", "high"))  # None is NaN: no band there
            axes.fill_between(grid, np.maximum(low, floor), np.maximum(high, floor), color=colour, alpha=0.15, linewidth=0)
            seen.add(method)
        axes.set_yscale("log")
        axes.set_ylim(bottom=floor)
        axes.set_xlabel("eigenvalue (nats)")
        axes.set_ylabel("density (1/nats)")
        axes.legend(title="method")
    return figure
