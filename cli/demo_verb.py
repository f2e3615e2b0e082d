"""``ssa-analyze demo``: the main job from end to end on the bundled digits."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click
from ssa_analysis.cli.common import EXIT_FAILED, Progress, duration, say
from ssa_analysis.reports.findings import findings
from ssa_analysis.reports.html import write_report

from ssa_analysis.checkpoints.writing import make_folder
from ssa_analysis.errors import SSAError
from ssa_analysis.running.executors import ExecutorSettings, Job, make_executor
from ssa_analysis.running.plan import CellResult, DataSpec, default_measures, loaded_data, make_cells
from ssa_analysis.running.scoring import run_cells
from ssa_analysis.running.store import Store
from ssa_analysis.running.study_run import train_run
from ssa_analysis.training.settings import METHODS, TrainSettings

DATA = DataSpec("digits")
EPOCHS = 60
# smaller than the defaults, so that all of it fits in minutes on two cores
OVERRIDES = {
    "curvature": {"pairs": 128, "batch": 128},
    "flatness": {"pairs": 128, "batch": 128},
    "landscape": {"pairs": 128, "batch": 128},
}


def demo_settings(method: str, seed: int, epochs: int) -> TrainSettings:
    """The recipe of the demo's encoders: a small convnet, NT-Xent at tau 0.5."""
    return TrainSettings(
        method=method, arch="convnet", projector=(64, 32), epochs=epochs, batch=128, lr=0.1, warmup=2, rho=0.1,
        knn_every=0, seed=seed,
    )  # fmt: skip


@click.command()
@click.option("--out", default="demo", show_default=True, type=click.Path(), help="Folder for runs/, scores.db and report/.")
@click.option("--workers", default=0, type=click.IntRange(min=0), help="Processes; default: one a core, at most 4.")
@click.option("--epochs", default=EPOCHS, show_default=True, type=click.IntRange(min=1), help="Training epochs of each encoder.")
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(min=1), help="Encoders of each method.")
def command(out: str, workers: int, epochs: int, seeds: int) -> None:
    """Train, score, link, check the bounds and report, on data that needs no download. Run it again to continue.

    \b
    Example:
      ssa-analyze demo --out demo
    """
    started = time.monotonic()
    folder = make_folder(Path(out))
    executor = make_executor("local", ExecutorSettings(workers or min(4, os.cpu_count() or 1)))
    jobs = []
    for method in METHODS:
        for seed in range(seeds):
            target = folder / "runs" / f"{method}-s{seed}"
            settings = demo_settings(method, seed, epochs).to_dict()
            jobs.append(Job(target.name, train_run, {"settings": settings, "spec": DATA, "out": str(target), "device": "cpu"}))
    say(f"1/3 training {len(jobs)} encoders on digits ({', '.join(METHODS)}; {seeds} seed{'s' if seeds > 1 else ''})")
    progress, paths = Progress(len(jobs)), []
    for event in executor.run(jobs):
        if event.kind == "value":
            paths.append(Path(event.value))
        elif event.kind == "failed":
            raise SSAError(f"training {event.key} failed: {event.value}")
        else:
            progress.step(event.key)
    paths.sort(key=lambda path: [job.key for job in jobs].index(path.parent.name))
    failed = _score(paths, folder / "scores.db", executor)
    say("3/3 writing the report")
    with Store(folder / "scores.db", must_exist=True) as store:
        page = write_report(store, folder / "report")
        sentences = findings(store.frame())
    say("")
    for number, sentence in enumerate(sentences, 1):
        click.echo(f"{number}. {sentence}")
    click.echo(f"Report: {page}  ({duration(time.monotonic() - started)})")
    if failed:
        raise click.exceptions.Exit(EXIT_FAILED)


def _score(paths: list[Path], store_path: Path, executor: Any) -> bool:
    """Score all measures and the bounds; whether any cell failed."""
    cells = make_cells(paths, loaded_data(DATA), [*default_measures(), "bounds"], 0, {}, OVERRIDES)
    with Store(store_path) as store:
        todo = [cell for cell in cells if not store.has(cell)]
        say(f"2/3 scoring {len(paths)} checkpoints: {len(todo)} of {len(cells)} cells to compute")
        progress = Progress(len(todo))

        def tell(result: CellResult) -> None:
            state = f"failed: {result.error}" if result.error else duration(result.seconds)
            progress.step(f"{Path(result.cell.path).parent.name} {result.cell.measure}  {state}")

        return bool(run_cells(cells, DATA, executor=executor, store=store, on_result=tell).failures)
