"""Scoring: only what is missing runs, and what fails fails alone."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssa_analysis.checkpoints.writing import save_checkpoint
from ssa_analysis.errors import MeasureError
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.base import Measure, MeasureSettings, RunContext, run_context
from ssa_analysis.models.encoder import Encoder, in_batches
from ssa_analysis.running import scoring
from ssa_analysis.running.claims import Claims
from ssa_analysis.running.environment import environment
from ssa_analysis.running.executors import InProcessExecutor, ProcessExecutor
from ssa_analysis.running.plan import Cell, CellResult, DataSpec, loaded_data, make_cells
from ssa_analysis.running.scoring import ScoringSummary, run_cells, scratch_of
from ssa_analysis.running.store import Store
from ssa_analysis.scores import Score
from ssa_analysis.stopping import Deadline, gentle_interrupts, request_stop

SPEC = DataSpec("digits", subset=150)


@dataclass(frozen=True)
class ToySettings(MeasureSettings):
    factor: float = 1.0


class Toy:
    """A measure that counts its calls; the number is the sum of the first weights times a factor."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, encoder: Encoder, data: Any, settings: ToySettings) -> list[Score]:
        self.calls += 1
        total = float(next(encoder.parameters()).detach().double().sum())
        return [Score("toy", "sum", settings.factor * total), Score("toy", "undefined", math.nan)]


@pytest.fixture
def add_measure(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[..., Any]], None]:
    def add(name: str, function: Callable[..., Any]) -> None:
        monkeypatch.setitem(MEASURES._entries, name, Measure(name, "for tests", ToySettings, function))

    return add


@pytest.fixture
def toy(add_measure: Callable[..., None]) -> Toy:
    measure = Toy()
    add_measure("toy", measure)
    return measure


@pytest.fixture
def checkpoints(tiny_checkpoint: Path, tmp_path: Path) -> list[Path]:
    """Two checkpoints with different weights."""
    payload = torch.load(tiny_checkpoint, weights_only=True)
    paths = []
    for number in (1, 2):
        path = tmp_path / f"run{number}" / "last.pt"
        path.parent.mkdir()
        model = {k: v * number if v.is_floating_point() else v for k, v in payload["model"].items()}
        save_checkpoint(path, {**payload, "model": model})
        paths.append(path)
    return paths


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "scores.db") as store:
        yield store


def cells_of(paths: list[Path], *measures: str, **overrides: dict[str, Any]) -> list[Cell]:
    return make_cells(paths, loaded_data(SPEC), measures, 0, {}, overrides)


def run(cells: list[Cell], store: Store | None = None, **rest: Any) -> ScoringSummary:
    return run_cells(cells, SPEC, **{"executor": InProcessExecutor(), "store": store, **rest})


def plain(scores: list[Score]) -> list[dict[str, Any]]:
    """Scores without the NaN that equals nothing, and without the time it took."""
    return [{**score.to_json(), "seconds": 0, "arrays": dict(score.arrays)} for score in scores]


