"""Tables: numbers with their errors, and text that stays text in LaTeX and in spreadsheets."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from ssa_analysis.reports.findings import findings
from ssa_analysis.reports.names import KEY_SCORES, better_of, label_of
from ssa_analysis.reports.tables import bounds_table, links_table, safe_csv, score_table, summary_table, to_latex, with_error


@pytest.mark.parametrize(
    ("value", "stderr", "low", "high", "text"),
    [
        (0.9592, 0.0087, None, None, "0.9592 ± 0.0087"),
        (0.95921, 0.0123, None, None, "0.959 ± 0.012"),
        (123.4, 25.3, None, None, "123 ± 25"),
        (123.44, 2.53, None, None, "123.4 ± 2.5"),
        (1234567.0, 34000.0, None, None, "1234567 ± 34000"),
        (-3.0, 0.05, None, None, "-3.000 ± 0.050"),
        (0.5, None, 0.4, 0.6, "0.50 ± 0.10"),
        (0.5, math.nan, 0.4, 0.6, "0.50 ± 0.10"),
        (0.5, 0.05, 0.1, 0.9, "0.500 ± 0.050"),  # a standard error goes before an interval
        (0.123456, None, None, None, "0.1235"),
        (0.123456, None, 0.1, None, "0.1235"),  # a lower bound has no error
        (0.123456, math.nan, math.nan, math.nan, "0.1235"),
        (1.0, 0.0, None, None, "1"),
        (8.123456, 1e-7, None, None, "8.123"),  # a residual far below what is shown
        (math.nan, 0.1, None, None, "n/a"),
        (math.inf, None, None, None, "n/a"),
        (None, None, None, None, "n/a"),
    ],
)
def test_values_with_errors(value: float, stderr: float, low: float, high: float, text: str) -> None:
    assert with_error(value, stderr, low, high) == text


def test_summary_has_a_row_a_checkpoint_and_the_key_scores_in_order(frame: pd.DataFrame) -> None:
    table = summary_table(frame)
    present = set(frame["measure"] + "." + frame["name"])
    marked = {"robustness.mean_error": "corrupted error (regenerated)"}
    labels = [marked.get(row.key, row.label) for row in KEY_SCORES if row.key in present]
    assert list(table.columns) == ["checkpoint", "method", *labels]
    assert table["checkpoint"].tolist() == list(frame["checkpoint"].unique())
    row = table.set_index("checkpoint").loc["simclr-s1"]
    assert (row["method"], row["probe accuracy"], row["effective rank"]) == ("SimCLR", "0.7800 ± 0.0050", "14.00 ± 0.30")


def test_summary_marks_what_did_not_converge(frame: pd.DataFrame) -> None:
    trace = summary_table(frame).set_index("checkpoint")["Hessian trace (nats)"]
    assert trace["ssa-clr-s0"] == "17.00 ± 0.50 *"
    assert trace["simclr-s0"] == "20.00 ± 0.50"


def test_summary_leaves_gaps_empty(frame: pd.DataFrame) -> None:
    table = summary_table(frame[~((frame["measure"] == "curvature") & (frame["checkpoint"] == "simclr-s0"))])
    assert table.set_index("checkpoint").loc["simclr-s0", "largest eigenvalue (nats)"] == ""
    assert "largest eigenvalue (nats)" not in summary_table(frame[frame["measure"] != "curvature"])


def test_summary_of_nothing_is_empty(empty: pd.DataFrame) -> None:
    assert summary_table(empty).empty
    assert score_table(empty).empty
    assert bounds_table(empty).empty
    assert links_table(empty).empty


def test_bounds_table_has_both_sides(frame: pd.DataFrame) -> None:
    table = bounds_table(frame)
    assert len(table) == 8 * 9
    first = table.iloc[0].to_dict()
    assert first["rung"] == "R1"
    assert first["statement"] == "L_sup* <= L_sup"
    assert [first[k] for k in ("left", "right", "slack", "low", "high", "verdict")] == [0.5, 0.7, 0.2, 0.1, 0.3, "holds"]


def test_links_table_needs_four_checkpoints(frame: pd.DataFrame, make_table: Callable[..., pd.DataFrame]) -> None:
    assert links_table(frame[frame["checkpoint"].isin(["simclr-s0", "simclr-s1", "ssa-clr-s0"])]).empty
    assert set(links_table(frame)["n"]) == {8}
    only_accuracy = make_table(downstream__probe_accuracy=dict.fromkeys("abcd", 0.5))
    assert links_table(only_accuracy).empty


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("name", ["=1+1", "+1", "-cmd|' /C calc'!A0", "@SUM(A1)", "\tx", '=HYPERLINK("http://x")', "-", "-x"])
def test_no_text_can_be_taken_for_a_formula(name: str) -> None:
    (row,) = read_csv(safe_csv(pd.DataFrame({"checkpoint": [name], "value": [-1.5]})))
    assert row["checkpoint"].startswith("'")
    assert row["value"] == "-1.5"


def test_a_carriage_return_does_not_end_a_row() -> None:
    table = pd.DataFrame({"checkpoint": ["a\r=1+1", "\r=1+1"]})
    assert [row["checkpoint"] for row in read_csv(safe_csv(table))] == ["a =1+1", "' =1+1"]


@pytest.mark.parametrize("text", ["-3.000 ± 0.050", "-3.000 ± 0.050 *", "-1e-05", "-0.5", "-2.5e+10 ± 1e+08"])
def test_negative_numbers_are_no_formulas(text: str) -> None:
    (row,) = read_csv(safe_csv(pd.DataFrame({"uniformity": [text]})))
    assert row["uniformity"] == text


def test_csv_keeps_commas_quotes_and_lines(frame: pd.DataFrame) -> None:
    odd = 'a,b "c"\nd'
    rows = read_csv(safe_csv(score_table(frame.assign(checkpoint=odd))))
    assert len(rows) == len(frame)
    assert {row["checkpoint"] for row in rows} == {odd}
    assert [float(row["value"]) for row in rows] == frame["value"].tolist()
    assert {row["converged"] for row in rows} == {"True", "False"}


def test_csv_does_not_change_the_table(frame: pd.DataFrame) -> None:
    table = score_table(frame.assign(checkpoint="=x"))
    before = table.copy()
    safe_csv(table)
    pd.testing.assert_frame_equal(table, before)


def cells(latex: str) -> list[list[str]]:
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip()
    return [[cell.strip() for cell in row.removesuffix(r" \\").split(" & ")] for row in body.splitlines()]


def test_latex_escapes_names() -> None:
    table = pd.DataFrame({"a_b": [r"50% & #1_$x^2~{y}\z"], "value": ["0.5 ± 0.1"]})
    text = to_latex(table, "100 % of them")
    escaped = r"50\% \& \#1\_\$x\textasciicircum{}2\textasciitilde{}\{y\}\textbackslash{}z"
    header = text.split(r"\toprule")[1].split(r"\midrule")[0].strip()
    assert header == r"a\_b & value \\"
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip()
    assert body == rf"{escaped} & 0.5 $\pm$ 0.1 \\"
    assert r"\begin{tabular}{ll}" in text
    assert r"\footnotesize 100 \% of them" in text


def test_latex_of_the_summary_is_a_rectangle(frame: pd.DataFrame) -> None:
    table = summary_table(frame)
    rows = cells(to_latex(table, ""))
    assert {len(row) for row in rows} == {len(table.columns)}
    assert rows[0][:3] == ["simclr-s0", "SimCLR", r"0.7000 $\pm$ 0.0050"]


def test_latex_rounds_numbers_and_says_what_is_missing() -> None:
    assert cells(to_latex(pd.DataFrame({"v": [1 / 3, np.nan], "n": [1, 2]}), "")) == [["0.3333", "1"], ["n/a", "2"]]


def test_names_of_scores() -> None:
    assert label_of("curvature.trace") == "Hessian trace (nats)"
    assert label_of("robustness.error_gaussian_noise") == "error gaussian noise"
    assert [better_of(k) for k in ("downstream.probe_accuracy", "curvature.trace", "x.y")] == ["high", "low", ""]


def test_what_must_be_said_of_scores_stands_in_every_table(frame: pd.DataFrame) -> None:
    notes = score_table(frame).set_index("name")["note"]
    assert set(notes[["mean_error", "mean_angle"]]) == {"regenerated"}
    assert set(notes.drop(["mean_error", "mean_angle"])) == {""}
    links = links_table(frame).set_index("score")["note"]
    assert links["robustness.mean_error"] == "regenerated"
    assert links["curvature.lambda_max"] == ""
    assert "corrupted error (regenerated)" in to_latex(summary_table(frame), "")
    assert any("(corrupted error (regenerated) " in sentence for sentence in findings(frame))
    some = frame["checkpoint"] == "simclr-s0"
    frame.loc[some, "settings"] = [{**s, "mark": ""} for s in frame.loc[some, "settings"]]
    assert "corrupted error (official and regenerated)" in summary_table(frame)
