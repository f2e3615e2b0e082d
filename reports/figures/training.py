"""What happens while an encoder trains: loss, accuracy, sharpness and shift over the epochs."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from ssa_analysis.reports.figures.frames import (
    MAX_LINES,
    error_bars,
    hide_rest,
    legend_of_methods,
    lowest_panels,
    named_values,
    one_of_each,
)
from ssa_analysis.reports.hover import tell
from ssa_analysis.reports.names import label_of
from ssa_analysis.reports.style import PAGE, UNKNOWN, Look, method_styles, new_figure, ordered_methods, styled

LABELS = {"loss": "training loss (nats)", "knn": "kNN accuracy in training"}
FIRST = (
    "loss",
    "knn",
    "curvature.lambda_max",
    "curvature.trace",
    "flatness.worst_case",
    "shift.gaussian_w2",
    "shift.mmd2_difference",
)
MOST = 8  # panels


def training_curves(history: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Loss, accuracy and recorded scores over the epochs of each run, a panel a quantity.

    Args:
        history: of :func:`ssa_analysis.running.histories.training_history`.
    """
    if history.empty:
        return None
    history = history.assign(method=history["method"].fillna(UNKNOWN))
    runs = one_of_each(history.drop_duplicates("checkpoint"), MAX_LINES)["checkpoint"]
    shown = history[history["checkpoint"].isin(runs)]
    found = list(dict.fromkeys(shown["score"]))
    names = [*(n for n in FIRST if n in found), *(n for n in found if n not in FIRST)][:MOST]
    rows, columns = look.grid(len(names))
    styles = method_styles(history)
    figure, axes = new_figure(1.9 * rows + 0.5, look, rows=rows, columns=columns, sharex=True)
    with styled(look):
        for panel, name in zip(axes, names, strict=False):
            label = LABELS.get(name, label_of(name))
            for (_, method), line in shown[shown["score"] == name].groupby(["checkpoint", "method"], sort=False):
                line = line.sort_values("epoch")
                style = {"color": styles[str(method)]["color"], "linewidth": 1.0, "elinewidth": 0.6}
                marked = {"marker": styles[str(method)]["marker"], "markersize": 3} if len(line) <= 12 else {}
                drawn = panel.errorbar(line["epoch"], line["value"], error_bars(line), **style, **marked)
                tell(drawn[0], [f"{t}\nepoch {e:g}" for t, e in zip(named_values(line, label), line["epoch"], strict=True)])
            panel.set_ylabel(look.wrapped(label, columns))
        hide_rest(axes, len(names))
        for panel in lowest_panels(axes, len(names), columns):
            panel.set_xlabel("epoch")
        legend_of_methods(figure, history, ordered_methods(list(shown["method"])), look)
    return figure
