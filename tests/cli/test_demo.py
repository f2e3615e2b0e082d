"""The demo from end to end, with one epoch and small measures; what it promises, and that it continues."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ssa_analysis.cli.demo_verb as demo_verb
from command_line import SMALL
from ssa_analysis.reports import html

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.errors import MeasureError
from ssa_analysis.measures import MEASURES
from ssa_analysis.running.plan import default_measures
from ssa_analysis.running.store import Store

pytestmark = pytest.mark.slow
METHODS = ["simclr", "simclr-fourier", "simclr-sam", "ssa-clr"]


@dataclass(frozen=True)
class Demo:
    folder: Path
    first: Any
    written: dict[str, int]  # when the checkpoints and the cells were written
    again: Any
    still: dict[str, int]


def times(folder: Path) -> dict[str, int]:
    written = {str(path): path.stat().st_mtime_ns for path in folder.glob("runs/*/last.pt")}
    with Store(folder / "scores.db", must_exist=True) as store:
        rows = store._db.execute("SELECT key, finished FROM cells").fetchall()
    return {**written, **dict(rows)}


@pytest.fixture(scope="module")
def demo(cli: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_verb, "OVERRIDES", SMALL)
        patch.setattr(html, "FIGURES", html.FIGURES[:2])  # the reports' own tests draw all
        command = ("demo", "--out", folder, "--epochs", 1, "--seeds", 1, "--workers", 1)
        first, written = cli(*command), times(folder)
        patch.setattr(html, "FIGURES", ())
        return Demo(folder, first, written, cli(*command, "--json"), times(folder))


def test_it_leaves_what_the_documents_promise(demo: Demo) -> None:
    assert demo.first.code == 0, demo.first.err
    assert (demo.folder / "report" / "index.html").read_text().startswith("<!doctype html>")
    with Store(demo.folder / "scores.db", must_exist=True) as store:
        frame = store.frame()
    assert set(frame["checkpoint"]) == {f"{method}-s0" for method in METHODS}
    assert set(frame["measure"]) == {*default_measures(), "bounds"}
    assert len(frame[["checkpoint", "measure"]].drop_duplicates()) == 4 * 8
    for method in METHODS:
        training = load_checkpoint(demo.folder / "runs" / f"{method}-s0" / "last.pt").report.training
        assert (training["settings"]["method"], training["epoch"]) == (method, 1)


def test_it_prints_the_findings_and_where_the_report_is(demo: Demo) -> None:
    *found, last = demo.first.out.splitlines()
    assert [line[:3] for line in found] == [f"{n}. " for n in range(1, len(found) + 1)]
    assert 3 <= len(found) <= 8
    assert found[0].startswith("1. Best downstream: ")
    report, seconds = re.fullmatch(r"Report: (.+)  \((.+)\)", last).groups()  # type: ignore[union-attr]
    assert Path(report) == demo.folder / "report" / "index.html"
    assert re.fullmatch(r"[\d.]+ s|\d+ min \d\d s|\d+ ms", seconds)
    page = (demo.folder / "report" / "index.html").read_text()
    assert page.count("<li>") >= len(found)


def test_its_progress_counts_every_step(demo: Demo) -> None:
    lines = demo.first.err.splitlines()
    assert lines[0] == ("study demo: 4 checkpoints of 4 configurations (1 simclr, 1 simclr-sam, 1 simclr-fourier, 1 ssa-clr)")
    assert lines[3] == f"in {demo.folder}: 0 of 4 are trained"
    assert "1/3 training 4 of 4 checkpoints" in lines
    assert "2/3 scoring: 32 of 32 cells to compute" in lines
    assert "3/3 linking and writing the report" in lines
    assert sum(line.startswith("[") for line in lines) == 4 + 32
    assert not any("failed" in line or "Warning" in line for line in lines)


def test_again_it_computes_nothing_and_finds_the_same(demo: Demo) -> None:
    assert demo.again.code == 0
    assert "2/3 scoring: 0 of 32 cells to compute" in demo.again.err
    assert demo.still == demo.written
    assert [f"{n}. {text}" for n, text in enumerate(demo.again.json["findings"], 1)] == demo.first.out.splitlines()[:-1]


def test_as_json_it_says_where_all_is_and_what_was_found(demo: Demo) -> None:
    told = demo.again.json
    assert told["store"] == str(demo.folder / "scores.db")
    assert told["report"] == str(demo.folder / "report" / "index.html")
    assert (told["trained"], told["not_trained"], told["computed"], told["failed"]) == (0, {}, 0, [])
    assert len(told["checkpoints"]) == 4
    assert all(Path(path).is_file() for path in told["checkpoints"])


def test_a_cell_that_fails_does_not_stop_it(
    demo: Demo, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another setting makes the cells of one measure new; that measure now breaks."""

    def breaks(*_: Any) -> None:
        raise MeasureError("nothing to be said")

    monkeypatch.setattr(html, "FIGURES", ())
    monkeypatch.setattr(demo_verb, "OVERRIDES", {**SMALL, "shift": {"permutations": 19}})
    monkeypatch.setitem(MEASURES._entries, "shift", replace(MEASURES.get("shift"), function=breaks))
    ended = cli("demo", "--out", demo.folder, "--epochs", 1, "--seeds", 1, "--workers", 1)
    assert ended.code == 1
    assert "2/3 scoring: 4 of 32 cells to compute" in ended.err
    assert ended.err.count("failed: nothing to be said") == 4
    assert ended.out.splitlines()[-1].startswith("Report: ")
