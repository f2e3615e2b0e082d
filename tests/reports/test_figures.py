"""Figures by their content: what is drawn, where, in which colour, and with which words."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import same_color, to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from ssa_analysis.reports.analysis import linking_of
from ssa_analysis.reports.figures import FIGURES
from ssa_analysis.reports.figures.bounds import (
    BOUNDS,
    SLACKS,
    TOTAL,
    bound_against_truth,
    bound_chain,
    bound_waterfall,
    sharpness_complexity,
    slack_over_epochs,
)
from ssa_analysis.reports.figures.curvature import eigenvalues, spectral_density
from ssa_analysis.reports.figures.frames import MAX_PANELS, panel_choice, rows_of
from ssa_analysis.reports.figures.landscape import landscape_slices, landscape_surfaces
from ssa_analysis.reports.figures.linking import (
    PANELS,
    correlations,
    granulated,
    method_contrasts,
    predicted_accuracy,
    score_correlations,
    score_scatter,
)
from ssa_analysis.reports.figures.robustness import contact_sheet, corruption_angles, corruption_curves, corruption_heatmap
from ssa_analysis.reports.figures.shift import pair_similarities, shift_statistics
from ssa_analysis.reports.names import label_of
from ssa_analysis.reports.style import METHOD_LABELS, PALETTE, method_styles, ordered_methods

METHODS = list(METHOD_LABELS)
LINKING = (
    "correlations",
    "score_correlations",
    "granulated",
    "predicted_accuracy",
    "method_contrasts",
)  # figures of checkpoints taken together
COLOURS = {method: PALETTE[i] for i, method in enumerate(METHODS)}
DRAWERS = {entry.name: entry.draw for entry in FIGURES}


def panels(figure: Figure) -> list[Axes]:
    """The visible axes, colour bars left out."""
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]


def legend_of(figure: Figure) -> dict[str, str]:
    """Label -> colour, of the figure's or the first axes' legend."""
    legends = figure.legends or [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    (legend,) = legends
    return {
        text.get_text(): to_hex(handle.get_color())
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
    }


def errorbars(axes: Axes) -> list[ErrorbarContainer]:
    return [c for c in axes.containers if isinstance(c, ErrorbarContainer)]


def bar_ends(container: ErrorbarContainer, axis: int) -> list[tuple[float, float]]:
    """Ends of the error bars along x (0) or y (1)."""
    segments = [s for collection in container.lines[2] for s in collection.get_segments()]
    return [(s[0][axis], s[1][axis]) for s in segments if s[0][1 - axis] == s[1][1 - axis] or np.isnan(s).any()]


@pytest.mark.parametrize("name", DRAWERS)
def test_an_empty_table_makes_no_figure(name: str, empty: pd.DataFrame) -> None:
    assert DRAWERS[name](empty) is None


@pytest.mark.parametrize("name", DRAWERS)
def test_other_scores_make_no_figure(name: str, make_table: Callable[..., pd.DataFrame]) -> None:
    assert DRAWERS[name](make_table(downstream__probe_accuracy={"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8})) is None


@pytest.mark.parametrize("name", DRAWERS)
def test_one_checkpoint_is_enough_but_for_correlations(name: str, frame: pd.DataFrame) -> None:
    figure = DRAWERS[name](frame[frame["checkpoint"] == "simclr-s0"])
    assert (figure is None) == (name in (*LINKING, "slack_over_epochs"))
    if figure is not None:
        figure.draw_without_rendering()
        assert panels(figure)[0].has_data()


@pytest.mark.parametrize("name", DRAWERS)
def test_drawing_changes_neither_the_table_nor_the_settings_of_matplotlib(name: str, frame: pd.DataFrame) -> None:
    before, table = dict(mpl.rcParams), frame.copy(deep=True)
    DRAWERS[name](frame).draw_without_rendering()
    assert dict(mpl.rcParams) == before
    pd.testing.assert_frame_equal(frame, table)


@pytest.mark.parametrize("name", DRAWERS)
def test_a_user_s_own_settings_do_not_reach_the_figures(name: str, frame: pd.DataFrame) -> None:
    def look(figure: Figure) -> list[object]:
        axes = panels(figure)[0]
        widths = [line.get_linewidth() for line in axes.lines]
        return [
            axes.get_facecolor(),
            axes.title.get_fontsize(),
            axes.xaxis.label.get_fontsize(),
            axes.spines["top"].get_visible(),
            widths,
        ]

    plain = look(DRAWERS[name](frame))
    with mpl.rc_context({"axes.facecolor": "pink", "font.size": 30, "lines.linewidth": 9, "axes.titlesize": 40}):
        assert look(DRAWERS[name](frame)) == plain
    assert plain[:2] == [(1.0, 1.0, 1.0, 1.0), 9.0]


def test_pyplot_is_never_imported(frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reports are imported afresh and every figure is drawn where importing pyplot is an error."""
    import ssa_analysis

    for name in [name for name in sys.modules if name.startswith("ssa_analysis.reports")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(ssa_analysis, "reports", None, raising=False)  # so that the old module is put back
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError):
        importlib.import_module("matplotlib.pyplot")
    afresh = importlib.import_module("ssa_analysis.reports.html")
    assert [entry.name for entry in afresh.FIGURES] == list(DRAWERS)
    few = frame[frame["method"].isin(["simclr", "ssa-clr"])]
    for entry in afresh.FIGURES[::5]:  # of every kind one; the modules are imported in any case
        assert afresh.figure_files(entry.draw(few), ["svg"])["svg"].startswith(b"<?xml")


