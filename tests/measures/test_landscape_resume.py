"""A grid that is killed half-way goes on where it stopped, to the very same numbers."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from processes import run_script

from ssa_analysis.data.datasets import Data
from ssa_analysis.measures.base import RunContext, running_in
from ssa_analysis.measures.landscape import LandscapeSettings, landscape
from ssa_analysis.measures.partial_points import PartialPoints, Point
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.hessian import CurvatureOperator
from ssa_analysis.running.executors import InProcessExecutor
from ssa_analysis.running.plan import DataSpec, loaded_data, make_cells
from ssa_analysis.running.scoring import run_cells, scratch_of
from ssa_analysis.running.store import Store
from ssa_analysis.scores import Score

GRID = {"pairs": 32, "batch": 32, "directions": 2, "points": 5, "grid": 5}
SPEC = DataSpec("digits", subset=300)
UNIQUE = 25  # the plane holds both lines
CHECKS = 2  # losses of the determinism check
# scores like `ssa-analyze score`; counts the losses in a file and kills itself before one of them
SCRIPT = """
import os, signal, sys
import torch
from pathlib import Path
from ssa_analysis.numerics.hessian import CurvatureOperator
from ssa_analysis.running.executors import InProcessExecutor
from ssa_analysis.running.plan import DataSpec, loaded_data, make_cells
from ssa_analysis.running.scoring import run_cells
from ssa_analysis.running.store import Store

checkpoint, folder, last, grid = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), eval(sys.argv[4])
torch.set_num_threads(1)
original = CurvatureOperator.loss

def counted(self):
    with open(folder / "calls", "a") as stream:
        stream.write("x")
    if (folder / "calls").stat().st_size > last:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self)

CurvatureOperator.loss = counted
spec = DataSpec("digits", subset=300)
cells = make_cells([checkpoint], loaded_data(spec), ["landscape"], 0, {}, {"landscape": grid})
with Store(folder / "scores.db") as store:
    summary = run_cells(cells, spec, executor=InProcessExecutor(), store=store)
sys.exit(len(summary.failures))
"""


def score_in_subprocess(checkpoint: Path, folder: Path, last: int) -> int:
    """Exit code of a run that is killed when it asks for one loss more than ``last``, earlier runs counted."""
    done = run_script(SCRIPT, checkpoint, folder, last, repr(GRID))
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def comparable(scores: list[Score]) -> list[object]:
    return [(s.name, s.value, s.stderr, s.low, s.high, s.converged, dict(s.settings), dict(s.arrays)) for s in scores]


def test_a_killed_grid_computes_only_what_is_missing_and_gives_the_same_bits(tiny_checkpoint: Path, tmp_path: Path) -> None:
    cells = make_cells([tiny_checkpoint], loaded_data(SPEC), ["landscape"], 0, {}, {"landscape": GRID})
    unbroken = run_cells(cells, SPEC, executor=InProcessExecutor()).scores
    finished = 11
    assert score_in_subprocess(tiny_checkpoint, tmp_path, CHECKS + finished) == -signal.SIGKILL
    with Store(tmp_path / "scores.db") as store:
        assert not store.has(cells[0])
        points = scratch_of(store) / cells[0].key / "points.jsonl"
    assert len(points.read_text().splitlines()) == 1 + finished
    os.truncate(points, points.stat().st_size - 7)  # as if the kill had come in the middle of a line
    (tmp_path / "calls").unlink()
    # the mark that would send it to a process of its own, where nobody counts
    (scratch_of(store) / f"{cells[0].sha256}.begun").unlink()
    assert score_in_subprocess(tiny_checkpoint, tmp_path, 10**6) == 0
    assert (tmp_path / "calls").stat().st_size == CHECKS + UNIQUE - (finished - 1)
    assert not (tmp_path / "scores.db.partial").exists()
    with Store(tmp_path / "scores.db", must_exist=True) as store:
        assert comparable(store.scores_of(cells[0])) == comparable(unbroken)


def interrupted(encoder: Encoder, data: Data, settings: LandscapeSettings, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the landscape until it asks for one loss more than ``after``."""
    calls = []
    original = CurvatureOperator.loss

    def stops(self: CurvatureOperator) -> float:
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(CurvatureOperator, "loss", stops)
        with pytest.raises(KeyboardInterrupt):
            landscape(encoder, data, settings)


