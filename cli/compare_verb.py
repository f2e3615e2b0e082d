"""``ssa-analyze compare``."""

from __future__ import annotations

import click
import numpy as np
import pandas as pd
from ssa_analysis.cli.common import config_option, json_option, of_foreign_store, print_json, say
from ssa_analysis.cli.loudness import put
from ssa_analysis.reports.names import better_of

from ssa_analysis.linking.comparison import compare, find_checkpoint
from ssa_analysis.running.store import Store
from ssa_analysis.texts import whole


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--store", "store_path", default="scores.db", show_default=True, type=click.Path(), help="Where their scores are.")
@click.option("--data", help="Only scores on this data set.")
@click.option("--all", "everything", is_flag=True, help="All scores; by default those that can be told apart.")
@json_option("all rows")
@config_option("compare")
@of_foreign_store
def command(first: str, second: str, store_path: str, data: str | None, everything: bool, as_json: bool) -> None:
    """Set the scores of two checkpoints side by side, and say which differ by more than their errors.

    FIRST and SECOND are names as the report has them, paths, or beginnings of hashes. The difference is second minus first, with
    a 95 % interval from errors that are taken as independent.

    \b
    Example:
      ssa-analyze compare runs/simclr/last.pt runs/ssa-clr/last.pt --store scores.db
    """
    first, second = whole(first), whole(second)  # as the store has them
    with Store(store_path, must_exist=True) as store:
        frame = store.frame(data)
    table = compare(frame, first, second)
    if as_json:
        print_json(table.to_dict("records"))
        return
    names = [find_checkpoint(frame, text) for text in (first, second)]
    shown = table if everything else table[table["separable"]]
    told, chance = int(table["separable"].sum()), 0.05 * len(table)
    say(f"{names[1]} against {names[0]}: {told} of {len(table)} scores differ by more than their 95 % errors "
        f"(of equal checkpoints about {chance:.0f} would)")  # fmt: skip
    if not shown.empty:
        put(_text(shown, names).to_string(index=False))


def _text(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    better = {"high": (names[0], names[1]), "low": (names[1], names[0])}
    rows = []
    for row in table.to_dict("records"):
        direction = better_of(row["score"].split(" ")[0])
        said = better[direction][int(row["difference"] > 0)] if direction and row["separable"] else ""
        interval = f" [{row['low']:+.3g}, {row['high']:+.3g}]" if np.isfinite(row["low"]) and row["error"] != "exact" else ""
        rows.append({"score": row["score"], names[0]: f"{row['first']:.4g}", names[1]: f"{row['second']:.4g}",
                     "difference": f"{row['difference']:+.3g}{interval}", "unit": row["unit"], "better": said})  # fmt: skip
    return pd.DataFrame(rows)