def test_a_method_has_the_same_colour_in_every_figure(frame: pd.DataFrame) -> None:
    """Also where only some of the methods are there."""
    some = frame[frame["method"] != "simclr"]
    for name in (
        "score_scatter",
        "eigenvalues",
        "spectral_density",
        "shift_statistics",
        "corruption_curves",
        "corruption_angles",
    ):
        for table in (frame, some):
            present = ordered_methods(list(table["method"]))
            assert legend_of(DRAWERS[name](table)) == {METHOD_LABELS[m]: COLOURS[m].lower() for m in present}
    slices = {p.get_title(): p.lines[0].get_color() for p in panels(landscape_slices(frame))}
    assert slices == {METHOD_LABELS[m]: COLOURS[m] for m in METHODS}


def test_other_methods_get_the_colours_that_are_left() -> None:
    present = ["byol", "ssa-clr", "moco"]
    styles = [method_styles(pd.DataFrame({"method": present}))[m] for m in present]
    assert [s["color"] for s in styles] == [PALETTE[4], PALETTE[3], PALETTE[5]]
    assert len({s["marker"] for s in styles}) == 3


def test_scatter_has_a_panel_a_score_and_a_point_a_checkpoint(frame: pd.DataFrame) -> None:
    table = frame[~((frame["measure"] == "bounds") & (frame["method"] == "simclr"))]
    figure = score_scatter(table)
    marked = {"robustness.mean_error": "corrupted error (regenerated)"}
    shown = [p.get_xlabel().replace("\n", " ") for p in panels(figure)]
    assert shown == [marked.get(key, label_of(key)) for key in PANELS]
    assert [p.get_ylabel() for p in panels(figure)] == ["probe accuracy", "", "", ""] * 2
    for panel, key in zip(panels(figure), PANELS, strict=True):
        drawn = [(x, y) for c in errorbars(panel) for x, y in zip(*c.lines[0].get_data(), strict=True)]
        wide = table.assign(key=table["measure"] + "." + table["name"]).pivot(index="checkpoint", columns="key", values="value")
        expected = wide[[key, "downstream.probe_accuracy"]].dropna()
        assert sorted(drawn) == sorted(expected.itertuples(index=False, name=None)), key


def test_scatter_bars_are_the_intervals(frame: pd.DataFrame) -> None:
    panel = panels(score_scatter(frame[frame["checkpoint"] == "simclr-s0"]))[0]
    (container,) = errorbars(panel)
    assert bar_ends(container, 0) == [pytest.approx((7.99, 8.01))]
    assert bar_ends(container, 1) == [pytest.approx((0.69, 0.71))]


def test_scatter_leaves_out_checkpoints_without_accuracy(frame: pd.DataFrame) -> None:
    table = frame[~((frame["name"] == "probe_accuracy") & (frame["checkpoint"] == "ssa-clr-s1"))]
    drawn = sum(len(c.lines[0].get_xdata()) for c in errorbars(panels(score_scatter(table))[0]))
    assert drawn == 7


def test_correlations_on_a_table_whose_answer_is_known(frame: pd.DataFrame) -> None:
    (axes,) = panels(correlations(frame))
    labels = [t.get_text() for t in axes.get_yticklabels()]
    points = next(c for c in axes.collections if c.get_label() == "all checkpoints")
    value = {labels[round(place)]: round(float(v), 6) for v, place in points.get_offsets()}
    assert value[label_of("curvature.lambda_max")] == -1
    assert value["corrupted error (regenerated)"] == -1
    assert value[label_of("representation.effective_rank")] == 1
    assert label_of("downstream.knn_accuracy") not in value  # of the target's own family
    assert labels[-1] == "corrupted error (regenerated)"  # the order of the tables, from the top
    assert axes.get_xlabel() == "Spearman correlation with probe accuracy (8 checkpoints)"
    assert axes.get_xlim() == (-1.05, 1.05)


