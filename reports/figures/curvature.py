"""Eigenvalues and spectral density of the Hessian."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from ssa_analysis.reports.figures.frames import MAX_LINES, error_bars, one_of_each, rows_of, values_of, with_arrays
from ssa_analysis.reports.hover import tell
from ssa_analysis.reports.style import PAGE, Look, method_label, method_styles, new_figure, ordered_methods, plain, styled


def eigenvalues(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Eigenvalue over its index, one line a checkpoint."""
    names = [n for n in frame.loc[frame["measure"] == "curvature", "name"].unique() if re.fullmatch(r"lambda_\d+", n)]
    rows = pd.concat([rows_of(frame, "curvature", n).assign(index=int(n.split("_")[1])) for n in names]) if names else frame[:0]
    if rows.empty:
        return None
    figure, (axes,) = new_figure(3.0, look)
    styles = method_styles(frame)
    with styled(look):
        for method in ordered_methods(list(rows["method"])):
            own = rows[rows["method"] == method].sort_values(["checkpoint", "index"], kind="stable")
            # all checkpoints of a method at once; a row without a value ends each line
            ends = own.drop_duplicates("checkpoint", keep="last").assign(value=np.nan, low=np.nan, high=np.nan, index=np.inf)
            own = pd.concat([own, ends]).sort_values(["checkpoint", "index"], kind="stable")
            own["index"] = own["index"].astype(float).replace(np.inf, np.nan)
            drawn = axes.errorbar(own["index"], own["value"], error_bars(own), label=plain(method_label(method)), markersize=4,
                                  alpha=0.85, **styles[method])  # fmt: skip
            tell(
                drawn[0],
                [
                    f"{r.checkpoint}\neigenvalue {r.index:.0f}: {t}"
                    for r, t in zip(own.itertuples(index=False), values_of(own), strict=True)
                ],
            )
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


def spectral_density(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Density over the eigenvalue axis with its band, on a logarithmic scale.

    Spectra of very different ranges share an axis that is linear near zero and logarithmic beyond.
    """
    curves = list(with_arrays(one_of_each(rows_of(frame, "curvature", "negative_mass"), MAX_LINES), "density"))
    if not curves:
        return None
    figure, (axes,) = new_figure(3.0, look)
    styles = method_styles(frame)
    seen: set[str] = set()
    floor = _floor([arrays for _, _, arrays in curves])
    ranges = [float(np.ptp(arrays["eigenvalue"])) for _, _, arrays in curves]
    with styled(look):
        for name, method, arrays in curves:
            grid, density = np.array(arrays["eigenvalue"]), np.array(arrays["density"], float)
            colour = styles[method]["color"]
            label = None if method in seen else plain(method_label(method))
            (line,) = axes.plot(grid, np.maximum(density, floor), color=colour, alpha=0.85, label=label)
            tell(
                line,
                [f"{name}\n{d:.3g} per nat at {x:.3g} nats" if d > floor else "" for x, d in zip(grid, density, strict=True)],
            )
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
