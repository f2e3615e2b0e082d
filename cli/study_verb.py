"""``ssa-analyze study``."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from ssa_analysis.cli.common import (
    EXIT_FAILED,
    Progress,
    cell_timeout_option,
    chosen_executor,
    device_option,
    duration,
    executor_options,
    interruptible,
    json_option,
    print_json,
    resolve_device,
    say,
    warn,
)
from ssa_analysis.cli.loudness import put

from ssa_analysis.checkpoints.writing import locked_folder, make_folder
from ssa_analysis.linking.hypotheses import Verdict
from ssa_analysis.running.estimate import Estimate, estimate
from ssa_analysis.running.executors import Executor
from ssa_analysis.running.plan import CellResult, loaded_data
from ssa_analysis.running.store import Store
from ssa_analysis.running.study import Run, Study, read_study
from ssa_analysis.running.study_run import StudyFolder, count_missing, missing_runs, score_missing, study_cells, train_missing
from ssa_analysis.stopping import Stopped, stop_requested


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
@cell_timeout_option
@json_option("the plan of a dry run, or what was done and found,")
def command(
    file: str, out: str | None, data_root: str | None, no_download: bool, dry_run: bool, workers: int | None, executor: str,
    executor_option: tuple[str, ...], device: str, cell_timeout: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Train a grid of checkpoints, score them, link the scores with accuracy, judge the claims, write the report.

    The file says what is varied (see docs/studies.md). The same command again goes on where the last one stopped, and
    does what has been added to the file. Exit code 1 if a run or a measure failed; the others are kept. Ctrl-C ends it after
    the epochs or cells in hand, a second one at once.

    Without --dry-run, the first example takes under 45 minutes on two cores.

    \b
    Example:
      ssa-analyze study studies/digits.toml --workers 2 --dry-run
      ssa-analyze study studies/smoke.toml --out study --executor slurm --executor-option slurm_partition=gpu --dry-run
    """
    study = read_study(file)
    specs = [
        replace(spec, root=spec.root or data_root, download=spec.download and not no_download)
        for spec in (study.data, *study.transfer)
    ]
    study = replace(study, data=specs[0], transfer=tuple(specs[1:]))
    folder = StudyFolder(Path(out) if out else Path("runs") / study.name)
    device = resolve_device(device)
    where = chosen_executor(executor, workers, executor_option, device, isolated=cell_timeout is not None)
    carry_out(study, folder, where, device, workers or 1, dry_run, as_json, cell_timeout)


def carry_out(
    study: Study, folder: StudyFolder, where: Executor, device: str, workers: int, dry_run: bool = False, as_json: bool = False,
    cell_timeout: float | None = None,
) -> None:  # fmt: skip
    """Say the plan, and unless that is all: train, score, report and say what was found; ends with code 1 if anything failed."""
    started = time.monotonic()
    todo = missing_runs(study, folder)
    found = needed(study, todo, device, workers)
    for line in plan_lines(study, folder, todo, found):
        say(line)
    if dry_run:
        if as_json:
            print_json({"study": study.name, "out": folder.path, "checkpoints": len(study.runs),
                        "configurations": study.configurations, "to_train": len(todo), "estimate": found})  # fmt: skip
        return
    with locked_folder(make_folder(folder.path)):
        with interruptible("the epochs or cells in hand"):
            done = run_study(study, folder, todo, where, device, cell_timeout)
        say("3/3 linking and writing the report")
        page, sentences, verdicts = report_study(study, folder)
    if as_json:
        print_json({"study": study.name, "checkpoints": [folder.checkpoint(run) for run in study.runs], **vars(done),
                    "store": folder.store, "report": page, "findings": sentences, "verdicts": verdicts,
                    "seconds": time.monotonic() - started})  # fmt: skip
    else:
        say("")
        for number, sentence in enumerate(sentences, 1):
            put(f"{number}. {sentence}")
        put(f"Report: {page}  ({duration(time.monotonic() - started)})")
    if done.not_trained or done.failed:
        raise click.exceptions.Exit(EXIT_FAILED)


