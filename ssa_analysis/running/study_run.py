"""Run a study: train what is missing, score what is missing, keep all of it as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.checkpoints.writing import make_folder
from ssa_analysis.errors import CheckpointError
from ssa_analysis.running.executors import Executor, Job
from ssa_analysis.running.plan import Cell, CellResult, DataSpec, loaded_data, make_cells
from ssa_analysis.running.recording import Recorder
from ssa_analysis.running.scoring import cells_to_run, run_cells
from ssa_analysis.running.store import Store
from ssa_analysis.running.study import Run, Study
from ssa_analysis.stopping import stop_requested
from ssa_analysis.training.loop import train
from ssa_analysis.training.settings import TrainSettings, settings_from_dict

ATTEMPTS = 3  # a run whose worker was killed goes on from its last epoch
SAVES = 20  # times that a run is saved, about


def train_run(
    settings: Mapping[str, Any], spec: DataSpec, out: str, device: str, record: tuple[str, ...] = (), record_every: int = 0
) -> Iterator[str]:
    """A job: train, from where it stopped, unless the finished checkpoint is there; yields its path."""
    wanted = settings_from_dict(settings)
    path = Path(out) / "last.pt"
    if not is_trained(path, wanted):
        data = loaded_data(spec)
        recorder = Recorder(Path(out), record, record_every, data, wanted.seed) if record else None
        save_every = max(1, wanted.epochs // SAVES)
        train(wanted, data, out, device=device, resume=True, save_every=save_every, recorder=recorder)
    yield str(path)


def is_trained(path: Path, wanted: TrainSettings) -> bool:
    """Whether a file is the checkpoint of such a run, trained to its end."""
    try:
        training = load_checkpoint(path).report.training
    except CheckpointError:
        return False
    settings = {**TrainSettings().to_dict(), **training.get("settings", {})}
    return settings == wanted.to_dict() and training.get("epoch") == wanted.epochs


@dataclass(frozen=True)
class StudyFolder:
    """Where a study keeps what it makes."""

    path: Path

    @property
    def store(self) -> Path:
        """The score store."""
        return self.path / "scores.db"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.path / "report"

    def run(self, run: Run) -> Path:
        """The folder of a training run."""
        return self.path / "runs" / run.name

    def checkpoint(self, run: Run) -> Path:
        """The checkpoint of a training run."""
        return self.run(run) / "last.pt"


def train_missing(
    study: Study,
    folder: StudyFolder,
    runs: Sequence[Run],
    executor: Executor,
    device: str = "cpu",
    on_end: Callable[[str, str | None], None] = lambda name, problem: None,
) -> dict[str, str]:
    """Train ``runs``, those of :func:`missing_runs`; returns what went wrong, by run. ``on_end`` is told each end.

    A run that was stopped goes on from its last saved epoch and gives the weights of an unbroken one.
    """
    make_folder(folder.path)
    jobs = [
        Job(
            run.name,
            train_run,
            {
                "settings": run.settings.to_dict(), "spec": study.data, "out": str(folder.run(run)), "device": device,
                "record": study.record, "record_every": study.record_every,
            },
            attempts=ATTEMPTS,
        )
        for run in runs
    ]  # fmt: skip
    problems: dict[str, str] = {}
    for event in executor.run(jobs):
        if event.kind == "failed":
            problems[event.key] = str(event.value)
        if event.kind in ("done", "failed"):
            on_end(event.key, problems.get(event.key))
    return problems


def missing_runs(study: Study, folder: StudyFolder) -> list[Run]:
    """The runs that are not trained to their end."""
    return [run for run in study.runs if not is_trained(folder.checkpoint(run), run.settings)]


def study_cells(study: Study, folder: StudyFolder) -> list[tuple[DataSpec, list[Cell]]]:
    """What is to be scored of the checkpoints that are there: all measures on the study's data, the probes on the others."""
    paths = [folder.checkpoint(run) for run in study.runs if folder.checkpoint(run).is_file()]
    plans = [(study.data, list(study.measures)), *((spec, ["downstream"]) for spec in study.transfer)]
    found = []
    for spec, measures in plans:
        overrides = {name: values for name, values in study.overrides.items() if name in measures}
        found.append((spec, make_cells(paths, loaded_data(spec), measures, study.seed, {}, overrides)))
    return found


def score_missing(
    plans: Sequence[tuple[DataSpec, list[Cell]]],
    store: Store,
    executor: Executor,
    device: str = "cpu",
    on_result: Callable[[CellResult], None] = lambda result: None,
    timeout: float | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[CellResult]:
    """Score what the store lacks, as :func:`run_cells` does; returns what failed."""
    failures: list[CellResult] = []
    for spec, cells in plans:
        done = run_cells(
            cells, spec, executor=executor, store=store, device=device, on_result=on_result, timeout=timeout, tell=tell,
            keep_scores=False,
        )  # fmt: skip
        failures += done.failures
        if stop_requested():
            break
    return failures


def count_missing(plans: Sequence[tuple[DataSpec, list[Cell]]], store: Store | None) -> int:
    """How many cells the store lacks."""
    return sum(len(cells_to_run(cells, store)) for _, cells in plans)
