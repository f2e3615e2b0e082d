"""``ssa-analyze demo``: the main job from end to end on the bundled digits, as a small study."""

from __future__ import annotations

import os
from pathlib import Path

import click
from ssa_analysis.cli.common import json_option
from ssa_analysis.cli.study_verb import carry_out

from ssa_analysis.running.executors import ExecutorSettings, make_executor
from ssa_analysis.running.plan import DataSpec, default_measures
from ssa_analysis.running.study import Study, expand_grid
from ssa_analysis.running.study_run import StudyFolder
from ssa_analysis.training.settings import METHODS

EPOCHS = 60
# a small convnet, NT-Xent at tau 0.5
RECIPE = {
    "arch": "convnet", "projector": [64, 32], "batch": 128, "lr": 0.1, "warmup": 2, "rho": 0.1, "knn_every": 0,
}  # fmt: skip
# smaller than the defaults, so that all of it fits in minutes on two cores
OVERRIDES = {
    "curvature": {"pairs": 128, "batch": 128},
    "flatness": {"pairs": 128, "batch": 128},
    "landscape": {"pairs": 128, "batch": 128},
}


@click.command()
@click.option("--out", default="demo", show_default=True, type=click.Path(), help="Folder for runs/, scores.db and report/.")
@click.option("--workers", default=0, type=click.IntRange(min=0), help="Processes; default: one a core, at most 4.")
@click.option("--epochs", default=EPOCHS, show_default=True, type=click.IntRange(min=1), help="Training epochs of each encoder.")
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(1, 1000), help="Encoders of each method.")
@click.option("--dry-run", is_flag=True, help="Show the plan with an estimate of time and disk, and stop.")
@json_option("the plan of a dry run, or what was done and found,")
def command(out: str, workers: int, epochs: int, seeds: int, dry_run: bool, as_json: bool) -> None:
    """Train, score, link, check the bounds and report, on data that needs no download. Run it again to continue.

    Five to ten minutes on two cores; without --dry-run, the example does it.

    \b
    Example:
      ssa-analyze demo --out demo --dry-run
    """
    runs = expand_grid({**RECIPE, "epochs": epochs}, [{"method": list(METHODS)}], range(seeds))
    study = Study("demo", DataSpec("digits"), runs, measures=(*default_measures(), "bounds"), overrides=OVERRIDES)
    workers = workers or min(4, os.cpu_count() or 1)
    carry_out(study, StudyFolder(Path(out)), make_executor("local", ExecutorSettings(workers)), "cpu", workers, dry_run, as_json)