def test_the_second_run_computes_nothing_and_gives_the_same_scores(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    cells = cells_of(checkpoints, "toy")
    first = run(cells, store)
    assert (first.computed, first.reused, toy.calls) == (2, 0, 2)
    second = run(cells, store)
    assert (second.computed, second.reused, toy.calls) == (0, 2, 2)
    assert [s.to_json() for s in second.scores] == [s.to_json() for s in first.scores]
    ones, twos = (s.value for s in first.scores if s.name == "sum")
    assert twos == pytest.approx(2 * ones)


def test_scores_that_are_not_to_be_kept_leave_the_memory(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    cells, seen = cells_of(checkpoints, "toy"), []

    def watch(result: CellResult) -> None:
        seen.extend(weakref.ref(score) for score in result.scores)
        gc.collect()
        assert [score() is None for score in seen] == [True] * (len(seen) - 2) + [False] * 2  # those of the last cell

    summary = run(cells, store, on_result=watch, keep_scores=False)
    assert (len(seen), summary.scores, summary.computed, summary.reused) == (4, [], 2, 0)
    assert run(cells, store, keep_scores=False).scores == []
    assert len(run(cells, store).scores) == 4


def test_only_what_is_missing_runs(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    run(cells_of(checkpoints[:1], "toy"), store)
    told: list[CellResult] = []
    summary = run(cells_of(checkpoints, "toy"), store, on_result=told.append)
    assert [result.cell.path for result in told] == [str(checkpoints[1])]
    assert (summary.computed, summary.reused) == (1, 1)
    assert [s.checkpoint for s in summary.scores] == [str(p) for p in checkpoints for _ in range(2)]  # in the plan's order
    run(cells_of(checkpoints, "toy", toy={"factor": 2.0}), store)
    assert toy.calls == 4


def test_scores_say_where_they_come_from(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    score = run(cells_of(checkpoints, "toy", toy={"factor": 3.0}), store).scores[0]
    assert score.checkpoint == str(checkpoints[0])
    assert score.settings["factor"] == 3.0
    assert score.settings["data"] == "digits"
    assert score.settings["data_fingerprint"] == loaded_data(SPEC).fingerprint
    assert score.seconds > 0
    report = store.checkpoints().iloc[0]["report"]
    assert report["training"]["settings"]["method"] == "simclr"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MeasureError("nothing to be said here"), "nothing to be said here"),
        (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "the device ran out of memory; lower"),
    ],
)
def test_a_measure_that_raises_fails_alone(
    checkpoints: list[Path], store: Store, toy: Toy, add_measure: Callable[..., None], error: Exception, message: str
) -> None:
    def broken(encoder: Encoder, data: Any, settings: ToySettings) -> list[Score]:
        raise error

    add_measure("broken", broken)
    summary = run(cells_of(checkpoints, "broken", "toy"), store)
    assert [f.cell.measure for f in summary.failures] == ["broken", "broken"]
    assert all(f.error is not None and f.error.startswith(message) and "\n" not in f.error for f in summary.failures)
    assert (toy.calls, summary.computed) == (2, 2)
    assert sorted(store.failures()["checkpoint"]) == [str(p) for p in checkpoints]
    assert set(store.frame()["measure"]) == {"toy"}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "TypeError"),
        ([Score("bad", "twice", 1.0), Score("bad", "twice", 2.0)], "two scores called 'twice'"),
        ([Score("bad", "s", 1.0, arrays={"grid": np.zeros(3)})], "'s' holds something that cannot be stored"),
        ([Score("bad", "s", 1.0, settings={"what": {1, 2}})], "'s' holds something that cannot be stored"),
        ([Score("bad", "s", np.float32(1.0))], "'s' holds something that cannot be stored"),
        ([Score("bad", "s", 1.0, settings={"grid": np.zeros(3)})], "'s' holds something that cannot be stored"),
    ],
)
def test_a_measure_that_returns_what_cannot_be_stored_fails_alone(
    checkpoints: list[Path], store: Store, toy: Toy, add_measure: Callable[..., None], returned: Any, message: str
) -> None:
    add_measure("bad", lambda encoder, data, settings: returned)
    summary = run(cells_of(checkpoints[:1], "bad", "toy"), store)
    assert [f.cell.measure for f in summary.failures] == ["bad"]
    assert message in str(summary.failures[0].error)
    assert toy.calls == 1


def test_a_failed_cell_is_tried_again(checkpoints: list[Path], store: Store, add_measure: Callable[..., None]) -> None:
    def moody(encoder: Encoder, data: Any, settings: ToySettings) -> list[Score]:
        if mood["bad"]:
            raise MeasureError("not today")
        return [Score("moody", "s", 1.0)]

    mood = {"bad": True}
    add_measure("moody", moody)
    cells = cells_of(checkpoints[:1], "moody")
    assert len(run(cells, store).failures) == 1
    mood["bad"] = False
    assert run(cells, store).computed == 1
    assert store.failures().empty


