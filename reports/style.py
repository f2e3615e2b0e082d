"""One style for every figure: sizes, colours, fonts. No global state: figures are made inside ``styled()``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssa_analysis.training.settings import METHODS

# Okabe and Ito's palette: told apart by colour-blind readers; the order also steps in lightness, for print in grey
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
METHOD_LABELS = {name: row.label for name, row in METHODS.items()}
METHOD_ORDER = tuple(METHOD_LABELS)

_SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.5,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "ssa-analyze",
    "figure.constrained_layout.use": True,
}
WIDTH = 6.75  # inches: two columns of a conference paper


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib with this project's settings, inside the block only."""
    # asking for the backend would import pyplot, where none is chosen yet
    defaults = {key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"}
    with mpl.rc_context({**defaults, **_SETTINGS}):
        yield


def new_figure(
    height: float = 3.2, width: float = WIDTH, rows: int = 1, columns: int = 1, **grid: object
) -> tuple[Figure, list[Axes]]:
    """A figure without pyplot, and its axes row by row."""
    with styled():
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(rows, columns, squeeze=False, **grid)
    return figure, list(axes.ravel())


def ordered_methods(methods: Sequence[str]) -> list[str]:
    """Known methods in their usual order, then the others by name."""
    present = set(methods)
    return [m for m in METHOD_ORDER if m in present] + sorted(present - set(METHOD_ORDER))


def method_style(method: str, methods: Sequence[str]) -> dict[str, str]:
    """Colour and marker of a method: fixed for the four of this project, in order after them for others."""
    others = [m for m in ordered_methods(methods) if m not in METHOD_ORDER]
    place = METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER) + others.index(method)
    return {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}


def method_label(method: str) -> str:
    """The method's name as papers write it."""
    return METHOD_LABELS.get(method, method)


def plain(name: str) -> str:
    """A name for a figure: matplotlib would set what stands between two dollar signs as a formula, or fail to."""
    return name.replace("$", r"\$")