def test_correlations_fill_what_is_decided_only(frame: pd.DataFrame) -> None:
    noise = frame["name"] == "effective_rank"
    frame.loc[noise, "value"] = [3.0, 1.0, 4.0, 1.5, 5.0, 0.9, 2.6, 2.0]
    (axes,) = panels(correlations(frame))
    labels = [t.get_text() for t in axes.get_yticklabels()]
    points = next(c for c in axes.collections if c.get_label() == "all checkpoints")
    face = {labels[round(y)]: colour for (_, y), colour in zip(points.get_offsets(), points.get_facecolors(), strict=True)}
    assert same_color(face["effective rank"], "white")
    assert same_color(face["largest eigenvalue (nats)"], "#0072B2")


def test_correlations_at_equal_settings_stand_beside_the_raw_ones(frame: pd.DataFrame) -> None:
    """The rate moves both: at equal rates the rank correlation is the opposite of the raw one."""
    rate = frame["checkpoint"].str.endswith("1")
    place = frame["method"].map({m: i for i, m in enumerate(METHODS)})
    frame.loc[frame["name"] == "lambda_max", "value"] = 100.0 * rate + place
    frame.loc[frame["name"] == "probe_accuracy", "value"] = 0.8 * rate - 0.01 * place
    (axes,) = panels(correlations(frame))
    labels = [t.get_text() for t in axes.get_yticklabels()]
    found = {}
    for points in axes.collections:
        if points.get_label() in ("all checkpoints", "at equal settings"):
            found[points.get_label()] = {labels[round(y)]: x for x, y in points.get_offsets()}
    assert found["all checkpoints"]["largest eigenvalue (nats)"] > 0.3
    assert found["at equal settings"]["largest eigenvalue (nats)"] == pytest.approx(-1)


def test_granulated_coefficients_setting_by_setting(frame: pd.DataFrame) -> None:
    """Accuracy rises by 0.02 from method to method and by 0.08 with the rate, which the fixture's sharpness follows down."""
    (axes, *_) = panels(granulated(frame))
    columns = [t.get_text() for t in axes.get_xticklabels()]
    rows = [t.get_text() for t in axes.get_yticklabels()]
    assert columns == ["lr", "rho", "alpha", "mean Ψ"]
    values = axes.images[0].get_array()
    sharpness = values[rows.index("largest eigenvalue (nats)")]
    assert sharpness[columns.index("lr")] == pytest.approx(-1)
    assert sharpness[columns.index("rho")] == pytest.approx(-1)
    texts = {t.get_text() for t in axes.texts}
    assert "-1.00" in texts


def test_predictions_one_row_a_set_of_scores(frame: pd.DataFrame) -> None:
    (axes,) = panels(predicted_accuracy(frame))
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert {"sharpness", "shift", "RankMe", "hyper-parameters"} <= set(labels)
    found = {p.name: p.r2.value for p in linking_of(frame).predictions if p.groups == "configuration"}
    drawn = {labels[round(y)]: x for c in errorbars(axes) for x, y in [c.lines[0].get_xydata()[0]] if y > round(y)}
    assert drawn["sharpness"] == pytest.approx(found["sharpness"])
    assert axes.get_xlabel().startswith("R² of predicted probe accuracy")


def test_contrasts_are_differences_from_simclr_at_equal_settings(frame: pd.DataFrame) -> None:
    figure = method_contrasts(frame)
    shown = [p.get_xlabel().replace("\n", " ") for p in panels(figure)]
    assert shown == [
        "probe accuracy",
        "corrupted error (regenerated)",
        "ln ratio of largest eigenvalue",
        "ln ratio of worst-case rise",
        "Gaussian W² of pairs",
    ]
    accuracy = panels(figure)[0]
    labels = [t.get_text().replace("\n", " ") for t in accuracy.get_yticklabels()]
    assert labels == ["SimCLR + SAM", "SimCLR + Fourier", "SSA-CLR"]
    values = {labels[round(y)]: x for c in errorbars(accuracy) for x, y in [c.lines[0].get_xydata()[0]]}
    wide = frame[frame["name"] == "probe_accuracy"].set_index("checkpoint")["value"]
    for label, method in zip(labels, METHODS[1:], strict=True):
        expected = np.mean([wide[f"{method}-s{s}"] - wide[f"simclr-s{s}"] for s in (0, 1)])
        assert values[label] == pytest.approx(expected)


def test_correlations_need_four_checkpoints(frame: pd.DataFrame) -> None:
    assert correlations(frame[frame["checkpoint"].isin(frame["checkpoint"].unique()[:3])]) is None
    assert correlations(frame[frame["checkpoint"].isin(frame["checkpoint"].unique()[:4])]) is not None


