"""``ssa-analyze link``."""

from __future__ import annotations

import click
import pandas as pd
from ssa_analysis.cli.common import config_option, json_option, of_foreign_store, print_json, say, warn
from ssa_analysis.cli.loudness import put

from ssa_analysis.errors import DataError
from ssa_analysis.linking.hypotheses import HypothesisSettings, Verdict, judge
from ssa_analysis.linking.links import PERMUTATIONS, Link, link_scores, link_table
from ssa_analysis.linking.table import mixed_images, note_of
from ssa_analysis.running.store import Store
from ssa_analysis.scores import in_brackets

SHOWN = ("score", "n", "spearman", "spearman_low", "spearman_high", "p_holm", "within", "p_within_holm", "granulated", "needed")


@click.command()
@click.argument("store_path", metavar="STORE", type=click.Path())
@click.option("--target", default="downstream.probe_accuracy", show_default=True, help="Score to explain, as measure.name.")
@click.option("--data", help="Data set, where the store holds several.")
@click.option("--target-data", metavar="NAME", help="Data set of the target, to explain accuracy after a transfer.")
@click.option("--scores", metavar="LIST", help="Only these, comma-separated; they alone count for Holm's correction.")
@click.option("--draws", default=1000, show_default=True, type=click.IntRange(10, 1_000_000), help="Bootstrap draws.")
@click.option(
    "--permutations", default=PERMUTATIONS, show_default=True, type=click.IntRange(19, 10_000_000), help="Of the tests."
)
@click.option("--seed", default=0, show_default=True)
@json_option("all columns")
@config_option("link")
@of_foreign_store
def command(
    store_path: str, target: str, data: str | None, target_data: str | None, scores: str | None, draws: int, permutations: int,
    seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Link every score of STORE with downstream accuracy over its checkpoints, and judge the claims of the theory.

    Spearman with its bootstrap interval, within: at equal settings but the method's, both with permutation p-values after
    Holm's correction; granulated: Kendall as one setting varies (with --scores); needed: checkpoints that would show a
    correlation as large as this one. The units are configurations: seeds of one are alike.

    \b
    Example:
      ssa-analyze link scores.db
      ssa-analyze link scores.db --scores representation.alignment,representation.uniformity
      ssa-analyze link scores.db --target downstream.knn_accuracy --json
    """
    names = [name.strip() for name in scores.split(",") if name.strip()] if scores else None
    with Store(store_path, must_exist=True) as store:
        frame = store.frame(data)
        other = store.frame(target_data) if target_data is not None else None
    links = link_scores(
        frame, target, target_frame=other, scores=names, draws=draws, permutations=permutations, seed=seed, deep=names or ()
    )
    mixed = mixed_images(frame)
    if mixed:
        warn(f"warning: different checkpoints were measured on different images: {', '.join(mixed)}; score all with one --subset")
    if not links:
        raise DataError(f"{store_path}: no score to link with {target}: the others are of its family, constant or too few")
    table = link_table(links)
    if as_json:
        print_json(table.to_dict("records"))
        return
    shown = table[[c for c in SHOWN if not table[c].isna().all()]].assign(note=_notes(links))
    put(shown.to_string(index=False, float_format=_number))
    where = f" on {target_data}" if target_data else ""
    say(f"target: {target}{in_brackets(note_of(frame if other is None else other, target))}{where}")
    decided = int((table["p_holm"] <= 0.05).sum())
    say(f"{decided} of {len(table)} scores have a Spearman correlation with a p-value of at most 0.05 after Holm's correction")
    if other is None:
        for verdict in _verdicts(frame, target, draws, permutations, seed):
            put(f"{verdict.claim}: {verdict.verdict.upper()} ({verdict.reason})")


def _verdicts(frame: pd.DataFrame, target: str, draws: int, permutations: int, seed: int) -> list[Verdict]:
    """Those that the claims are about: the usual scores, against an accuracy."""
    if not target.startswith("downstream."):
        return []
    return judge(frame, HypothesisSettings(target=target, draws=draws, permutations=permutations, seed=seed))


def _notes(links: list[Link]) -> list[str]:
    """What must be said of a score, and whether a rescaling of filters changes it."""
    told = {"none": "not scale-invariant", "": ""}
    return ["; ".join(part for part in (link.note, told.get(link.invariance, "")) if part) for link in links]


def _number(value: float) -> str:
    return "inf" if value == float("inf") else f"{value:.0f}" if abs(value) >= 4 else f"{value:+.3f}"
