"""``ssa-analyze inspect``."""

from __future__ import annotations

from collections import Counter

import click
from ssa_analysis.cli.common import json_option, model_options, print_json
from ssa_analysis.cli.loudness import put

from ssa_analysis.checkpoints.loading import LoadReport, load_checkpoint
from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.texts import one_line

WITHOUT = (
    "no: the contrastive loss and the embedding need one; --embedding features takes the features, --loss supervised a probe"
)
SURE = {
    "certain": "certain: no other project writes such names",
    "likely": "likely: by its names",
    "named": "as you say",
    "guess": "a guess: many projects write such names",
}


@click.command()
@click.argument("file", type=click.Path())
@model_options
@click.option("--tensors", is_flag=True, help="List every tensor of the file and where it landed.")
@json_option("the load report")
def command(file: str, options: LoadOptions, tensors: bool, as_json: bool) -> None:
    """Say what a checkpoint FILE holds, how it was recognised, and what was assumed. Nothing in it is executed.

    The file of --model is yours and is executed.

    \b
    Example:
      ssa-analyze inspect runs/a/last.pt
      ssa-analyze inspect resnet18.pth --tensors --recipe max_pool=no
      ssa-analyze inspect net.pth --layout group.toml
    """
    report = load_checkpoint(file, options).report
    if as_json:
        print_json(report)
        return
    put(describe(report))
    if tensors:
        for key, place in report.places.items():
            put(one_line(f"tensor       {key} -> {place}"))


def describe(report: LoadReport) -> str:
    """A load report as text."""
    projector = "yes" if report.has_projector else WITHOUT
    lines = [
        f"file         {report.path}",
        f"sha256       {report.sha256}",
        f"layout       {report.layout}{f' ({SURE[report.certainty]})' if report.certainty else ''}",
        f"encoder      {report.arch}",
        f"weights      {report.parameters:,} in {report.tensors} tensors, all placed, all finite{_parts(report)}",
        f"projector    {projector}",
        f"classifier   {'yes' if report.has_classifier else 'no (the supervised loss takes a linear probe in its place)'}",
    ]
    if report.training:
        settings, data = report.training["settings"], report.training["data"]
        lines.append(
            f"trained      {settings['method']} on {data['name']}, epoch {report.training['epoch']} of {settings['epochs']}"
        )
        loss = f"tau {settings['tau']}, beta {settings['beta'] or 'K'}"
        mean = report.training["loss"]
        lines.append(f"loss         {loss}, {'no epoch yet' if mean is None else f'last epoch mean {mean:.4f}'}")
    lines += [f"images       trained with {report.image_size} pixels"] if report.image_size else []
    lines += [f"assumed      {text}" for text in report.assumptions]
    return "\n".join(map(one_line, [*lines, *_left_over(report)]))


def _parts(report: LoadReport) -> str:
    """How many tensors each part of the encoder has got."""
    parts = Counter(place.partition(".")[0] for place in report.places.values())
    return f" ({', '.join(f'{count} {part}' for part, count in parts.items())})" if parts else ""


def _left_over(report: LoadReport) -> list[str]:
    """A line for each reason, with the keys that have it."""
    reasons: dict[str, list[str]] = {}
    for key, why in report.left_over.items():
        reasons.setdefault(why, []).append(key)
    few = {why: ", ".join(keys) if len(keys) <= 3 else f"{keys[0]} ... {keys[-1]} ({len(keys)})" for why, keys in reasons.items()}
    return [f"left over    {keys}: {why}" for why, keys in few.items()]