def test_eigenvalues_one_line_a_checkpoint(frame: pd.DataFrame) -> None:
    (axes,) = panels(eigenvalues(frame))
    drawn = [c.lines[0] for c in errorbars(axes)]
    assert len(drawn) == 4  # a method each
    lines = [part for line in drawn for part in np.split(np.column_stack(line.get_data()).astype(float), [4])]
    assert all(np.isnan(part[3]).all() for part in lines)  # so that no line joins two checkpoints
    assert sorted(part[0, 1] for part in lines) == pytest.approx([8.0 - 0.5 * i for i in range(8)][::-1])
    assert all(part[:3, 0].tolist() == [1, 2, 3] for part in lines)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("index of the eigenvalue", "eigenvalue (nats)", "log")
    assert axes.get_xticks().tolist() == [1, 2, 3]
    assert len(legend_of(eigenvalues(frame))) == 4  # a method once, though it has two lines


def test_eigenvalues_below_zero_are_not_lost_on_a_log_scale(frame: pd.DataFrame) -> None:
    frame.loc[(frame["name"] == "lambda_3") & (frame["checkpoint"] == "simclr-s0"), "value"] = -0.5
    (axes,) = panels(eigenvalues(frame))
    assert axes.get_yscale() == "linear"
    assert min(np.nanmin(c.lines[0].get_ydata()) for c in errorbars(axes)) == -0.5


def test_spectral_density_lines_bands_and_floor(frame: pd.DataFrame) -> None:
    row = frame[(frame["name"] == "negative_mass") & (frame["checkpoint"] == "simclr-s0")].iloc[0]
    row["arrays"]["density"][0] = 0.0  # a zero has no logarithm
    (axes,) = panels(spectral_density(frame))
    assert len(axes.lines) == len(axes.collections) == 8
    line = next(line for line in axes.lines if line.get_ydata()[0] == 1e-6)
    assert line.get_xdata().tolist() == row["arrays"]["eigenvalue"]
    assert line.get_ydata()[1:].tolist() == row["arrays"]["density"][1:]
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]  # no band where it is not known
    assert {*edges.round(9)} == {*np.round(row["arrays"]["low"][1:], 9), *np.round(row["arrays"]["high"][1:], 9)}
    assert (axes.get_yscale(), axes.get_ylabel(), axes.get_xlabel()) == ("log", "density (1/nats)", "eigenvalue (nats)")


def test_a_single_eigenvalue_of_many_is_seen_in_the_density(frame: pd.DataFrame) -> None:
    """Its bump is a billionth of the bulk's."""
    rows = frame[frame["name"] == "negative_mass"]
    grid = np.linspace(-1, 9, 101)
    density = np.exp(-0.5 * (grid / 0.3) ** 2) + 1e-9 * np.exp(-0.5 * ((grid - 8) / 0.3) ** 2)
    for row in rows.itertuples():
        row.arrays.update(
            {k: v.tolist() for k, v in {"eigenvalue": grid, "density": density, "low": density, "high": density}.items()}
        )
    (axes,) = panels(spectral_density(frame))
    assert axes.get_xscale() == "linear"
    assert 1e-11 < axes.get_ylim()[0] < 1e-9
    shown = axes.lines[0].get_ydata()
    assert shown[np.argmin(abs(grid - 8))] > 2 * shown[np.argmin(abs(grid - 5))]


def test_densities_of_very_different_ranges_share_a_logarithmic_axis(frame: pd.DataFrame) -> None:
    arrays = frame[frame["name"] == "negative_mass"].iloc[0]["arrays"]
    arrays["eigenvalue"] = [1000 * value for value in arrays["eigenvalue"]]
    (axes,) = panels(spectral_density(frame))
    assert axes.get_xscale() == "symlog"
    ticks = sorted(axes.get_xticks())
    assert ticks[-1] <= max(arrays["eigenvalue"])
    assert 0 in ticks
    assert len(ticks) == len(set(ticks)) >= 4


def test_slices_have_a_panel_a_method_and_the_mean_of_the_directions(frame: pd.DataFrame) -> None:
    figure = landscape_slices(frame)
    shown = panels(figure)
    assert [p.get_title() for p in shown] == list(METHOD_LABELS.values())
    assert [len(p.lines) for p in shown] == [2, 2, 2, 2]
    assert shown[0].lines[0].get_ydata().tolist() == [2.5, 1.0, 2.5]
    assert shown[0].lines[1].get_ydata().tolist() == [2.5, 1.0, 6.5]  # checkpoint 4, the second seed of SimCLR
    assert {p.get_xlabel().replace("\n", " ") for p in shown} == {"offset (filter norms)"}
    assert shown[0].get_ylabel() == "contrastive loss (nats)"
    band = shown[0].collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (1.0, 3.0)