def needed(study: Study, todo: list[Run], device: str, workers: int) -> Estimate:
    """What the runs that are not trained yet will take, with their scores."""
    most = max(1, os.cpu_count() or 1) if device == "cpu" else len(todo)
    plans = [(len(todo), {name: study.overrides.get(name, {}) for name in study.measures})]
    return estimate(todo, loaded_data(study.data), plans, device=device, workers=min(workers, len(todo), most))


def plan_lines(study: Study, folder: StudyFolder, todo: list[Run], found: Estimate) -> list[str]:
    """What will be done, and what it will take, roughly; ``todo`` are the runs that are not trained yet."""
    data = loaded_data(study.data)
    methods = Counter(run.settings.method for run in study.runs)
    sizes = ", ".join(f"{name} {len(index)}" for name, index in data.splits.items())
    return [
        f"study {study.name}: {len(study.runs)} checkpoints of {study.configurations} configurations "
        f"({', '.join(f'{count} {name}' for name, count in methods.items())})",
        f"data: {data.name}, {len(data.labels)} images ({sizes})"
        + "".join(f"; probed on {spec.name}, too" for spec in study.transfer),
        f"measures: {', '.join(study.measures)}",
        f"in {folder.path}: {len(study.runs) - len(todo)} of {len(study.runs)} are trained",
        *([_estimate_line(found)] if todo else []),
    ]


def _estimate_line(found: Estimate) -> str:
    size = f"{found.disk / 2**30:.1f} GiB" if found.disk > 2**29 else f"{max(1, round(found.disk / 2**20))} MiB"
    return (
        f"estimate, from a few steps on this machine: training {duration(found.training)}, scoring about "
        f"{duration(found.scoring)}; {size} of checkpoints"
    )


@dataclass(frozen=True)
class Done:
    """What was done: checkpoints trained, problems by run, cells computed, cells that failed and why."""

    trained: int
    not_trained: dict[str, str]
    computed: int
    failed: list[dict[str, Any]]


def run_study(
    study: Study, folder: StudyFolder, todo: list[Run], where: Executor, device: str, cell_timeout: float | None
) -> Done:
    """Train and score what is missing, with progress; Stopped where that was asked for."""
    say(f"1/3 training {len(todo)} of {len(study.runs)} checkpoints")
    training = Progress(len(todo))

    def ended(name: str, problem: str | None) -> None:
        training.step(f"{name}{f'  failed: {problem}' if problem else ''}", problem=bool(problem))

    problems = train_missing(study, folder, todo, where, device, ended)
    if stop_requested():
        raise Stopped
    plans = study_cells(study, folder)
    with Store(folder.store, tell=warn) as store:
        missing = count_missing(plans, store)
        say(f"2/3 scoring: {missing} of {sum(len(cells) for _, cells in plans)} cells to compute")
        scoring = Progress(missing)

        def tell(result: CellResult) -> None:
            state = f"failed: {result.error}" if result.error else duration(result.seconds)
            scoring.step(f"{Path(result.cell.path).parent.name} {result.cell.measure}  {state}", problem=bool(result.error))

        failures = score_missing(plans, store, where, device, tell, cell_timeout, warn)
        if stop_requested():
            raise Stopped
    for name, problem in problems.items():
        warn(f"not trained: {name}: {problem}")
    failed = [{"checkpoint": r.cell.path, "measure": r.cell.measure, "error": r.error} for r in failures]
    return Done(len(todo) - len(problems), problems, missing - len(failed), failed)


def report_study(study: Study, folder: StudyFolder) -> tuple[Path, list[str], list[Verdict]]:
    """Write the report; its path, what was found, and the verdicts on the claims."""
    from ssa_analysis.reports.analysis import linking_of
    from ssa_analysis.reports.findings import findings
    from ssa_analysis.reports.html import write_report

    with Store(folder.store, must_exist=True) as store:
        data = loaded_data(study.data)
        name = data.name
        frame = store.frame(name)
        page = write_report(store, folder.report, frame=frame, images=data, hypotheses=study.hypotheses)
    return page, findings(frame, study.hypotheses), linking_of(frame, study.hypotheses).verdicts
