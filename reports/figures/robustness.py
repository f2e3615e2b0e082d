"""What corruptions do: accuracy and turn of the embedding over severity, checkpoints x corruptions, a contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from ssa_analysis.reports.figures.frames import hide_rest, interval_text, lowest_panels, one_of_each, rows_of, with_arrays
from ssa_analysis.reports.hover import tell, tell_grid
from ssa_analysis.reports.style import (
    CELL_INK,
    CELL_WHITE,
    PAGE,
    Look,
    method_label,
    method_styles,
    new_figure,
    ordered_methods,
    plain,
    styled,
)

from ssa_analysis.scores import marks_of

HEATMAP_ROWS = 40  # checkpoints; beyond it the first of each method are shown
SHEET = Look(7.2)
WRITTEN_ROWS = 16  # up to here the cells hold their numbers


def spoken(name: str) -> str:
    """``gaussian_noise`` -> ``gaussian noise``."""
    return name.replace("_", " ")


def _origin(rows: pd.DataFrame) -> str:
    return f"corrupted images: {marks_of(rows['settings']) or 'official files'}"


def corruption_curves(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Accuracy of the probe over severity, one panel a corruption, one line a method; severity 0 is the clean image."""
    return _curves(frame, "mean_error", "accuracy", lambda error: 1 - error, look)


def corruption_angles(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Mean angle between the embeddings of an image and its corrupted twin over severity."""
    return _curves(frame, "mean_angle", "angle (degrees)", lambda angle: angle, look)


def _curves(frame: pd.DataFrame, score: str, label: str, shown: Callable[[float], float], look: Look) -> Figure | None:
    """One line a method, the mean over its checkpoints; the band spans them, or for one alone is its 95 % interval."""
    rows = rows_of(frame, "robustness", score)
    tables = list(with_arrays(rows, "value"))
    if not tables:
        return None
    names = tables[0][2]["corruption"]
    tables = [t for t in tables if t[2]["corruption"] == names]
    methods = ordered_methods([m for _, m, _ in tables])
    count, columns = look.grid(len(names))
    styles = method_styles(frame)
    figure, axes = new_figure(1.5 * count + 0.6, look, rows=count, columns=columns, sharex=True, sharey=True)
    severities = [0, *tables[0][2]["severity"]]
    with styled(look):
        for number, (panel, name) in enumerate(zip(axes, names, strict=False)):
            for method in methods:
                own = [a for _, m, a in tables if m == method]
                curves = np.array([[shown(a["clean"]), *(shown(v) for v in a["value"][number])] for a in own])
                low, high = curves.min(0), curves.max(0)
                if len(own) == 1:
                    reach = 1.96 * np.array([0.0, *own[0]["stderr"][number]])
                    low, high = low - reach, high + reach
                style = styles[method]
                (line,) = panel.plot(severities, curves.mean(0), markersize=3, label=plain(method_label(method)), **style)
                tell(line, [f"{method_label(method)}, {spoken(name)}, severity {s}\n{label}: {interval_text(*three)}"
                            for s, *three in zip(severities, curves.mean(0), low, high, strict=True)])  # fmt: skip
                panel.fill_between(severities, low, high, color=style["color"], alpha=0.15, linewidth=0)
            panel.set_title(spoken(name))
        hide_rest(axes, len(names))
        for panel in lowest_panels(axes, len(names), columns):
            panel.set_xlabel("severity")
        for panel in axes[::columns]:
            panel.set_ylabel(label)
        axes[0].set_xticks(severities)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(look.panels, len(handles)), title=_origin(rows))
    return figure


def corruption_heatmap(frame: pd.DataFrame, look: Look = PAGE) -> Figure | None:
    """Accuracy of the probe, mean over severities: one row a checkpoint, one column a corruption, the clean images first."""
    rows = one_of_each(rows_of(frame, "robustness", "mean_error"), HEATMAP_ROWS)
    tables = list(with_arrays(rows, "value"))
    if not tables:
        return None
    names = tables[0][2]["corruption"]
    tables = [t for t in tables if t[2]["corruption"] == names]
    values = np.array([[1 - a["clean"], *(1 - np.array(a["value"]).mean(1))] for _, _, a in tables])
    figure, (axes,) = new_figure(0.24 * len(tables) + 1.9, look)
    with styled(look):
        low, high = np.floor(10 * values.min()) / 10, np.ceil(10 * values.max()) / 10
        image = axes.imshow(values, aspect="auto", cmap="cividis", vmin=low, vmax=max(high, low + 0.1))
        axes.grid(visible=False)
        axes.set_xticks(range(values.shape[1]), ["clean", *map(spoken, names)], rotation=55, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(tables)), [look.fitted(name, 4) for name, _, _ in tables])
        axes.axvline(0.5, color="white", linewidth=1.5)
        told = [[f"{name}\n{spoken(corruption)}: {v:.4g}" for corruption, v in zip(["clean", *names], row, strict=True)]
                for (name, _, _), row in zip(tables, values, strict=True)]  # fmt: skip
        tell_grid(axes, np.arange(values.shape[1]), np.arange(len(tables)), told)
        if len(tables) <= WRITTEN_ROWS and look.panels >= 4:
            for (y, x), value in np.ndenumerate(values):
                ink = CELL_WHITE if image.norm(value) < 0.55 else CELL_INK
                axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=6, color=ink)
        figure.colorbar(image, ax=axes, label="accuracy", fraction=0.03, pad=0.01)
        axes.set_xlabel(look.wrapped(f"mean over five severities, in %; {_origin(rows)}"))
    return figure


def contact_sheet(tiles: dict[str, np.ndarray], clean: np.ndarray, origin: str, look: Look = SHEET) -> Figure:
    """What each corruption does to some images.

    Args:
        tiles: corruption -> ``(severities, n, h, w, 3)`` uint8. clean: ``(n, h, w, 3)`` uint8, shown first.
        origin: of the corrupted images, for the title.
    """
    severities, count = next(iter(tiles.values())).shape[:2]
    height, width = clean.shape[1:3]
    gap = max(1, round(width / 16))
    block = count * (width + gap) + 2 * gap
    sheet = np.full((len(tiles) * (height + gap), (1 + severities) * block, 3), 255, np.uint8)
    for row, images in enumerate(tiles.values()):
        for column, group in enumerate([clean, *images]):
            for place, image in enumerate(group):
                left = column * block + place * (width + gap)
                sheet[row * (height + gap) : row * (height + gap) + height, left : left + width] = image
    inches = 6.0 * sheet.shape[0] / sheet.shape[1]
    figure, (axes,) = new_figure(inches + 0.7, look)
    with styled(look):
        axes.imshow(sheet, interpolation="nearest")
        axes.grid(visible=False)
        axes.set_yticks(_centres(len(tiles), height + gap, height), [spoken(name) for name in tiles])
        axes.set_xticks(
            _centres(1 + severities, block, block - 3 * gap), ["clean", *(f"severity {s + 1}" for s in range(severities))]
        )
        figure.set_layout_engine("constrained", w_pad=0.12)  # inches; an axes of fixed aspect is laid out a little too wide
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"corrupted images: {origin}")
    return figure


def _centres(count: int, step: int, extent: int) -> Sequence[float]:
    return [step * k + extent / 2 - 0.5 for k in range(count)]