def test_surfaces_are_rises_on_one_scale(frame: pd.DataFrame) -> None:
    figure = landscape_surfaces(frame)
    assert [p.get_title() for p in panels(figure)] == [f"{m}-s{s}" for m in METHODS for s in (0, 1)]
    (bar,) = [a for a in figure.axes if a.get_label() == "<colorbar>"]
    assert bar.get_ylabel() == "rise of the loss (nats)"
    ranges = {tuple(c.get_clim()) for p in panels(figure) for c in p.collections if c.get_array() is not None}
    assert len({np.round(r, 9) for pair in ranges for r in pair}) <= 4  # fills and lines share their levels over the panels
    levels = panels(figure)[0].collections[0].levels
    assert (levels[0], levels[-1]) == pytest.approx((0.0, 1.0))  # the middle is the weights; 2.0 - 1.0 the highest


def test_a_flat_surface_is_drawn_too(frame: pd.DataFrame) -> None:
    for arrays in frame.loc[frame["name"] == "rise_2d", "arrays"]:
        arrays["loss"] = [[1.0] * 3] * 3
    assert len(panels(landscape_surfaces(frame))) == 8


def test_shift_points_and_filled_markers(frame: pd.DataFrame) -> None:
    figure = shift_statistics(frame)
    shown = panels(figure)
    assert [p.get_title() for p in shown] == ["marginal", "sum", "difference", "joint", "cross moment"]
    assert shown[0].get_ylabel() == "MMD² (unbiased)"
    order = [f"{m}-s{s}" for m in METHODS for s in (0, 1)]
    numbers = [METHODS.index(name[:-3]) + 4 * int(name[-1]) for name in order]
    for panel in shown:
        points = {}
        for line in (c.lines[0] for c in errorbars(panel)):
            hollow = same_color(line.get_markerfacecolor(), "white")
            points |= {x: (y, hollow) for x, y in zip(*line.get_data(), strict=True)}
        assert [points[x][0] for x in range(8)] == pytest.approx([0.05 + 0.01 * n for n in numbers])
        assert [points[x][1] for x in range(8)] == [n % 2 == 0 for n in numbers]  # p = 0.5: not rejected
    hollow = next(c for c in errorbars(shown[0]) if same_color(c.lines[0].get_markerfacecolor(), "white"))
    assert bar_ends(hollow, 1)[0] == pytest.approx((0.05 - 0.0196, 0.05 + 0.0196))


def test_pair_similarities_share_bins_and_are_densities(frame: pd.DataFrame) -> None:
    figure = pair_similarities(frame)
    shown = panels(figure)
    assert len(shown) == 8
    for panel in shown:
        (area,) = [patch.get_path().vertices for patch in panel.patches if patch.get_fill()]
        x, y = area[:, 0], area[:, 1]
        assert abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2 == pytest.approx(1.0)
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["ideal (same class)", "practical (two views)"]
    assert shown[-1].get_xlabel() == "z·z⁺"
    assert shown[0].get_ylabel() == "density"


def test_corruption_curves_average_over_the_checkpoints_of_a_method(frame: pd.DataFrame) -> None:
    for draw, label, shown in (
        (corruption_curves, "accuracy", lambda e: 1 - e),
        (corruption_angles, "angle (degrees)", lambda a: a),
    ):
        figure = draw(frame)
        drawn = panels(figure)
        assert [p.get_title() for p in drawn] == ["gaussian noise", "defocus blur", "contrast"]
        assert {p.get_xlabel() for p in drawn} == {"severity"}
        assert drawn[0].get_ylabel() == label
        assert figure.legends[0].get_title().get_text() == "corrupted images: regenerated"
        scale, clean = (1, 0.1) if draw is corruption_curves else (100, 0.0)
        for k, panel in enumerate(drawn):
            assert len(panel.lines) == 4
            line = panel.lines[0]  # SimCLR: checkpoints 0 and 4
            assert line.get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
            expected = [scale * (0.1 * s + 0.01 * k + 0.002) for s in range(1, 6)]
            assert line.get_ydata().tolist() == pytest.approx([shown(v) for v in (clean, *expected)])
            ends = panel.collections[0].get_paths()[0].get_extents()  # the band spans the two
            assert ends.y1 - ends.y0 > line.get_ydata().max() - line.get_ydata().min()


def test_a_single_checkpoint_s_band_is_its_interval_over_images(frame: pd.DataFrame) -> None:
    panel = panels(corruption_curves(frame[frame["checkpoint"] == "simclr-s0"]))[0]
    points = panel.collections[0].get_paths()[0].vertices
    at_five = sorted({round(float(y), 6) for x, y in points if x == 5})
    assert at_five == [pytest.approx(0.5 - 1.96 * 0.01), pytest.approx(0.5 + 1.96 * 0.01)]
    assert {round(float(y), 6) for x, y in points if x == 0} == {0.9}


