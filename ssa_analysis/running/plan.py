"""What to measure: one cell for each checkpoint and measure, keyed by everything that decides its numbers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ssa_analysis import theory as _theory  # noqa: F401  (registers the bounds as a measure)
from ssa_analysis.checkpoints.folders import content_hash
from ssa_analysis.checkpoints.loading import LoadedCheckpoint, LoadReport, load_checkpoint
from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.errors import MeasureError, SettingsError, SSAError
from ssa_analysis.measures import MEASURES
from ssa_analysis.measures.base import MeasureSettings, RunContext, running_in
from ssa_analysis.numerics.ranks import Ranks
from ssa_analysis.numerics.thrift import with_memory_share
from ssa_analysis.running.measuring import run_measure
from ssa_analysis.running.ranks import first_problem
from ssa_analysis.scores import Score
from ssa_analysis.stopping import Deadline, stop_requested
from ssa_analysis.version import __version__


@dataclass(frozen=True)
class DataSpec:
    """Arguments of ``load_data``; hashable, and small enough to send to a worker."""

    name: str
    root: str | None = None
    subset: int | None = None
    image_size: int | None = None
    download: bool = True


@functools.lru_cache(maxsize=2)
def loaded_data(spec: DataSpec) -> Data:
    """The data of a spec, kept in memory by each process."""
    return load_data(spec.name, spec.root, subset=spec.subset, image_size=spec.image_size, download=spec.download)


@dataclass(frozen=True)
class Cell:
    """One measure of one checkpoint on one data set with one seed.

    ``options`` is what the user says of how the file is to be read.
    """

    path: str
    sha256: str
    measure: str
    settings: Mapping[str, Any]
    data_name: str
    data_fingerprint: str
    code_version: str
    options: LoadOptions = LoadOptions()

    @property
    def seed(self) -> int:
        """The seed inside the settings."""
        return int(self.settings["seed"])

    @property
    def key(self) -> str:
        """SHA-256 over checkpoint hash, measure, settings (with the seed), data and code version."""
        parts: list[Any] = [self.sha256, self.measure, dict(self.settings), self.data_fingerprint, self.code_version]
        parts += self.options.identity
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class CellResult:
    """Scores of a cell, or why there are none. ``report`` says how the checkpoint was loaded.

    ``unexpected`` marks errors of the machine or of a plug-in, which need not happen on every rank of a job alike. ``remark``
    says what else people should know of how it went.
    """

    cell: Cell
    scores: list[Score] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0
    report: LoadReport | None = None
    unexpected: bool = False
    remark: str = ""


def default_measures() -> list[str]:
    """The measures that ``score`` runs when none are named."""
    return [name for name, row in MEASURES if row.by_default]


def make_cells(
    paths: Sequence[Path],
    data: Data,
    measures: Sequence[str],
    seed: int,
    shared: Mapping[str, Any],
    overrides: Mapping[str, Mapping[str, Any]],
    options: LoadOptions | None = None,
) -> list[Cell]:
    """Cells in the order of checkpoints, then measures.

    Args:
        shared: settings of several measures (``views``, ``tau``, ``loss``); each takes those it knows.
        overrides: settings by measure; they win over the shared ones.

    Raises:
        SettingsError: an unknown measure or setting. CheckpointError: a file that cannot be read.
    """
    settings = {name: values.to_dict() for name, values in measure_settings(measures, seed, shared, overrides).items()}
    versions = {name: f"{__version__}/{MEASURES.get(name).revision}" for name in settings}
    options = options or LoadOptions()
    return [
        Cell(str(path), sha256, name, settings[name], data.name, data.fingerprint, versions[name], options)
        for path, sha256 in ((path, content_hash(path)) for path in paths)
        for name in settings
    ]


def measure_settings(
    measures: Sequence[str], seed: int, shared: Mapping[str, Any], overrides: Mapping[str, Mapping[str, Any]]
) -> dict[str, MeasureSettings]:
    """Settings of each measure, in the order of their names; SettingsError as of :func:`make_cells`."""
    for name in overrides:
        MEASURES.get(name)
    rows = [MEASURES.get(name) for name in dict.fromkeys(measures)]
    if not rows:
        raise SettingsError("no measures were named")
    settings = {}
    for row in rows:
        known = {f.name for f in fields(row.settings)}
        common = {name: value for name, value in shared.items() if name in known}
        settings[row.name] = row.make_settings({**common, "seed": seed, **overrides.get(row.name, {})})
        if not abs(settings[row.name].seed) < 1 << 63:  # a store could not keep it
            raise SettingsError("a seed has at most 63 bits")
    return settings


def run_checkpoint(
    cells: list[Cell],
    spec: DataSpec,
    device: str,
    scratch: Path | None = None,
    deadline: Deadline | None = None,
    starved: int = 0,
) -> Iterator[CellResult]:
    """Measure all ``cells`` of one checkpoint, one result after the other.

    An error of a cell is its result; the others go on. What loading the checkpoint cannot do fails all of them, and so does a
    file that is another one when a measure has ended: what it gave may be of either.
    ``scratch`` is a folder for half-finished work; a cell uses the folder of its key in it. No cell begins after
    ``deadline`` or once a stop was asked for; what is left then has no result. ``starved`` says how often a worker was ended
    in the first cell, it seems for want of memory: that cell takes a quarter of the memory for each time.
    """
    problem = None
    try:
        data = loaded_data(spec)
        loaded = load_checkpoint(cells[0].path, cells[0].options)
        _check_unchanged(cells[0], loaded.report.sha256)  # it was read after it was hashed
        _check_unchanged(cells[0])
        loaded.encoder.to(device)
    except SSAError as error:
        problem = str(error)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    problem = first_problem(problem)  # a rank must not go on to measures in which it would wait for one that failed
    if problem is not None:
        for cell in cells:
            yield CellResult(cell, error=problem)
        return
    for number, cell in enumerate(cells):
        if stop_requested() or (deadline is not None and deadline.left < 0):
            return
        yield _run_cell(cell, loaded, data, scratch, 0 if number else starved)


def _check_unchanged(cell: Cell, sha256: str | None = None) -> None:
    """MeasureError unless the file still has the content that the cell is about."""
    if (sha256 or content_hash(Path(cell.path))) != cell.sha256:
        raise MeasureError(f"{cell.path} changed while it was being scored; score it again")


LEAN = 0.25  # share of the memory that a cell is left after each time that it was too much


def _run_cell(cell: Cell, loaded: LoadedCheckpoint, data: Data, scratch: Path | None, starved: int) -> CellResult:
    row = MEASURES.get(cell.measure)
    context = RunContext(scratch / cell.key if scratch is not None else None, cell.path, cell.options)
    with running_in(context), with_memory_share(LEAN**starved):
        found = run_measure(row, cell.settings, loaded.encoder, data)
    if found.out_of_memory and not starved and Ranks.current().size == 1:  # the ranks of a job would have to agree
        return _run_cell(cell, loaded, data, scratch, starved=1)
    if not found.unexpected:
        try:
            _check_unchanged(cell)
        except SSAError as error:
            found = replace(found, scores=[], error=error)
    remark = f"in batches of {LEAN**starved:.2g} of their size, since memory was short" if starved else ""
    if found.error is not None:
        return CellResult(cell, error=found.reason, seconds=found.seconds, report=loaded.report, unexpected=found.unexpected)
    shared = {**cell.settings, "data": data.name, "data_fingerprint": data.fingerprint, "code_version": cell.code_version}
    shared |= cell.options.said
    stamped = [score.with_context(cell.path, shared, found.seconds) for score in found.scores]
    return CellResult(cell, stamped, seconds=found.seconds, report=loaded.report, remark=remark)
