"""A report of five hundred checkpoints: soon there, and small."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scale import often
from scores_by_hand import METHODS, fill, scores_of
from ssa_analysis.reports import html
from ssa_analysis.reports.figure_files import figure_files
from ssa_analysis.reports.html import write_report
from ssa_analysis.reports.style import new_figure

from ssa_analysis.running.store import Store

COUNT = 500
BYTES = 20 * 10**6
EVERY = often(3, 1)  # a third of the figures, all of them in the full tests
SECONDS = often(40, 60)  # linking and the cards take their time with few figures, too
PLAIN = 0.6  # seconds of a processor for a plain figure of four panels, where nothing else runs on it


def plain_figure() -> float:
    """Processor time of a plain figure of four panels in three kinds of files: the unit in which a busy machine is as fast."""
    began = time.process_time()
    figure, axes = new_figure(3.0, columns=4)
    for panel in axes:
        panel.plot(np.arange(20), np.arange(20), marker="o")
        panel.set(title="a panel", xlabel="across", ylabel="up")
    figure_files(figure, ("svg", "png", "pdf"))
    return time.process_time() - began


@pytest.mark.slow
def test_five_hundred_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "FIGURES", html.FIGURES[::EVERY])
    rng = np.random.default_rng(0)
    some = [scores_of(number) for number in range(8)]
    with Store(tmp_path / "scores.db") as store:
        store._db.execute("PRAGMA synchronous = OFF")  # not what is tried here
        for number in range(COUNT):
            scores = [replace(s, value=s.value * (1 + 0.05 * rng.standard_normal())) for s in some[number % 8]]
            fill(store, f"{METHODS[number % 4]}-lr{number % 25}-s{number}", METHODS[number % 4], scores)
        units = [plain_figure() for _ in range(4)][1:]
        began = time.process_time()
        page = write_report(store, tmp_path / "report")
        took = time.process_time() - began
        units += [plain_figure() for _ in range(3)]
    files = [path for path in (tmp_path / "report").rglob("*") if path.is_file()]
    assert took / np.mean(units) < SECONDS / PLAIN, (took, units)
    assert sum(path.stat().st_size for path in files) < BYTES
    source = page.read_text()
    assert len(re.findall('data-card="', source)) == COUNT
    assert f"<li>{COUNT} checkpoints</li>" in source
    assert "The 26,500 rows are in tables/scores.csv.gz" in source
    assert source.count("<tr>") < 2 * COUNT + 200  # the long tables are not written out
    assert {path.name for path in files} >= {"scores.csv.gz", "summary.csv", "summary.tex"}
    assert "scores.tex" not in {path.name for path in files}
