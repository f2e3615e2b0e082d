"""``ssa-analyze score``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from ssa_analysis.cli.common import (
    EXIT_FAILED,
    Progress,
    cell_timeout_option,
    chosen_executor,
    config_option,
    corruption_options,
    data_options,
    device_option,
    duration,
    executor_options,
    interruptible,
    json_option,
    known_checkpoints,
    model_options,
    parse_settings,
    print_json,
    resolve_device,
    say,
    set_option,
    warn,
    whole_path,
)

from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.measures.corruption_baseline import ALEXNET
from ssa_analysis.measures.curvature import BACKENDS
from ssa_analysis.measures.fixed_loss import LOSSES
from ssa_analysis.numerics.ranks import Ranks
from ssa_analysis.progress import parse_duration
from ssa_analysis.running.conditions import Condition, parse_condition, that_hold
from ssa_analysis.running.plan import CellResult, DataSpec, default_measures, loaded_data, make_cells, measure_settings
from ssa_analysis.running.ranks import joined_ranks
from ssa_analysis.running.score_estimate import Costs, ScoringEstimate, estimate_scoring, measured_costs, within_budget
from ssa_analysis.running.scoring import ScoringSummary, cells_to_run, run_cells
from ssa_analysis.running.store import Store, short_names
from ssa_analysis.scores import Score, in_brackets, marks_of
from ssa_analysis.stopping import Deadline, Stopped, stop_requested

Where = tuple[str, int | None, tuple[str, ...]]  # executor, workers, options


@dataclass(frozen=True)
class How:
    """How a run goes and ends: where it runs, what is printed, which conditions make it fail, seconds that it and a cell of it
    may take."""

    where: Where
    device: str
    as_json: bool = False
    conditions: Sequence[Condition] = ()
    dry_run: bool = False
    budget: float | None = None
    cell_timeout: float | None = None


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@data_options
@model_options
@click.option(
    "--store", "store_path", default="scores.db", show_default=True, type=click.Path(), help="SQLite file for the scores."
)
@click.option("--measures", help="Comma-separated measures; default: all but bounds and views. See: ssa-analyze list measures")
@set_option("MEASURE.SETTING=VALUE", "Change a setting of a measure; repeatable.")
@click.option(
    "--views", default="own", show_default=True, help="Views of the practical pairs: own (as trained) or a recipe's name."
)
@click.option(
    "--loss",
    default="contrastive",
    show_default=True,
    type=click.Choice(LOSSES),
    help="Loss whose curvature, flatness and landscape are measured.",
)
@click.option(
    "--backend",
    default="lanczos",
    show_default=True,
    type=click.Choice(BACKENDS),
    help="What computes the curvature: ours, or another library through an adapter.",
)
@click.option("--tau", type=float, help="Temperature of the contrastive loss; default: the checkpoint's own, else 0.5.")
@corruption_options
@click.option(
    "--test-set",
    "test_sets",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Further test set for robustness, such as CIFAR-10.1: .npz or NAME_data.npy; repeatable.",
)
@click.option(
    "--baseline", metavar="alexnet|FILE", help="Errors that mCE divides by: AlexNet's on ImageNet-C, or a .csv or .json file."
)
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@executor_options
@device_option
@click.option(
    "--fail-if",
    "fail_if",
    multiple=True,
    metavar="CONDITION",
    help="Exit 1 if a score meets it, such as 'lambda_max > 50'; repeatable.",
)
@click.option(
    "--time-budget",
    metavar="DURATION",
    help="Keep to about this long, such as 10m: fewer pairs, images and probes, which is said; what is left then stays undone.",
)
@cell_timeout_option
@click.option("--dry-run", is_flag=True, help="Say what would be computed and about how long it takes, and stop.")
@json_option("the scores")
@config_option("score")
def command(
    checkpoints: tuple[str, ...], data: str, data_root: str | None, subset: int | None, image_size: int | None, no_download: bool,
    options: LoadOptions, store_path: str, measures: str | None, assignments: tuple[str, ...], views: str,
    loss: str, backend: str, tau: float | None, corruptions: str | None, frost_textures: str | None, test_sets: tuple[str, ...],
    baseline: str | None, seed: int, workers: int | None, executor: str, executor_option: tuple[str, ...], device: str,
    fail_if: tuple[str, ...], time_budget: str | None, cell_timeout: float | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure CHECKPOINTs (files, globs, folders) and keep the scores.

    What the store has already is not computed again. Exit code 1 if some measure failed, or a condition of --fail-if holds;
    the scores are kept in any case. Ctrl-C ends the run after the cell in hand, a second one at once.

    \b
    Example:
      ssa-analyze score runs/a/last.pt --data digits --store scores.db
      ssa-analyze score runs/*/last.pt --data images/ --measures representation --store images.db --json
      ssa-analyze score mine.pt --model net.py:build --normalise half --data digits --loss supervised --measures curvature
      ssa-analyze score runs/a/last.pt --data digits --measures robustness --corruptions digits-C/
      ssa-analyze score runs/a/last.pt --data digits --measures curvature --fail-if 'lambda_max > 500'
      ssa-analyze score runs/*/last.pt --data digits --dry-run
      ssa-analyze score runs/a/last.pt --data digits --measures downstream,flatness --time-budget 10m
    """
    conditions = [parse_condition(text) for text in fail_if]
    spec = DataSpec(data, data_root, subset, image_size, not no_download)
    names = [m.strip() for m in measures.split(",") if m.strip()] if measures is not None else default_measures()
    shared = {
        "views": views, "tau": tau, "loss": loss, "backend": backend, "corruptions": whole_path(corruptions),
        "frost_textures": whole_path(frost_textures), "test_sets": os.pathsep.join(whole_path(path) for path in test_sets),
        "baseline": ALEXNET if baseline == ALEXNET else whole_path(baseline),
    }  # fmt: skip
    budget = parse_duration(time_budget) if time_budget is not None else None
    how = How((executor, workers, executor_option), device, as_json, conditions, dry_run, budget, cell_timeout)
    run_and_print(checkpoints, spec, names, parse_settings(assignments), shared, seed, store_path, options, how)


