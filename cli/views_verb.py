"""``ssa-analyze views``."""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd
from ssa_analysis.cli.common import (
    EXIT_FAILED,
    config_option,
    data_options,
    device_option,
    interruptible,
    json_option,
    known_checkpoints,
    model_options,
    of_foreign_store,
    parse_settings,
    print_json,
    resolve_device,
    say,
    set_option,
    warn,
)
from ssa_analysis.cli.loudness import put

from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.checkpoints.writing import make_folder, write_atomically
from ssa_analysis.running.executors import InProcessExecutor
from ssa_analysis.running.plan import CellResult, DataSpec, loaded_data, make_cells
from ssa_analysis.running.scoring import run_cells
from ssa_analysis.running.store import Store, short_names
from ssa_analysis.scores import Score, find_score
from ssa_analysis.stopping import Stopped, stop_requested


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@data_options
@model_options
@click.option("--store", "store_path", type=click.Path(), help="Also keep the results in this store, for the report.")
@click.option("--out", type=click.Path(), help="Folder for the figures (PNG and PDF) and the table (CSV).")
@click.option("--views", default="own", show_default=True, help="The recipe to advise on: own (as trained) or a recipe's name.")
@set_option("views.SETTING=VALUE", "images (2000), strengths (0.5,1.5), groups; repeatable.")
@click.option("--tau", type=float, help="Temperature; default: the checkpoint's own, else 0.5.")
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@device_option
@json_option("the scores")
@config_option("views")
@of_foreign_store
def command(
    checkpoints: tuple[str, ...], data: str, data_root: str | None, subset: int | None, image_size: int | None, no_download: bool,
    options: LoadOptions, store_path: str | None, out: str | None, views: str, assignments: tuple[str, ...],
    tau: float | None, seed: int, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Say which augmentations bring the shift of CHECKPOINTs down, and whether the Fourier augmentation does.

    Measures the shift between ideal and practical pairs under each augmentation alone, without it, weaker and stronger,
    and with the Fourier augmentation on top, always on the same images; ranks them beside the class oracle.

    \b
    Example:
      ssa-analyze views runs/a/last.pt --data digits --out advice/
    """
    from ssa_analysis.reports.figure_files import write_figure  # matplotlib only once there is something to draw

    spec = DataSpec(data, data_root, subset, image_size, not no_download)
    device = resolve_device(device)
    paths, left_out = known_checkpoints(checkpoints)
    shared = {"views": views, "tau": tau}
    cells = make_cells(paths, loaded_data(spec), ["views"], seed, shared, parse_settings(assignments), options)
    labels = short_names({cell.sha256: cell.path for cell in cells})
    by_path = {cell.path: labels[cell.sha256] for cell in cells}
    folder = make_folder(Path(out)) if out else None

    def tell(result: CellResult) -> None:
        if result.error:
            warn(f"{labels[result.cell.sha256]}: failed: {result.error}")

    store = Store(store_path, tell=warn) if store_path else None
    try:
        with interruptible("the checkpoint in hand"):
            summary = run_cells(cells, spec, executor=InProcessExecutor(), store=store, device=device, on_result=tell, tell=warn)
            if stop_requested() and summary.skipped:
                raise Stopped
    finally:
        if store is not None:
            store.close()
    if as_json:
        print_json(summary.scores)
    elif summary.scores:
        put(advice(summary.scores, by_path))
    if folder is not None and summary.scores:
        from ssa_analysis.reports.figures.views import shift_against_strength, views_ranking
        from ssa_analysis.reports.tables import safe_csv

        frame = score_frame(summary.scores, by_path)
        for name, figure in (("ranking", views_ranking(frame)), ("strength", shift_against_strength(frame))):
            if figure is not None:
                write_figure(figure, folder, name)
        tables = [variant_table(scores).assign(checkpoint=label) for label, scores in _grouped(summary.scores, by_path).items()]
        write_atomically(folder / "views.csv", safe_csv(pd.concat(tables)).encode())
        say(f"wrote {folder / 'ranking.png'}, {folder / 'strength.png'}, {folder / 'views.csv'}")
    if summary.failures or left_out:
        raise click.exceptions.Exit(EXIT_FAILED)


def score_frame(scores: list[Score], labels: dict[str, str]) -> pd.DataFrame:
    """The columns that the figures read."""
    rows = [
        {"checkpoint": labels[s.checkpoint], "measure": s.measure, "name": s.name, "value": s.value, "low": s.low, "high": s.high,
         "settings": dict(s.settings)} for s in scores
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _grouped(scores: list[Score], labels: dict[str, str]) -> dict[str, list[Score]]:
    grouped: dict[str, list[Score]] = {}
    for score in scores:
        grouped.setdefault(labels[score.checkpoint], []).append(score)
    return grouped


def variant_table(scores: list[Score]) -> pd.DataFrame:
    """One row a variant, the smallest shift first, numbers as numbers."""
    rows = []
    for score in sorted((s for s in scores if s.settings["group"] != "verdict"), key=lambda s: s.value):
        about = score.settings
        rows.append(
            {
                "variant": score.name, "group": about["group"], "shift": score.value, "low": score.low, "high": score.high,
                **{key: about.get(key) for key in ("change", "change_low", "change_high", "loss_gap", "loss_gap_stderr",
                                                   "alignment_gap", "uniformity_gap", "clipped")},
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def advice(scores: list[Score], labels: dict[str, str]) -> str:
    """For each checkpoint: the ranked table, the floor, and the answer on the Fourier augmentation."""
    texts = []
    for label, own in _grouped(scores, labels).items():
        table = variant_table(own)
        shown = pd.DataFrame(
            {
                "variant": table["variant"],
                "group": table["group"],
                "shift": [f"{v:.4f}" for v in table["shift"]],
                "95 % interval": [_interval(a, b) for a, b in zip(table["low"], table["high"], strict=True)],
                "change": [_number(v, "+.4f") for v in table["change"]],
                "its interval": [_interval(a, b) for a, b in zip(table["change_low"], table["change_high"], strict=True)],
                "cost (nats)": [_number(v, "+.3f") for v in table["loss_gap"]],
                "clipped": [_number(v, ".1%") for v in table["clipped"]],
            }
        )
        relief = find_score(own, "fourier_relief").settings
        texts.append(
            f"{label}: shift between ideal and practical pairs, smallest first\n{shown.to_string(index=False)}\n"
            f"Does the Fourier augmentation relieve the shift? {relief['verdict'].capitalize()}: {relief['sentence']}."
        )
    return "\n\n".join(texts)


def _number(value: float | None, form: str) -> str:
    return "" if value is None or pd.isna(value) else format(value, form)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None or pd.isna(low) else f"[{low:+.4f}, {high:+.4f}]"
