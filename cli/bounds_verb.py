"""``ssa-analyze bounds``."""

from __future__ import annotations

import json

import click
import pandas as pd
from ssa_analysis.cli.common import (
    EXIT_FAILED,
    config_option,
    data_options,
    device_option,
    known_checkpoints,
    model_options,
    own_model,
    resolve_device,
    say,
)

from ssa_analysis.running.executors import EXECUTORS
from ssa_analysis.running.plan import CellResult, DataSpec, loaded_data, make_cells
from ssa_analysis.running.scoring import run_cells
from ssa_analysis.running.store import Store, short_names
from ssa_analysis.score import Score


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@data_options
@model_options
@click.option("--store", "store_path", type=click.Path(), help="Also keep the results in this store, for the report.")
@click.option(
    "--views", default="own", show_default=True, help="Views of the practical pairs: own (as trained) or a recipe's name."
)
@click.option("--tau", type=float, help="Temperature; default: the checkpoint's own, else 0.5.")
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes.")
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the scores as a JSON list on stdout.")
@config_option("bounds")
def command(
    checkpoints: tuple[str, ...], data: str, data_root: str | None, subset: int | None, image_size: int | None, no_download: bool,
    model: str | None, normalise: str | None, store_path: str | None, views: str, tau: float | None, seed: int, workers: int,
    device: str, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate both sides of the rungs R1 to R8 on CHECKPOINTs and say which hold.

    Exit code 1 if a rung is violated beyond its error, or a checkpoint could not be evaluated.

    \b
    Example:
      ssa-analyze bounds runs/a/last.pt --data cifar10
    """
    spec = DataSpec(data, data_root, subset, image_size, not no_download)
    device = resolve_device(device)
    paths, left_out = known_checkpoints(checkpoints)
    cells = make_cells(paths, loaded_data(spec), ["bounds"], seed, {"views": views, "tau": tau}, {}, own_model(model, normalise))
    labels = short_names({cell.sha256: cell.path for cell in cells})
    by_path = {cell.path: labels[cell.sha256] for cell in cells}

    def tell(result: CellResult) -> None:
        if result.error:
            say(f"{labels[result.cell.sha256]}: failed: {result.error}")

    store = Store(store_path) if store_path else None
    try:
        summary = run_cells(cells, spec, executor=EXECUTORS.get("local")(workers), store=store, device=device, on_result=tell)
    finally:
        if store is not None:
            store.close()
    if as_json:
        click.echo(json.dumps([score.to_json() for score in summary.scores], indent=1))
    elif summary.scores:
        click.echo(rung_table(summary.scores, by_path))
    violated = [s for s in summary.scores if s.settings.get("verdict") == "violated"]
    if violated:
        names = ", ".join(f"{s.name} on {by_path[s.checkpoint]}" for s in violated)
        say(f"violated beyond the error: {names}")
    if violated or summary.failures or left_out:
        raise click.exceptions.Exit(EXIT_FAILED)


def rung_table(scores: list[Score], labels: dict[str, str]) -> str:
    """A text table: one line a rung."""
    rows = [
        {
            "checkpoint": labels[s.checkpoint],
            "rung": s.name,
            "left": f"{s.settings['left']:.4g}",
            "right": f"{s.settings['right']:.4g}",
            "slack": f"{s.value:+.3g}",
            "95 % interval": f"[{s.low:+.3g}, {s.high:+.3g}]",
            "verdict": s.settings["verdict"],
            "statement": s.settings["statement"],
        }
        for s in scores
        if "verdict" in s.settings
    ]
    lines = [pd.DataFrame(rows).to_string(index=False)]
    for s in scores:
        if s.name == "ideal_bound":
            relation = "above, so it says nothing" if s.settings["vacuous"] else "below"
            label, chance = labels[s.checkpoint], s.settings["chance"]
            lines.append(f"{label}: the bound R2 is {s.value:.4f} nats, chance level {chance:.4f}: {relation}")
        if s.name == "tightest_route":
            says = "which says nothing" if s.settings["vacuous"] else "below chance"
            way = f"the tightest route is {s.settings['route']}: {s.value:.4f} nats, {says}"
            lines.append(f"{labels[s.checkpoint]}: from practical pairs, {way}")
        if s.name == "certificate":
            about = s.settings
            blocks = f"{about['n']} blocks of {about['m']} images, mean {about['mean']:.4f}, "
            blocks += f"constant embedding {about['constant']:.4f}"
            lines.append(f"{labels[s.checkpoint]}: L_K <= {s.value:.4f} nats with probability {1 - about['delta']:g} ({blocks})")
    return "\n".join(lines)