def test_eigenvectors_are_kept_too(encoder: Encoder, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LandscapeSettings(**{**GRID, "along": "eigenvectors"})  # type: ignore[arg-type]
    unbroken = comparable(landscape(encoder, digits, settings))
    with running_in(RunContext(tmp_path / "cell")):
        interrupted(encoder, digits, settings, CHECKS + 5, monkeypatch)
        assert sorted(p.name for p in (tmp_path / "cell").iterdir()) == ["eigenvectors.pt", "points.jsonl"]
        with monkeypatch.context() as patch:
            patch.setattr(CurvatureOperator, "matvec", None)  # no product is needed any more
            assert comparable(landscape(encoder, digits, settings)) == unbroken
        (tmp_path / "cell" / "eigenvectors.pt").write_bytes(b"torn")
        assert comparable(landscape(encoder, digits, settings)) == unbroken


@pytest.mark.parametrize("change", ["settings", "weights"])
def test_points_of_something_else_are_not_used(
    change: str, encoder: Encoder, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LandscapeSettings(**GRID)  # type: ignore[arg-type]
    with running_in(RunContext(tmp_path)):
        interrupted(encoder, digits, settings, CHECKS + 9, monkeypatch)
        if change == "settings":
            settings = LandscapeSettings(**{**GRID, "tau": 0.2})  # type: ignore[arg-type]
        else:
            with torch.no_grad():
                next(encoder.parameters()).mul_(1.1)
        resumed = landscape(encoder, digits, settings)
    assert comparable(resumed) == comparable(landscape(encoder, digits, settings))


def test_without_a_run_nothing_is_kept(encoder: Encoder, digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    landscape(encoder, digits, LandscapeSettings(**GRID))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_points_come_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "points.jsonl"
    values: dict[Point, float] = {(): 1 / 3, (("a", 0.1 + 0.2), ("b", -1e-17)): 4.1, (("a", 1.0),): math.nan}
    with PartialPoints(path, {"x": 1}) as points:
        for point, value in values.items():
            points.add(point, value)
    with PartialPoints(path, {"x": 1}) as points:
        assert repr(points.known) == repr(values)
        points.add((("c", 2.0),), 5.0)
    with PartialPoints(path, {"x": 1}) as points:
        assert len(points.known) == 4
    with PartialPoints(path, {"x": 2}) as points:
        assert points.known == {}
    with PartialPoints(path, {"x": 1}) as points:
        assert points.known == {}  # begun anew by the one before


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_whatever_the_place_of_a_tear_the_whole_lines_before_it_count(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    with PartialPoints(path, {}) as points:
        for i in range(4):
            points.add((("a", float(i + 1)),), float(i))
    whole = path.read_bytes()
    os.truncate(path, len(whole) - cut)
    left = (len(whole) - cut - len(b"{}\n")) // len(whole.splitlines(keepends=True)[1])
    with PartialPoints(path, {}) as points:
        assert list(points.known.values()) == [float(i) for i in range(left)]
        for i in range(left, 4):
            points.add((("a", float(i + 1)),), float(i))
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_does_not_stop_the_work(
    tmp_path: Path, encoder: Encoder, digits: Data, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = LandscapeSettings(**GRID)  # type: ignore[arg-type]
    with running_in(RunContext(tmp_path / "file" / "cell")), caplog.at_level("WARNING"):
        scores = landscape(encoder, digits, settings)
    assert comparable(scores) == comparable(landscape(encoder, digits, settings))
    json.dumps([score.to_json() for score in scores])
