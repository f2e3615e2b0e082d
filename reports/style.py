"""One style for every figure: sizes by venue, colours, letters. No global state: figures are made inside ``styled()``."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssa_analysis.training.settings import METHODS

_FILE = mpl.rc_params_from_file(str(Path(__file__).with_name("paper.mplstyle")), use_default_template=False)
PALETTE = tuple(colour if colour.startswith("#") else f"#{colour}" for colour in _FILE["axes.prop_cycle"].by_key()["color"])
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
METHOD_LABELS = {name: row.label for name, row in METHODS.items()}
METHOD_ORDER = tuple(METHOD_LABELS)
UNKNOWN = "unknown"
CELL_INK, CELL_WHITE = "#010101", "#fefefe"  # letters on a coloured cell, which stay as they are in the dark


@dataclass(frozen=True)
class Look:
    """How large a figure is set.

    Attributes:
        width: inches. font: points of labels and titles; ticks and legends are a point smaller. panels: most side by side.
        tallest: inches; figures of many rows are pressed into it.
    """

    width: float = 6.75
    font: float = 9.0
    panels: int = 4
    tallest: float = 14.0

    def grid(self, count: int, columns: int | None = None) -> tuple[int, int]:
        """Rows and columns for ``count`` panels, with at most ``columns`` (default ``panels``) side by side where they fit."""
        columns = max(1, min(columns or self.panels, self.panels, count))
        return math.ceil(count / columns), columns

    def fitted(self, name: str, columns: int = 1) -> str:
        """A checkpoint's name, its middle left out where a panel, one of ``columns``, is too narrow for it."""
        room = self._letters(columns)
        return plain(name if len(name) <= room else f"{name[: (room - 1) // 2]}…{name[-(room // 2) :]}")

    def wrapped(self, text: str, columns: int = 1) -> str:
        """A label broken into lines that a panel, one of ``columns``, has room for."""
        return textwrap.fill(text, max(8, self._letters(columns)), break_on_hyphens=False)

    def _letters(self, columns: int) -> int:
        """How many letters of ``font`` a panel is wide."""
        return int(0.84 * (self.width - 0.5) / columns / (self.font * 0.6 / 72))


PAGE = Look()
# widths of text and columns in the venues' own style files
SIZES = {
    "page": PAGE,
    "neurips": Look(5.5, 8.0, 4, 9.0),
    "iclr": Look(5.5, 8.0, 4, 9.0),
    "icml": Look(6.75, 8.0, 4, 9.0),
    "icml-column": Look(3.25, 7.0, 2, 9.0),
}


@contextmanager
def styled(look: Look = PAGE) -> Iterator[None]:
    """matplotlib with this project's settings, inside the block only."""
    # asking for the backend would import pyplot, where none is chosen yet
    defaults = {key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"}
    letters = dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), look.font)
    letters |= dict.fromkeys(("legend.fontsize", "xtick.labelsize", "ytick.labelsize", "legend.title_fontsize"), look.font - 1)
    with mpl.rc_context({**defaults, **_FILE, **letters}):
        yield


def new_figure(height: float, look: Look = PAGE, *, rows: int = 1, columns: int = 1, **grid: object) -> tuple[Figure, list[Axes]]:
    """A figure of ``height`` inches without pyplot, and its axes row by row."""
    with styled(look):
        figure = Figure(figsize=(look.width, min(height, look.tallest)))
        axes = figure.subplots(rows, columns, squeeze=False, **grid)
    return figure, list(axes.ravel())


def ordered_methods(methods: Sequence[str]) -> list[str]:
    """Known methods in their usual order, then the others by name."""
    present = set(methods)
    return [m for m in METHOD_ORDER if m in present] + sorted(present - set(METHOD_ORDER))


def method_styles(frame: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Colour and marker of each method of a whole table, so that a method looks the same in all its figures.

    Fixed for the four of this project; others follow in their order. ``unknown`` is always there.
    """
    others = [m for m in ordered_methods([*frame["method"].dropna(), UNKNOWN]) if m not in METHOD_ORDER]
    return {m: {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
            for i, m in enumerate([*METHOD_ORDER, *others])}  # fmt: skip


def method_label(method: str) -> str:
    """The method's name as papers write it."""
    return METHOD_LABELS.get(method, method)


def plain(name: str) -> str:
    """A name for a figure: matplotlib would set what stands between two dollar signs as a formula, or fail to."""
    return name.replace("$", r"\$")
