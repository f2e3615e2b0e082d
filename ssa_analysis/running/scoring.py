"""Score checkpoints: plan, run what the store lacks, write every cell as it comes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics.ranks import Ranks
from ssa_analysis.running.claims import Claims
from ssa_analysis.running.executors import Event, Executor, InProcessExecutor, Job, ProcessExecutor
from ssa_analysis.running.plan import Cell, CellResult, DataSpec, run_checkpoint
from ssa_analysis.running.store import Store
from ssa_analysis.scores import Score
from ssa_analysis.stopping import Deadline, stop_requested

ATTEMPTS = 2  # a cell whose worker was killed is tried once more, with less memory, then it has failed and the others go on
POLL = 0.5  # seconds between two looks at cells that another run computes


@dataclass(frozen=True)
class ScoringSummary:
    """All scores of the plan (fresh and stored), in its order, what failed, and how many cells were left for lack of time.

    ``scores`` is empty where they were not to be kept (``run_cells(..., keep_scores=False)``).
    """

    scores: list[Score]
    failures: list[CellResult]
    computed: int
    reused: int
    skipped: int = 0


def cells_to_run(cells: Sequence[Cell], store: Store | None) -> list[Cell]:
    """The cells that the store does not have, each key once."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.key, cell)
    return [cell for cell in first.values() if store is None or not store.has(cell)]


def scratch_of(store: Store) -> Path:
    """Folder beside a store where cells keep half-finished work, one folder for each key."""
    return _beside(store, "partial")


def _beside(store: Store, ending: str) -> Path:
    path = store.path.resolve()
    return path.with_name(f"{path.name}.{ending}")


def run_cells(
    cells: Sequence[Cell],
    spec: DataSpec,
    *,
    executor: Executor,
    store: Store | None = None,
    device: str = "cpu",
    on_result: Callable[[CellResult], None] = lambda result: None,
    deadline: Deadline | None = None,
    timeout: float | None = None,
    tell: Callable[[str], None] = lambda text: None,
    keep_scores: bool = True,
) -> ScoringSummary:
    """Run the cells that the store does not have; each result is stored before ``on_result`` is told.

    Two paths to files with the same content (a copy, a link ``best.pt``) are measured once. A measure that was killed
    half-way finds what it had kept in a folder beside the store (:func:`scratch_of`), which goes once the cell is stored.

    Other runs may work on the same store at the same time: what one of them has in hand is left to it and taken from the
    store when it is there. A checkpoint in which this process was killed before, for want of memory perhaps, comes last and
    in a process of its own.

    Args:
        deadline: no cell begins after it. timeout: seconds that a cell may take where its worker can be ended (``Job``).
        tell: is told what people should know, such as that another run is being waited for.
        keep_scores: False leaves them to the store and to ``on_result``, so that memory does not grow with the cells (those of
            one, with their arrays and settings, take some tens of kB).
    """
    missing = cells_to_run(cells, store)
    known = {cell.key for cell in cells} - {cell.key for cell in missing}
    alone = Ranks.current().size == 1  # else all ranks must go the same way
    by_itself = alone and isinstance(executor, InProcessExecutor)
    work = _Work(spec, store, device, on_result, deadline, timeout, by_itself, keep_scores)
    groups: dict[str, list[Cell]] = {}
    for cell in missing:
        groups.setdefault(cell.path, []).append(cell)
    with Claims(_beside(store, "lock")) if store is not None and alone else nullcontext() as claims:
        work.claims = claims
        told = False
        try:
            while groups:
                held, doubtful = dict[str, list[Cell]](), dict[str, list[Cell]]()
                before = len(work.fresh) + len(work.found)
                work.go_through(executor.run(work.jobs(groups, held, doubtful)))
                if doubtful and not stop_requested():
                    names = ", ".join(doubtful)
                    tell(f"the last run was killed in the middle of {names}, which now has a process of its own")
                    work.go_through(ProcessExecutor(1).run(work.isolated(doubtful)))
                groups = held
                if not groups or stop_requested() or (deadline is not None and deadline.left < 0):
                    break
                if len(work.fresh) + len(work.found) == before:
                    if not told:
                        count = sum(map(len, groups.values()))
                        tell(f"another run on this store has {count} of the cells in hand; waiting for them")
                        told = True
                    time.sleep(POLL)
        finally:
            work.tidy()
    scores: list[Score] = []
    for cell in cells if keep_scores else ():
        if cell.key in work.fresh:
            scores += [replace(score, checkpoint=cell.path) for score in work.fresh[cell.key].scores]
        elif store is not None and (cell.key in known or cell.key in work.found):
            scores += store.scores_of(cell)
    failures = [result for result in work.fresh.values() if result.error]
    return ScoringSummary(
        scores,
        failures,
        computed=len(work.fresh) - len(failures),
        reused=len(known) + len(work.found),
        skipped=len(missing) - len(work.fresh) - len(work.found),
    )