def test_official_files_are_said_to_be_so(frame: pd.DataFrame) -> None:
    official = frame.assign(settings=[{**s, "mark": ""} for s in frame["settings"]])
    assert corruption_curves(official).legends[0].get_title().get_text() == "corrupted images: official files"
    one = frame["checkpoint"] == "simclr-s0"
    mixed = frame.assign(settings=[{**s, "mark": ""} if o else s for s, o in zip(frame["settings"], one, strict=True)])
    assert corruption_curves(mixed).legends[0].get_title().get_text() == "corrupted images: official and regenerated"


def test_the_heat_map_has_a_row_a_checkpoint_and_its_numbers(frame: pd.DataFrame) -> None:
    figure = corruption_heatmap(frame)
    (axes,) = panels(figure)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["clean", "gaussian noise", "defocus blur", "contrast"]
    rows = [t.get_text() for t in axes.get_yticklabels()]
    assert sorted(rows) == sorted(frame["checkpoint"].unique())
    values = np.asarray(axes.images[0].get_array())
    for row, name in zip(values, rows, strict=True):
        table = frame[(frame["checkpoint"] == name) & (frame["name"] == "mean_error")]["arrays"].iloc[0]
        assert row.tolist() == pytest.approx([0.9, *(1 - np.mean(v) for v in table["value"])]), name
    assert axes.get_xlabel() == "mean over five severities, in %; corrupted images: regenerated"
    assert [t.get_text() for t in axes.texts[:4]] == [f"{100 * v:.0f}" for v in values[0]]


def test_a_contact_sheet_shows_every_tile_at_its_place() -> None:
    clean = np.full((2, 8, 6, 3), 10, np.uint8)
    tiles = {
        name: np.stack([np.full((2, 8, 6, 3), 20 * k + s, np.uint8) for s in range(5)])
        for k, name in enumerate(("fog", "a_b"), 1)
    }
    figure = contact_sheet(tiles, clean, "regenerated")
    (axes,) = panels(figure)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["fog", "a b"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["clean", *(f"severity {s}" for s in range(1, 6))]
    assert axes.get_xlabel() == "corrupted images: regenerated"
    sheet = np.asarray(axes.images[0].get_array())
    for row, y in enumerate(axes.get_yticks(), 1):
        assert set(sheet[round(y)][:, 0]) == {10, 255, *(20 * row + s for s in range(5))}
        for column, x in enumerate(axes.get_xticks()):
            near = sheet[round(y), round(x) - 2 : round(x) + 3, 0]
            assert set(near) <= {255, 10 if column == 0 else 20 * row + column - 1}
    for value in (10, 20, 24, 40, 44):
        assert (sheet[..., 0] == value).sum() == 8 * 6 * 2 * (2 if value == 10 else 1)


def test_waterfall_adds_up(frame: pd.DataFrame) -> None:
    figure = bound_waterfall(frame)
    shown = panels(figure)
    assert len(shown) == 8
    bars = [(b.get_y(), b.get_y() + b.get_height(), to_hex(b.get_facecolor())) for b in shown[0].patches]
    ends = [round(end, 9) for _, end, _ in bars]
    assert ends == [0.5, 0.9, 1.2, 1.2, 1.0, 0.9, 0.9]
    assert [round(start, 9) for start, _, _ in bars] == [0, 0.5, 0.9, 0, 1.2, 1.0, 0]
    assert [colour == TOTAL for _, _, colour in bars] == [True, False, False, True, False, False, True]
    words = [t.get_text() for t in shown[-1].get_xticklabels()]
    assert words == ["probe", "R1", "R2", "bound", "R8 unif.", "R8 align.", "practical"]
    (chance,) = shown[0].lines
    assert set(chance.get_ydata()) == {2.3}
    assert (shown[0].get_ylabel(), shown[1].get_ylabel()) == ("nats", "")


def test_the_chain_climbs_to_its_bound_and_leaves_out_what_it_does_not_have(frame: pd.DataFrame) -> None:
    for arrays in frame.loc[frame["name"] == "chain", "arrays"]:
        arrays["step"], arrays["value"] = [*CAUSES, "complexity"], [0.5, 0.5, 0.2, -0.1, 0.0, 1.2]
    shown = panels(bound_chain(frame))
    bars = [(round(b.get_y(), 9), round(b.get_y() + b.get_height(), 9)) for b in shown[0].patches]
    assert bars == [(0, 0.5), (0.5, 1.0), (1.0, 1.2), (1.2, 1.1), (1.1, 2.3), (0, 2.3)]
    words = [t.get_text() for t in shown[0].get_xticklabels()]
    assert words == ["probe", "mean class. (R1)", "collapse (R2)", "shift (R6)", "complexity (R9)", "bound"]
    colours = [to_hex(b.get_facecolor()) for b in shown[0].patches]
    assert colours[0] == colours[-1] == TOTAL.lower()
    assert colours[1] == colours[4] != colours[3]
    (chance,) = shown[0].lines
    assert set(chance.get_ydata()) == {2.3}


CAUSES = ["trained probe", "mean classifier", "class collapse", "shift", "sharpness"]


def test_bounds_stand_over_the_loss_they_bound(frame: pd.DataFrame) -> None:
    """A point a checkpoint at (truth, bound), each in its method's colour; chains without certificate are left out."""
    hidden = (frame["name"] == "chain") & (frame["checkpoint"] == "simclr-s0")
    frame.loc[hidden, "settings"] = [{**s, "confidence": None} for s in frame.loc[hidden, "settings"]]
    shown = panels(bound_against_truth(frame))
    assert [axes.get_title() for axes in shown] == list(BOUNDS.values())
    rows = {name: frame[frame["name"] == name].set_index("checkpoint") for name in (*BOUNDS, "mean_classifier_loss")}
    for axes, name in zip(shown, BOUNDS, strict=True):
        points = {
            (round(float(x), 9), round(float(y), 9)): to_hex(c.lines[0].get_color())
            for c in errorbars(axes)
            for x, y in zip(c.lines[0].get_xdata(), c.lines[0].get_ydata(), strict=True)
        }
        expected = {
            (round(rows["mean_classifier_loss"]["value"][k], 9), round(rows[name]["value"][k], 9)): COLOURS[
                rows[name]["method"][k]
            ]
            for k in rows[name].index
            if not (name == "chain" and k == "simclr-s0")
        }
        assert {point: colour.lower() for point, colour in expected.items()} == points
        diagonal, chance = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() != "None"][:2]
        assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
        assert set(chance.get_ydata()) == {2.3}


