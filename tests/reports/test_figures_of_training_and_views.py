"""Figures of other tables than a store's: training curves, the contact sheet of views."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from ssa_analysis.reports.figures import training_curves, views_sheet
from ssa_analysis.reports.style import PALETTE

from ssa_analysis.data.sheet import view_tiles
from ssa_analysis.data.views import RECIPES


def history_of(
    runs: dict[str, str], scores: tuple[str, ...] = ("loss", "curvature.lambda_max", "shift.gaussian_w2")
) -> pd.DataFrame:
    rows = [
        {"checkpoint": name, "method": method, "epoch": float(epoch), "score": score, "value": 9.0 - epoch + i,
         "low": 8.5 - epoch + i if score != "loss" else np.nan, "high": 9.5 - epoch + i if score != "loss" else np.nan}
        for name, method in runs.items() for i, score in enumerate(scores) for epoch in (2, 0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_panel_a_quantity_and_a_line_a_run() -> None:
    figure = training_curves(history_of({"a": "ssa-clr", "b": "simclr"}))
    assert figure is not None
    shown = [axes for axes in figure.axes if axes.get_visible()]
    labels = [axes.get_ylabel().replace("\n", " ") for axes in shown]
    assert labels == ["training loss (nats)", "largest eigenvalue (nats)", "Gaussian W² of pairs"]
    for number, axes in enumerate(shown):
        lines = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
        assert [line.lines[0].get_ydata().tolist() for line in lines] == [[9.0 + number, 8.0 + number, 7.0 + number]] * 2
        assert [line.lines[0].get_xdata().tolist() for line in lines] == [[0, 1, 2]] * 2
        assert {to_hex(line.lines[0].get_color()) for line in lines} == {PALETTE[0].lower(), PALETTE[3].lower()}
    segments = shown[1].containers[0].lines[2][0].get_segments()
    assert segments[0][:, 1].tolist() == [9.5, 10.5]  # the interval of epoch 0
    assert shown[0].get_xlabel() == "epoch"
    assert figure.legends[0].get_texts()[0].get_text() == "SimCLR"


def test_many_runs_and_quantities_are_limited() -> None:
    runs = {f"run{i}": f"method{i % 3}" for i in range(90)}
    figure = training_curves(history_of(runs, tuple(f"m.s{i}" for i in range(20))))
    assert figure is not None
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 8
    assert len(shown[0].containers) == 40


def test_runs_of_an_unknown_method_are_drawn() -> None:
    figure = training_curves(history_of({"a": None}))  # type: ignore[dict-item]
    assert figure is not None
    assert figure.legends[0].get_texts()[0].get_text() == "unknown"


def test_nothing_gives_no_figure() -> None:
    assert training_curves(history_of({})) is None
    assert views_sheet(pd.DataFrame(columns=["row", "column", "pixels"])) is None


def test_the_sheet_has_every_tile_at_its_place() -> None:
    images = torch.randint(0, 256, (3, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tiles = view_tiles(images, RECIPES["simclr"], rows=3, views=1)
    figure = views_sheet(tiles)
    assert figure is not None
    (axes,) = figure.axes
    titles = [t.get_text() for t in axes.get_xticklabels()]
    assert titles == list(dict.fromkeys(tiles["column"]))
    (image,) = axes.images
    sheet = np.asarray(image.get_array())
    for tile in tiles.itertuples():
        middle = axes.get_xticks()[titles.index(tile.column)]
        left, top = round(middle - 5.5), tile.row * 13
        assert (sheet[top : top + 12, left : left + 12, :3] == tile.pixels).all()
        assert (sheet[top : top + 12, left : left + 12, 3] == 255).all()
    assert (sheet[..., 3] == 0).any()  # the gaps are clear
