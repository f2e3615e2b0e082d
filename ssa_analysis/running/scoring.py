"""Score checkpoints: plan, run what the store lacks, write every cell as it comes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ssa_analysis.errors import MeasureError
from ssa_analysis.numerics.ranks import Ranks
from ssa_analysis.running.executors import Executor, Job
from ssa_analysis.running.plan import Cell, CellResult, DataSpec, run_checkpoint
from ssa_analysis.running.store import Store
from ssa_analysis.scores import Score

ATTEMPTS = 2  # a cell whose worker was killed is tried once more, then it has failed and the others go on


@dataclass(frozen=True)
class ScoringSummary:
    """All scores of the plan (fresh and stored), in its order, what failed, and how many cells were left for lack of time."""

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
    path = store.path.resolve()
    return path.with_name(f"{path.name}.partial")


def _clear_scratch(scratch: Path, cell: Cell) -> None:
    """Remove what a stored cell has left, and the folder of all once it is empty."""
    shutil.rmtree(scratch / cell.key, ignore_errors=True)
    with suppress(OSError):  # not there, or other cells are still at work
        scratch.rmdir()


def run_cells(
    cells: Sequence[Cell],
    spec: DataSpec,
    *,
    executor: Executor,
    store: Store | None = None,
    device: str = "cpu",
    on_result: Callable[[CellResult], None] = lambda result: None,
    deadline: float | None = None,
) -> ScoringSummary:
    """Run the cells that the store does not have; each result is stored before ``on_result`` is told.

    Two paths to files with the same content (a copy, a link ``best.pt``) are measured once. A measure that was killed
    half-way finds what it had kept in a folder beside the store (:func:`scratch_of`), which goes once the cell is stored.
    No cell begins after ``deadline``, seconds since the epoch.
    """
    missing = cells_to_run(cells, store)
    known = {cell.key for cell in cells} - {cell.key for cell in missing}
    todo: dict[str, list[Cell]] = {}
    for cell in missing:
        todo.setdefault(cell.path, []).append(cell)
    scratch = scratch_of(store) if store is not None else None
    shared = {"spec": spec, "device": device, "scratch": scratch, **({"deadline": deadline} if deadline is not None else {})}
    jobs = [Job(path, run_checkpoint, {"cells": group, **shared}, "cells", ATTEMPTS) for path, group in todo.items()]
    fresh: dict[str, CellResult] = {}

    def finish(result: CellResult) -> None:
        if result.unexpected and Ranks.current().size > 1:  # the other ranks may wait for this one for ever
            raise MeasureError(f"a process of the job failed, which ends the job: {result.error}")
        fresh[result.cell.key] = result
        if store is not None:
            store.write(result)
            if scratch is not None and not result.error:
                _clear_scratch(scratch, result.cell)
        on_result(result)

    for event in executor.run(jobs):
        if event.kind == "value":
            finish(event.value)
        elif event.kind in ("failed", "lost"):
            without = [cell for cell in todo[event.key] if cell.key not in fresh]
            for cell in without if event.kind == "failed" else without[:1]:
                finish(CellResult(cell, error=event.value, unexpected=True))
    scores: list[Score] = []
    for cell in cells:
        if cell.key in known and store is not None:
            scores += store.scores_of(cell)
        elif cell.key in fresh:
            scores += [replace(score, checkpoint=cell.path) for score in fresh[cell.key].scores]
    failures = [result for result in fresh.values() if result.error]
    skipped = len(missing) - len(fresh)
    return ScoringSummary(scores, failures, computed=len(fresh) - len(failures), reused=len(known), skipped=skipped)