def test_slack_goes_over_the_epochs_of_each_run(frame: pd.DataFrame) -> None:
    """The fixture's two checkpoints of a method are epochs 3 and 4 of one run."""
    later = frame["epoch"] == 4
    frame.loc[later & (frame["name"] == "R2"), "value"] = 0.35
    shown = panels(slack_over_epochs(frame))
    assert [axes.get_title() for axes in shown] == list(SLACKS)
    for axes in shown:
        lines = [c.lines[0] for c in errorbars(axes)]
        assert len(lines) == 4
        for line in lines:
            assert list(line.get_xdata()) == [3, 4]
            assert list(line.get_ydata()) == [0.2, 0.35 if axes.get_title() == "R2" else 0.2]
        assert {to_hex(line.get_color()) for line in lines} == {colour.lower() for colour in COLOURS.values()}
    assert [axes.get_ylabel() for axes in shown] == ["slack (nats)"] * 5 + ["slack (cosine)"]
    assert slack_over_epochs(frame.assign(run="")) is None


def test_sharpness_and_complexity_pull_at_the_bound(frame: pd.DataFrame) -> None:
    axes = panels(sharpness_complexity(frame))[0]
    drawn = [list(line.get_ydata()) for line in axes.lines]
    assert [30.0, 3.0, 1.0] in drawn  # complexity
    assert [pytest.approx(v) for v in (35.1, 8.3, 7.1)] in drawn  # loss and all parts by Pinsker's inequality
    assert [8.1, 6.5, 7.0] in drawn
    minima = [(float(x[0]), float(y[0])) for x, y in ((n.get_xdata(), n.get_ydata()) for n in axes.lines) if len(x) == 1]
    assert minima == [(1.0, pytest.approx(7.1)), (0.1, 6.5)]
    assert np.isnan(next(line for line in drawn if len(line) == 3)[0])  # no sharpness at all has no logarithm
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_many_checkpoints_share_the_panels_fairly(frame: pd.DataFrame) -> None:
    rows = rows_of(frame, "landscape", "rise_2d")
    many = pd.concat([rows.assign(checkpoint=rows["checkpoint"] + f"-{k}") for k in range(4)])
    chosen = panel_choice(many)
    assert len(chosen) == MAX_PANELS
    assert chosen["method"].value_counts().tolist() == [2, 2, 2, 2]
    hundreds = pd.concat([rows.assign(checkpoint=rows["checkpoint"] + f"-{k}") for k in range(13)])
    assert panel_choice(hundreds)["method"].value_counts().tolist() == [1, 1, 1, 1]


