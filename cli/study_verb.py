"""``ssa-analyze study``."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import click
from ssa_analysis.cli.common import (
    EXIT_FAILED,
    Progress,
    chosen_executor,
    device_option,
    duration,
    executor_options,
    resolve_device,
    say,
    warn,
)

from ssa_analysis.running.estimate import Estimate, estimate
from ssa_analysis.running.executors import Executor
from ssa_analysis.running.plan import CellResult, loaded_data
from ssa_analysis.running.store import Store
from ssa_analysis.running.study import Run, Study, read_study
from ssa_analysis.running.study_run import StudyFolder, count_missing, missing_runs, score_missing, study_cells, train_missing


@click.command()
@click.argument("file", metavar="FILE.toml", type=click.Path())
@click.option("--out", type=click.Path(), help="Folder for runs/, scores.db and report/; default: runs/NAME.")
@click.option(
    "--data-root", type=click.Path(), help="Where torchvision's files lie; for data sets of which the file names no root."
)
@click.option("--no-download", is_flag=True, help="Never try to download a data set.")
@click.option("--dry-run", is_flag=True, help="Show the plan with an estimate of time and disk, and stop.")
@executor_options
@device_option
def command(
    file: str, out: str | None, data_root: str | None, no_download: bool, dry_run: bool, workers: int | None, executor: str,
    executor_option: tuple[str, ...], device: str,
) -> None:  # fmt: skip
    """Train a grid of checkpoints, score them, link the scores with accuracy, judge the claims, write the report.

    The file says what is varied (see docs/studies.md). The same command again goes on where the last one stopped, and
    does what has been added to the file. Exit code 1 if a run or a measure failed; the others are kept.

    \b
    Example:
      ssa-analyze study studies/digits.toml --workers 2
      ssa-analyze study studies/cifar10.toml --out /data/study --executor slurm --executor-option slurm_partition=gpu
    """
    study = read_study(file)
    specs = [
        replace(spec, root=spec.root or data_root, download=spec.download and not no_download)
        for spec in (study.data, *study.transfer)
    ]
    study = replace(study, data=specs[0], transfer=tuple(specs[1:]))
    folder = StudyFolder(Path(out) if out else Path("runs") / study.name)
    device = resolve_device(device)
    where = chosen_executor(executor, workers, executor_option, device)
    carry_out(study, folder, where, device, workers or 1, dry_run)


def carry_out(study: Study, folder: StudyFolder, where: Executor, device: str, workers: int, dry_run: bool = False) -> None:
    """Say the plan, and unless that is all: train, score, report and say what was found; ends with code 1 if anything failed."""
    started = time.monotonic()
    todo = missing_runs(study, folder)
    for line in plan_lines(study, folder, todo, device, workers):
        say(line)
    if dry_run:
        return
    failed = run_study(study, folder, todo, where, device)
    say("3/3 linking and writing the report")
    page, sentences = report_study(study, folder)
    say("")
    for number, sentence in enumerate(sentences, 1):
        click.echo(f"{number}. {sentence}")
    click.echo(f"Report: {page}  ({duration(time.monotonic() - started)})")
    if failed:
        raise click.exceptions.Exit(EXIT_FAILED)


def plan_lines(study: Study, folder: StudyFolder, todo: list[Run], device: str, workers: int) -> list[str]:
    """What will be done, and what it will take, roughly; ``todo`` are the runs that are not trained yet."""
    data = loaded_data(study.data)
    methods = Counter(run.settings.method for run in study.runs)
    sizes = ", ".join(f"{name} {len(index)}" for name, index in data.splits.items())
    lines = [
        f"study {study.name}: {len(study.runs)} checkpoints of {study.configurations} configurations "
        f"({', '.join(f'{count} {name}' for name, count in methods.items())})",
        f"data: {data.name}, {len(data.labels)} images ({sizes})"
        + "".join(f"; probed on {spec.name}, too" for spec in study.transfer),
        f"measures: {', '.join(study.measures)}",
        f"in {folder.path}: {len(study.runs) - len(todo)} of {len(study.runs)} are trained",
    ]
    if todo:
        found = estimate(
            todo, data, [(len(todo), {name: study.overrides.get(name, {}) for name in study.measures})],
            device=device, workers=min(workers, len(todo), max(1, os.cpu_count() or 1) if device == "cpu" else len(todo)),
        )  # fmt: skip
        lines.append(_estimate_line(found))
    return lines


def _estimate_line(found: Estimate) -> str:
    size = f"{found.disk / 2**30:.1f} GiB" if found.disk > 2**29 else f"{max(1, round(found.disk / 2**20))} MiB"
    return (
        f"estimate, from a few steps on this machine: training {duration(found.training)}, scoring about "
        f"{duration(found.scoring)}; {size} of checkpoints"
    )


def run_study(study: Study, folder: StudyFolder, todo: list[Run], where: Executor, device: str) -> bool:
    """Train and score what is missing, with progress; whether anything failed."""
    say(f"1/3 training {len(todo)} of {len(study.runs)} checkpoints")
    training = Progress(len(todo))

    def ended(name: str, problem: str | None) -> None:
        training.step(f"{name}{f'  failed: {problem}' if problem else ''}", problem=bool(problem))

    problems = train_missing(study, folder, todo, where, device, ended)
    plans = study_cells(study, folder)
    with Store(folder.store) as store:
        missing = count_missing(plans, store)
        say(f"2/3 scoring: {missing} of {sum(len(cells) for _, cells in plans)} cells to compute")
        scoring = Progress(missing)

        def tell(result: CellResult) -> None:
            state = f"failed: {result.error}" if result.error else duration(result.seconds)
            scoring.step(f"{Path(result.cell.path).parent.name} {result.cell.measure}  {state}", problem=bool(result.error))

        failures = score_missing(plans, store, where, device, tell)
    for name, problem in problems.items():
        warn(f"not trained: {name}: {problem}")
    return bool(problems or failures)


def report_study(study: Study, folder: StudyFolder) -> tuple[Path, list[str]]:
    """Write the report; its path and what was found."""
    from ssa_analysis.reports.findings import findings
    from ssa_analysis.reports.html import write_report

    with Store(folder.store, must_exist=True) as store:
        name = loaded_data(study.data).name
        page = write_report(store, folder.report, data=name, hypotheses=study.hypotheses)
        return page, findings(store.frame(name), study.hypotheses)
