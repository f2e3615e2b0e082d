"""``ssa-analyze bounds``."""

from __future__ import annotations

import click
import pandas as pd
from ssa_analysis.cli.common import (
    EXIT_FAILED,
    Progress,
    chosen_executor,
    config_option,
    data_options,
    device_option,
    duration,
    executor_options,
    json_option,
    known_checkpoints,
    model_options,
    of_foreign_store,
    parse_settings,
    print_json,
    resolve_device,
    say,
    set_option,
)
from ssa_analysis.cli.loudness import put

from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.running.plan import CellResult, DataSpec, loaded_data, make_cells
from ssa_analysis.running.scoring import run_cells
from ssa_analysis.running.store import Store, short_names
from ssa_analysis.scores import Score


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@data_options
@model_options
@click.option("--store", "store_path", type=click.Path(), help="Also keep the results in this store, for the report.")
@click.option(
    "--views", default="own", show_default=True, help="Views of the practical pairs: own (as trained) or a recipe's name."
)
@click.option("--tau", type=float, help="Temperature; default: the checkpoint's own, else 0.5.")
@click.option(
    "--prior",
    type=click.Path(),
    help="Checkpoint that the PAC-Bayes bound starts from; default: the run's own initialisation, where the file keeps it.",
)
@set_option("SETTING=VALUE", "Change a setting of the bounds; repeatable. See docs/measures.md")
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@executor_options
@device_option
@json_option("the scores")
@config_option("bounds")
@of_foreign_store
def command(
    checkpoints: tuple[str, ...], data: str, data_root: str | None, subset: int | None, image_size: int | None, no_download: bool,
    options: LoadOptions, store_path: str | None, views: str, tau: float | None, prior: str | None,
    assignments: tuple[str, ...], seed: int, workers: int | None, executor: str, executor_option: tuple[str, ...],
    device: str, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate both sides of the rungs R1 to R9 on CHECKPOINTs and say which hold, how tight they are and what they say.

    Exit code 1 if a rung is violated beyond its error, or a checkpoint could not be evaluated.

    \b
    Example:
      ssa-analyze bounds runs/a/last.pt --data digits --store scores.db
      ssa-analyze bounds runs/ssa-clr/last.pt --data digits --prior runs/simclr/last.pt --set block=64
    """
    spec = DataSpec(data, data_root, subset, image_size, not no_download)
    device = resolve_device(device)
    paths, left_out = known_checkpoints(checkpoints)
    chosen = _settings(assignments) | ({"prior": prior} if prior else {})
    shared = {"views": views, "tau": tau}
    cells = make_cells(paths, loaded_data(spec), ["bounds"], seed, shared, {"bounds": chosen}, options)
    labels = short_names({cell.sha256: cell.path for cell in cells})
    by_path = {cell.path: labels[cell.sha256] for cell in cells}

    progress = Progress(len(cells))

    def tell(result: CellResult) -> None:
        text = f"failed: {result.error}" if result.error else duration(result.seconds)
        progress.step(f"{labels[result.cell.sha256]}  {text}", problem=bool(result.error))

    where = chosen_executor(executor, workers, executor_option, device)
    store = Store(store_path) if store_path else None
    try:
        summary = run_cells(cells, spec, executor=where, store=store, device=device, on_result=tell)
    finally:
        if store is not None:
            store.close()
    if as_json:
        print_json(summary.scores)
    elif summary.scores:
        put(rung_table(summary.scores, by_path))
    violated = [s for s in summary.scores if s.settings.get("verdict") == "violated"]
    if violated:
        names = ", ".join(f"{s.name} on {by_path[s.checkpoint]}" for s in violated)
        say(f"violated beyond the error: {names}")
    if violated or summary.failures or left_out:
        raise click.exceptions.Exit(EXIT_FAILED)


def _settings(items: tuple[str, ...]) -> dict[str, str]:
    """``setting=value`` texts; ``bounds.setting=value`` is understood, too."""
    return parse_settings(tuple(i if i.startswith("bounds.") else f"bounds.{i}" for i in items)).get("bounds", {})


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
    for checkpoint in dict.fromkeys(s.checkpoint for s in scores):
        own = {s.name: s for s in scores if s.checkpoint == checkpoint}
        lines += ["", f"{labels[checkpoint]}:", *(f"  {line}" for line in told(own))]
    return "\n".join(lines)


def told(scores: dict[str, Score]) -> list[str]:
    """What the scores of one checkpoint say, a line each; by name of the score."""
    lines = [f"skipped: {text}" for text in next(iter(scores.values())).settings.get("skipped", [])]
    if "ideal_bound" in scores:
        bound, chance = scores["ideal_bound"].value, scores["ideal_bound"].settings["chance"]
        relation = "above, so it says nothing" if scores["ideal_bound"].settings["vacuous"] else "below"
        lines.append(f"R2 bounds the classification loss by {bound:.4f} nats; chance {chance:.4f}: {relation}")
    if "tightest_route" in scores:
        route = scores["tightest_route"]
        relation = "says nothing" if route.settings["vacuous"] else "below chance"
        lines.append(f"from practical pairs, tightest by {route.settings['route']}: {route.value:.4f} nats, {relation}")
    if "chain" in scores:
        shares = {name.removeprefix("share_"): s.value for name, s in scores.items() if name.startswith("share_")}
        ordered = sorted(shares.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name.replace('_', ' ')} {round(100 * share)} %" for name, share in ordered)
        relation = "says nothing" if scores["chain"].settings["vacuous"] else "below chance"
        what = "the whole chain" if scores["chain"].settings["confidence"] is not None else "the chain, without certificate"
        lines.append(f"{what}: {scores['chain'].value:.4f} nats, {relation}; its slack: {parts}")
    if "certificate" in scores:
        lines += _certificates_told(scores)
    if "pac_bayes" in scores:
        lines += _pac_bayes_told(scores["pac_bayes"])
    if "chain_pac_bayes" in scores and not scores["chain_pac_bayes"].settings["bound"]:
        norm = scores["chain_pac_bayes"].settings["batch_norm"]
        why = f"statistics of the block change the loss by {norm:+.4f}" if norm < 0 else "L(theta) <= L_s is not shown"
        lines.append(f"  its chain is no bound of this network: {why}")
    return lines


def _certificates_told(scores: dict[str, Score]) -> list[str]:
    found = scores["certificate"]
    about = found.settings
    others = {"certificate_kl": "by kl", "certificate_bounded_differences": "by bounded differences"}
    rest = "; ".join(f"{text} {scores[name].value:.4f}" for name, text in others.items() if name in scores)
    return [
        f"certificate: L_K <= {found.value:.4f} nats with probability {1 - about['delta']:g}; {rest}; a constant embedding has "
        f"{about['constant']:.4f}{', so it says nothing' if about['vacuous'] else ''}",
        f"  K {about['negatives']}, n {about['n']} held-out blocks of m {about['m']}, KL 0, b {about['b']:.4f}, "
        f"mean {about['mean']:.4f}",
    ]


def _pac_bayes_told(found: Score) -> list[str]:
    about = found.settings
    probability = 1 - about["delta"] - about["delta_draws"]
    rise = f"{about['held_out_rise']:+.4f} ± {about['held_out_rise_stderr']:.2g}"
    return [
        f"PAC-Bayes: L_s <= {found.value:.4f} nats with probability {probability:g} at s {about['scale']:.3g}"
        f"{'; it says nothing' if about['vacuous'] else ''}",
        f"  loss {about['loss']:.4f} + sharpness {about['sharpness']:.4f} + Monte Carlo {about['monte_carlo']:.4f} + complexity "
        f"{about['complexity']:.4f}",
        f"  prior {about['prior']}, KL {about['kl']:.4g}, n {about['n']} {about['split']} blocks of m {about['m']}, "
        f"b {about['b']:.4f}, {about['grid']} scales",
        f"  L(theta) <= L_s on blocks of another split: {about['covers_theta']} ({rise}); SAM form {about['sam_noisy']:.4f} <= "
        f"{about['sam_bound']:.4f} at radius {about['sam_radius']:.3g}",
    ]