def test_rows_are_finite_and_in_the_order_of_methods(frame: pd.DataFrame) -> None:
    accuracy = frame["name"] == "probe_accuracy"
    frame.loc[accuracy & (frame["checkpoint"] == "ssa-clr-s0"), "value"] = np.nan
    frame.loc[frame["checkpoint"] == "simclr-sam-s1", "method"] = None
    rows = rows_of(frame, "downstream", "probe_accuracy")
    assert rows["method"].tolist() == ["simclr"] * 2 + ["simclr-sam", "simclr-fourier", "simclr-fourier", "ssa-clr", "unknown"]
    assert "ssa-clr-s0" not in set(rows["checkpoint"])


@pytest.mark.parametrize("name", ["bound_waterfall", "pair_similarities", "landscape_surfaces"])
def test_panels_with_nothing_below_them_keep_their_tick_labels(name: str, frame: pd.DataFrame) -> None:
    six = frame[frame["checkpoint"].isin(sorted(frame["checkpoint"].unique())[:6])]
    figure = DRAWERS[name](six)
    figure.draw_without_rendering()
    shown = [any(t.get_visible() and t.get_text() for t in p.get_xticklabels()) for p in panels(figure)]
    assert shown == [False, False, True, True, True, True]


ODD = ["$\\frac{x$", "a$b$c", "100% {it} ^_~#&", "<b>é"]


@pytest.mark.parametrize("name", [name for name in DRAWERS if name not in LINKING])
def test_odd_names_are_drawn_as_they_are(name: str, frame: pd.DataFrame) -> None:
    names = dict(zip((f"{m}-s0" for m in METHODS), ODD, strict=True))
    table = frame.assign(checkpoint=frame["checkpoint"].replace(names), method=frame["method"].replace("simclr", ODD[0]))
    figure = DRAWERS[name](table)
    figure.draw_without_rendering()  # a formula would be set here
    texts = {t.get_text().replace(r"\$", "$") for t in figure.findobj(mpl.text.Text)}
    every = ("landscape_surfaces", "pair_similarities", "pair_differences", "margins", "bound_waterfall")
    joined = "\n".join(texts)
    assert all(odd in joined for odd in (ODD if name in every else ODD[:1]))


def test_correlations_among_scores(frame: pd.DataFrame) -> None:
    """The fixture's scores rise or fall together, so that every coefficient is 1 or -1."""
    (axes,) = panels(score_correlations(frame))
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert labels == [t.get_text() for t in axes.get_xticklabels()]
    assert labels[:2] == ["probe accuracy", "kNN accuracy"]
    values = np.asarray(axes.images[0].get_array())
    accuracy, sharpness = labels.index("probe accuracy"), labels.index("largest eigenvalue (nats)")
    assert values[accuracy, sharpness] == pytest.approx(-1)
    assert (values == values.T).all()
    assert np.diag(values).tolist() == [1.0] * len(labels)
    written = {t.get_position(): t.get_text() for t in axes.texts}
    assert written[sharpness, accuracy] == "-1.00"
    assert (accuracy, accuracy) not in written


def test_an_undecided_correlation_stands_in_brackets(make_table: Callable[..., pd.DataFrame]) -> None:
    names = [f"c{i}" for i in range(8)]
    mixed = dict(zip(names, [3.0, 8.0, 1.0, 6.0, 2.0, 7.0, 4.0, 5.0], strict=True))
    rising = {name: float(i) for i, name in enumerate(names)}
    table = make_table(downstream__probe_accuracy=rising, curvature__lambda_max=rising, curvature__trace=mixed)
    (axes,) = panels(score_correlations(table))
    written = {t.get_position(): t.get_text() for t in axes.texts}
    assert written[1, 0] == "1.00"
    assert written[2, 0].startswith("(")
    assert written[2, 0] == written[0, 2]


def test_a_method_keeps_its_colour_where_others_are_missing(frame: pd.DataFrame) -> None:
    """A method of other people is the fifth in all figures, also where the one before it has nothing to show."""
    frame["method"] = frame["method"].replace({"simclr": "byol", "simclr-sam": "moco"})
    without = frame[~((frame["measure"] == "curvature") & (frame["method"] == "byol"))]
    assert legend_of(score_scatter(without))["moco"] == legend_of(eigenvalues(without))["moco"] == PALETTE[5].lower()


def test_one_kind_of_rows_stands_on_its_labels(make_table: Callable[..., pd.DataFrame]) -> None:
    """Without settings there is no second row of points, and the first is not moved aside."""
    names = [f"c{i}" for i in range(6)]
    table = make_table(
        downstream__probe_accuracy={n: float(i) for i, n in enumerate(names)},
        curvature__lambda_max={n: float(i % 4) for i, n in enumerate(names)},
    )
    (axes,) = panels(correlations(table))
    (points,) = [c for c in axes.collections if c.get_label() == "all checkpoints"]
    assert points.get_offsets()[:, 1].tolist() == axes.get_yticks().tolist()