@dataclass
class _Work:
    """What one call of :func:`run_cells` has in hand.

    Attributes:
        alone: whether the cells run in this very process. keep_scores: whether ``fresh`` has scores.
        fresh: results by the key of their cell. found: keys of cells that another run has stored meanwhile.
        given: cells by the key of their job, those that an executor has.
    """

    spec: DataSpec
    store: Store | None
    device: str
    on_result: Callable[[CellResult], None]
    deadline: Deadline | None
    timeout: float | None
    alone: bool
    keep_scores: bool
    claims: Claims | None = None
    fresh: dict[str, CellResult] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)
    given: dict[str, list[Cell]] = field(default_factory=dict)

    @property
    def scratch(self) -> Path | None:
        return scratch_of(self.store) if self.store is not None else None

    def jobs(
        self, groups: Mapping[str, list[Cell]], held: dict[str, list[Cell]], doubtful: dict[str, list[Cell]]
    ) -> Iterator[Job]:
        """A job for each checkpoint, made when an executor has room for it; what it cannot have goes into the other two:
        cells that another run has in hand, and checkpoints in which this process may end."""
        for path, group in groups.items():
            mine = [cell for cell in group if self.claims is None or self.claims.take(cell.key)]
            if len(mine) < len(group):
                held[path] = [cell for cell in group if cell not in mine]
            if self.claims is not None and self.store is not None:
                there = [cell for cell in mine if self.store.has(cell)]
                for cell in there:
                    self.claims.release(cell.key)
                    self.found.add(cell.key)
                mine = [cell for cell in mine if cell not in there]
            if not mine:
                continue
            mark = self._mark(mine[0])
            if mark is not None and mark.exists():
                doubtful[path] = mine
                continue
            if mark is not None:
                with suppress(OSError):  # the store itself says it better if nothing can be written
                    mark.parent.mkdir(exist_ok=True)
                    mark.touch()
            yield self._job(path, mine)

    def isolated(self, groups: Mapping[str, list[Cell]]) -> Iterator[Job]:
        """Jobs of cells that are claimed already."""
        for path, group in groups.items():
            yield self._job(path, group)

    def _job(self, path: str, cells: list[Cell]) -> Job:
        self.given[path] = cells
        arguments = {"cells": cells, "spec": self.spec, "device": self.device, "scratch": self.scratch}
        arguments |= {"deadline": self.deadline} if self.deadline is not None else {}
        return Job(path, run_checkpoint, arguments, "cells", ATTEMPTS, "starved", self.timeout)

    def _mark(self, cell: Cell) -> Path | None:
        """A file that stands for a checkpoint that is measured in this process; it stays if the process is killed."""
        return self.scratch / f"{cell.sha256}.begun" if self.alone and self.scratch is not None else None

    def go_through(self, events: Iterator[Event]) -> None:
        """Keep the results of an executor."""
        for event in events:
            if event.kind == "value":
                self._finish(event.value)
                continue
            if event.kind in ("failed", "lost"):
                without = [cell for cell in self.given[event.key] if cell.key not in self.fresh]
                for cell in without if event.kind == "failed" else without[:1]:
                    self._finish(CellResult(cell, error=event.value, unexpected=True))
            if event.kind in ("failed", "stopped", "done"):
                self._leave(event.key)

    def _finish(self, result: CellResult) -> None:
        if result.unexpected and Ranks.current().size > 1:  # the other ranks may wait for this one for ever
            raise MeasureError(f"a process of the job failed, which ends the job: {result.error}")
        self.fresh[result.cell.key] = result if self.keep_scores else replace(result, scores=[], report=None)
        if self.store is not None:
            self.store.write(result)
            if self.scratch is not None and not result.error:
                shutil.rmtree(self.scratch / result.cell.key, ignore_errors=True)
        if self.claims is not None:
            self.claims.release(result.cell.key)
        self.on_result(result)

    def _leave(self, path: str) -> None:
        """A checkpoint has ended: nothing of it is in hand, and a mark of it is no longer true."""
        for cell in self.given.pop(path):
            if self.claims is not None:
                self.claims.release(cell.key)
            mark = self._mark(cell)
            if mark is not None:
                mark.unlink(missing_ok=True)

    def tidy(self) -> None:
        """At the end, whatever it is: no marks, and no empty folder."""
        for path in list(self.given):
            with suppress(OSError):
                self._leave(path)
        if self.scratch is not None:
            with suppress(OSError):  # not there, or cells have left something for the next time
                self.scratch.rmdir()