def run_and_print(
    checkpoints: tuple[str, ...], spec: DataSpec, measures: list[str], overrides: dict[str, dict[str, str]],
    shared: dict[str, object], seed: int, store_path: str, options: LoadOptions, how: How,
) -> None:  # fmt: skip
    """Plan, run, store, print; ends with exit code 1 if a cell failed or a condition holds. Several processes under torchrun
    share the work."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if (how.where[1] or 1) > 1 or how.where[0] != "local":
            raise click.UsageError("--workers and --executor are for one process; torchrun has started several already")
        if how.budget is not None or how.dry_run or how.cell_timeout is not None:
            raise click.UsageError(
                "--time-budget, --cell-timeout and --dry-run are for one process; torchrun has started several"
            )
    with joined_ranks(resolve_device(how.device)) as (ranks, device):
        ended = _run(
            ranks, replace(how, device=device), checkpoints, spec, measures, overrides, shared, seed, store_path, options
        )
    if ended is not None and ranks.rank == 0:
        _finish(*ended, store_path, how)


def _run(
    ranks: Ranks, how: How, checkpoints: tuple[str, ...], spec: DataSpec, measures: list[str],
    overrides: dict[str, dict[str, str]], shared: dict[str, object], seed: int, store_path: str, options: LoadOptions,
) -> tuple[ScoringSummary, int, bool] | None:  # fmt: skip
    """What was scored, how many checkpoints were left out, and whether it was stopped; None of a dry run."""
    deadline = Deadline.within(how.budget) if how.budget is not None else None
    paths, left_out = known_checkpoints(checkpoints)
    if ranks.rank == 0:
        loaded_data(spec)  # the first one may have to download it; the others then find it there
    ranks.from_first(None)
    loaded, costs = loaded_data(spec), None
    if how.dry_run or how.budget is not None:
        costs = measured_costs(paths[0], options, loaded, how.device)
    if how.budget is not None and costs is not None:
        workers = how.where[1] or 1
        chosen = measure_settings(measures, seed, shared, overrides)
        fewer, seconds = within_budget(chosen, len(paths), how.budget * workers, overrides, loaded, costs)
        _say_given_up(fewer, chosen, seconds / workers, how.budget)
        overrides = {name: {**overrides.get(name, {}), **fewer.get(name, {})} for name in {*overrides, *fewer}}
    cells = make_cells(paths, loaded, measures, seed, shared, overrides, options)
    kept = not how.dry_run or Path(store_path).exists()  # a dry run makes no store
    store = Store(store_path, tell=warn) if kept and ranks.rank == 0 else None
    try:
        labels = short_names({cell.sha256: cell.path for cell in cells})
        todo = ranks.from_first(cells_to_run(cells, store))
        sizes = ", ".join(f"{name} {len(index)}" for name, index in loaded.splits.items())
        say(f"{loaded.name}: {len(loaded.labels)} images ({sizes}); {len(todo)} of {len(cells)} cells to compute")
        if how.dry_run and costs is not None:
            _say_plan(estimate_scoring(todo, loaded, costs), costs, how)
            return None
        progress = Progress(len(todo))

        def tell(result: CellResult) -> None:
            label = labels[result.cell.sha256]
            text = f"failed: {result.error}" if result.error else _headline(result.scores)
            text += f" ({result.remark})" if result.remark else ""
            took = f"{duration(result.seconds)}  " if result.seconds else ""  # unknown where its process was ended
            progress.step(f"{label} {result.cell.measure}  {took}{text}", problem=bool(result.error))

        if ranks.rank:  # it helps to compute; the first one has the store and the last word
            cells = todo
        name, workers, executor_options = how.where
        number = 1 if ranks.size > 1 else workers
        executor = chosen_executor(name, number, executor_options, how.device, isolated=how.cell_timeout is not None)
        with interruptible("the cells in hand" if (workers or 1) > 1 else "the cell in hand"):
            summary = run_cells(
                cells, spec, executor=executor, store=store, device=how.device, on_result=tell, deadline=deadline,
                timeout=how.cell_timeout, tell=warn, keep_scores=how.as_json or bool(how.conditions),
            )  # fmt: skip
            stopped = stop_requested() and summary.skipped > 0
    finally:
        if store is not None:
            store.close()
    return summary, left_out, stopped


def _say_given_up(fewer: Mapping[str, Mapping[str, int]], chosen: Mapping[str, Any], seconds: float, budget: float) -> None:
    """What the budget costs."""
    for measure, values in fewer.items():
        usual = chosen[measure].to_dict()
        warn(f"for the time budget: {measure} with " + ", ".join(f"{k} {v} instead of {usual[k]}" for k, v in values.items()))
    if seconds > budget:
        warn(f"with all that given up it takes roughly {duration(seconds)}, more than {duration(budget)}: the rest will be left")


def _say_plan(found: ScoringEstimate, costs: Costs, how: How) -> None:
    """What is to be computed, and what it takes, roughly."""
    for measure, count, seconds in found.by_measure:
        say(f"  {measure:15} {count:4} checkpoint{'s' if count > 1 else ' '}  about {duration(seconds)}")
    if found.by_measure:
        workers = how.where[1] or 1
        spread = f", {duration(found.seconds / workers)} with {workers} workers" if workers > 1 else ""
        memory = f"{found.memory / 2**30:.1f} GiB at the peak"
        say(f"roughly {duration(found.seconds)}{spread}, {memory}; from a few passes of {costs.path} on this machine")
    say("dry run: nothing was computed")


def _headline(scores: list[Score]) -> str:
    """The first score of a family, which is its most telling one."""
    if not scores:
        return ""
    first = scores[0]
    error = f" ± {first.stderr:.2g}" if first.stderr else ""
    note = in_brackets(marks_of([first.settings]))
    return f"{first.name} {first.value:.4g}{error}{note}{' (not converged)' if not first.converged else ''}"


def _finish(summary: ScoringSummary, left_out: int, stopped: bool, store_path: str, how: How) -> None:
    if how.as_json:
        print_json(summary.scores)
    why = "undone" if stopped else "for lack of time"
    late = f", {summary.skipped} left {why} (run it again to go on)" if summary.skipped else ""
    counts = f"{summary.computed} cells computed, {summary.reused} taken from the store, {len(summary.failures)} failed{late}"
    say(f"{counts}; kept in {store_path}", problem=bool(summary.failures or summary.skipped))
    held = that_hold(how.conditions, summary.scores, complete=not (summary.failures or summary.skipped))
    for condition, score in held:
        warn(f"--fail-if {condition}: {score.checkpoint} has {score.measure}.{score.name} {score.value:.4g}")
    if stopped:
        raise Stopped
    if summary.failures or summary.skipped or left_out or held:
        raise click.exceptions.Exit(EXIT_FAILED)