def test_a_file_replaced_after_planning_is_refused(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    cells = cells_of(checkpoints, "toy")
    checkpoints[0].write_bytes(checkpoints[1].read_bytes())
    summary = run(cells, store)
    assert [f.error for f in summary.failures] == [f"{checkpoints[0]} changed while it was being scored; score it again"]
    assert (toy.calls, summary.computed) == (1, 1)  # the other checkpoint


def test_a_file_that_cannot_be_loaded_fails_all_its_cells_and_no_other(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    checkpoints[0].write_bytes(checkpoints[0].read_bytes()[:2000])
    summary = run(cells_of(checkpoints, "toy", "representation"), store)
    assert [(f.cell.path, f.cell.measure) for f in summary.failures] == [
        (str(checkpoints[0]), "toy"),
        (str(checkpoints[0]), "representation"),
    ]
    assert {s.checkpoint for s in summary.scores} == {str(checkpoints[1])}


def test_every_cell_is_stored_before_it_is_told(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    seen: list[bool] = []

    def stop(result: CellResult) -> None:
        seen.append(store.has(result.cell))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cells_of(checkpoints, "toy"), store, on_result=stop)
    assert seen == [True]
    assert run(cells_of(checkpoints, "toy"), store).computed == 1  # the interrupted run's cell was kept


def test_copies_of_a_file_are_measured_once_and_reported_for_both(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    copy = checkpoints[0].parent / "best.pt"
    copy.symlink_to(checkpoints[0])
    summary = run(cells_of([checkpoints[0], copy], "toy"), store)
    assert toy.calls == 1
    assert [s.checkpoint for s in summary.scores if s.name == "sum"] == [str(checkpoints[0]), str(copy)]
    again = run(cells_of([checkpoints[0], copy], "toy"), store)
    assert [s.checkpoint for s in again.scores if s.name == "sum"] == [str(checkpoints[0]), str(copy)]


def test_without_a_store_everything_runs(checkpoints: list[Path], toy: Toy) -> None:
    cells = cells_of(checkpoints, "toy")
    assert plain(run(cells).scores) == plain(run(cells).scores)
    assert toy.calls == 4


def test_the_environment_is_kept_with_the_scores(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    run(cells_of(checkpoints, "toy"), store)
    (content,) = store.environments().values()
    assert content["packages"]["torch"] == environment()["packages"]["torch"]


def test_a_job_that_ends_without_word_fails_the_cells_it_left(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    """An executor may lose a job between two results (a worker killed for memory)."""

    class Loses(InProcessExecutor):
        def run(self, jobs):  # type: ignore[no-untyped-def]
            for event in super().run(jobs):
                if event.kind == "done":
                    continue
                yield event
                yield type(event)(event.key, "failed", "the worker process ended")
                return

    summary = run(cells_of(checkpoints[:1], "toy", "representation"), store, executor=Loses())
    assert [s.measure for s in summary.scores] == ["toy", "toy"]
    assert [(f.cell.measure, f.error) for f in summary.failures] == [("representation", "the worker process ended")]


def test_a_worker_gives_the_numbers_of_this_process(checkpoints: list[Path], store: Store) -> None:
    cells = cells_of(checkpoints, "representation", "downstream")
    alone = run(cells).scores
    executor = ProcessExecutor(1)  # one, because starting them is what takes the time
    executor.threads = torch.get_num_threads()
    together = run(cells, store, executor=executor)
    assert together.failures == []
    assert plain(together.scores) == plain(alone)


def test_data_that_cannot_be_loaded_in_a_worker_fails_the_cells(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    cells = cells_of(checkpoints, "toy")
    summary = run_cells(cells, DataSpec("nothere.npz"), executor=InProcessExecutor(), store=store)
    assert [str(f.error) for f in summary.failures] == ["nothere.npz: no such file"] * 2


class Keeps:
    """A measure that leaves something in its scratch folder, and fails the first time."""

    def __init__(self) -> None:
        self.seen: list[tuple[RunContext, list[str]]] = []

    def __call__(self, encoder: Encoder, data: Any, settings: ToySettings) -> list[Score]:
        context = run_context()
        folder = context.scratch
        self.seen.append((context, sorted(p.name for p in folder.iterdir()) if folder and folder.exists() else []))
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"try{len(self.seen)}").touch()
        if len(self.seen) == 1:
            raise MeasureError("half-way")
        return [Score("keeps", "s", 1.0)]


def test_a_failed_cell_finds_its_scratch_folder_again_and_a_stored_one_leaves_none(
    checkpoints: list[Path], store: Store, add_measure: Callable[..., None]
) -> None:
    keeps = Keeps()
    add_measure("keeps", keeps)
    cells = cells_of(checkpoints[:1], "keeps")
    assert len(run(cells, store).failures) == 1
    folder = scratch_of(store) / cells[0].key
    assert folder.parent == store.path.parent / "scores.db.partial"
    assert [p.name for p in folder.iterdir()] == ["try1"]
    assert run(cells, store).failures == []
    assert [files for _, files in keeps.seen] == [[], ["try1"]]
    assert {context for context, _ in keeps.seen} == {RunContext(folder, str(checkpoints[0]))}
    assert not folder.parent.exists()
    assert run_context() == RunContext()


def test_scratch_folders_of_other_cells_stay(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    cells = cells_of(checkpoints, "toy")
    for cell in (cells[0], cells_of(checkpoints, "representation")[0]):
        (scratch_of(store) / cell.key).mkdir(parents=True)
    run(cells, store)
    assert [p.name for p in scratch_of(store).iterdir()] == [cells_of(checkpoints, "representation")[0].key]


def test_without_a_store_there_is_no_scratch_folder(checkpoints: list[Path], add_measure: Callable[..., None]) -> None:
    keeps = Keeps()
    add_measure("keeps", keeps)
    run(cells_of(checkpoints[:1], "keeps"))
    assert keeps.seen[0][0].scratch is None


def test_no_cell_begins_after_the_deadline(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    cells = cells_of(checkpoints, "toy")
    late = run(cells, store, deadline=Deadline.within(-1))
    assert (late.computed, late.skipped, late.scores, late.failures, toy.calls) == (0, 2, [], [], 0)
    again = run(cells, store, deadline=Deadline.within(1e6))
    assert (again.computed, again.skipped, toy.calls) == (2, 0, 2)


def test_a_file_replaced_while_it_is_measured_fails_what_is_measured_after(
    checkpoints: list[Path], store: Store, toy: Toy, add_measure: Callable[..., None]
) -> None:
    """The weights in memory are still the old ones, but a measure may have read the file again."""

    def replaces(encoder: Encoder, data: Any, settings: ToySettings) -> list[Score]:
        checkpoints[0].write_bytes(checkpoints[1].read_bytes())
        return [Score("replaces", "s", 1.0)]

    add_measure("replaces", replaces)
    before = checkpoints[0].read_bytes()
    summary = run(cells_of(checkpoints[:1], "toy", "replaces", "representation"), store)
    assert [(f.cell.measure, f.error) for f in summary.failures] == [
        (name, f"{checkpoints[0]} changed while it was being scored; score it again") for name in ("replaces", "representation")
    ]
    assert set(store.frame()["measure"]) == {"toy"}
    checkpoints[0].write_bytes(before)
    assert run(cells_of(checkpoints[:1], "toy"), store).reused == 1


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")],
)
@pytest.mark.parametrize("enough", [0.25, 0.1])
def test_a_measure_that_runs_out_of_memory_gets_smaller_batches_once(
    checkpoints: list[Path], add_measure: Callable[..., None], error: Exception, enough: float
) -> None:
    sizes: list[int] = []

    def hungry(encoder: Encoder, data: Any, settings: ToySettings) -> list[Score]:
        def look(images: Tensor) -> Tensor:
            sizes.append(len(images))
            if len(images) > 512 * enough:
                raise error
            return images.flatten(1).float()

        total = in_batches(look, torch.ones(1000, 1, 2, 2), torch.device("cpu")).sum()
        return [Score("hungry", "s", float(total))]

    add_measure("hungry", hungry)
    told: list[CellResult] = []
    summary = run(cells_of(checkpoints[:1], "hungry"), on_result=told.append)
    if enough == 0.25:
        assert [score.value for score in summary.scores] == [4000.0]
        assert told[0].remark == "in batches of 0.25 of their size, since memory was short"
        assert sizes == [512, *[128] * 7, 104]
    else:
        assert [f.error for f in summary.failures] == [
            "the machine ran out of memory; lower the measure's memory, pairs or batch"
        ]
        assert sizes == [512, 128]


def test_a_run_leaves_no_marks_and_one_that_was_killed_leaves_one(
    checkpoints: list[Path], store: Store, toy: Toy, add_measure: Callable[..., None]
) -> None:
    """The mark of an earlier run sends its checkpoint to a process of its own, last, where this measure is not known."""
    cells = cells_of(checkpoints, "toy")
    mark = scratch_of(store) / f"{cells[0].sha256}.begun"
    mark.parent.mkdir()
    mark.touch()
    told: list[str] = []
    summary = run(cells, store, tell=told.append)
    assert told == [f"the last run was killed in the middle of {checkpoints[0]}, which now has a process of its own"]
    assert toy.calls == 1  # here, of the other checkpoint
    assert [(f.cell.path, str(f.error)[:15]) for f in summary.failures] == [(str(checkpoints[0]), "unknown measure")]
    assert not scratch_of(store).exists()

    def stops(encoder: Encoder, data: Any, settings: ToySettings) -> list[Score]:
        assert (scratch_of(store) / f"{cells[1].sha256}.begun").exists()
        raise KeyboardInterrupt

    add_measure("stops", stops)
    with pytest.raises(KeyboardInterrupt):
        run(cells_of(checkpoints[1:], "stops"), store)
    assert not scratch_of(store).exists()


def test_a_stop_leaves_the_other_cells_undone(checkpoints: list[Path], store: Store, toy: Toy) -> None:
    with gentle_interrupts(lambda: None):
        summary = run(cells_of(checkpoints, "toy", "representation"), store, on_result=lambda result: request_stop())
    assert (summary.computed, summary.skipped, summary.failures) == (1, 3, [])
    assert run(cells_of(checkpoints, "toy", "representation"), store).computed == 3


def test_cells_of_another_run_are_waited_for_and_taken_from_the_store(
    checkpoints: list[Path], store: Store, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of(checkpoints, "toy")
    other = {cells[0].key: 3}  # looks that it takes the other run to end
    taken: list[str] = []

    class Theirs(Claims):
        def take(self, key: str) -> bool:
            if other.get(key, 0):
                other[key] -= 1
                if not other[key]:
                    with Store(store.path) as theirs:
                        theirs.write(CellResult(cells[0], [Score("toy", "sum", 77.0)]))
                return False
            taken.append(key)
            return True

    monkeypatch.setattr(scoring, "Claims", Theirs)
    monkeypatch.setattr(scoring, "POLL", 0.01)
    told: list[str] = []
    summary = run(cells, store, tell=told.append)
    assert told == ["another run on this store has 1 of the cells in hand; waiting for them"]
    assert (summary.computed, summary.reused, toy.calls) == (1, 1, 1)
    assert summary.scores[0].value == 77.0
    assert taken == [cells[1].key, cells[0].key]
