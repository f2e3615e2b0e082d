"""``ssa-analyze link``."""

from __future__ import annotations

import json

import click
from ssa_analysis.cli.common import config_option, say

from ssa_analysis.errors import DataError
from ssa_analysis.linking.links import link_scores, link_table
from ssa_analysis.linking.table import mixed_images, note_of
from ssa_analysis.running.store import Store
from ssa_analysis.score import in_brackets


@click.command()
@click.argument("store_path", metavar="STORE", type=click.Path())
@click.option("--target", default="downstream.probe_accuracy", show_default=True, help="Score to explain, as measure.name.")
@click.option("--data", help="Data set, where the store holds several.")
@click.option("--draws", default=1000, show_default=True, type=click.IntRange(min=10), help="Bootstrap draws.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list on stdout.")
@config_option("link")
def command(store_path: str, target: str, data: str | None, draws: int, seed: int, as_json: bool) -> None:
    """Correlate every score of STORE with downstream accuracy over its checkpoints.

    Pearson, Spearman and Kendall with 95 % bootstrap intervals over checkpoints. An interval that holds zero
    decides nothing: more checkpoints are needed.

    \b
    Example:
      ssa-analyze link scores.db
      ssa-analyze link scores.db --target robustness.mean_error --json
    """
    with Store(store_path, must_exist=True) as store:
        frame = store.frame(data)
    links = link_scores(frame, target, draws=draws, seed=seed)
    mixed = mixed_images(frame)
    if mixed:
        say(f"warning: different checkpoints were measured on different images: {', '.join(mixed)}; score all with one --subset")
    if not links:
        raise DataError(f"{store_path}: no score to link with {target}: the others are of its family, constant or too few")
    table = link_table(links)
    if as_json:
        click.echo(json.dumps(json.loads(table.to_json(orient="records")), indent=1))
        return
    click.echo(table.to_string(index=False, float_format=lambda v: f"{v:+.3f}"))
    decided = int(((table["spearman_low"] > 0) | (table["spearman_high"] < 0)).sum())
    say(f"target: {target}{in_brackets(note_of(frame, target))}")
    say(f"{decided} of {len(table)} scores have a Spearman interval that excludes zero, without correction for their number")
