"""``ssa-analyze inspect``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from ssa_analysis.cli.common import model_options

from ssa_analysis.checkpoints.loading import LoadReport, load_checkpoint
from ssa_analysis.checkpoints.options import LoadOptions

SURE = {
    "certain": "certain: no other project writes such names",
    "likely": "likely: by its names",
    "named": "as you say",
    "guess": "a guess: many projects write such names",
}


@click.command()
@click.argument("file", type=click.Path())
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print the load report as JSON on stdout.")
def command(file: str, options: LoadOptions, as_json: bool) -> None:
    """Say what a checkpoint FILE holds, how it was recognised, and what was assumed. Nothing in it is executed.

    The file of --model is yours and is executed.

    \b
    Example:
      ssa-analyze inspect runs/a/last.pt
    """
    report = load_checkpoint(file, options).report
    click.echo(json.dumps(asdict(report), indent=1) if as_json else describe(report))


def describe(report: LoadReport) -> str:
    """A load report as text."""
    projector = "yes" if report.has_projector else "no (measures of the contrastive loss and the embedding need one)"
    lines = [
        f"file         {report.path}",
        f"sha256       {report.sha256}",
        f"layout       {report.layout}{f' ({SURE[report.certainty]})' if report.certainty else ''}",
        f"encoder      {report.arch}",
        f"weights      {report.parameters:,} in {report.tensors} tensors, all placed, all finite",
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
    lines += [f"assumed      {text}" for text in report.assumptions]
    lines += [f"left over    {key}: {why}" for key, why in report.left_over.items()]
    return "\n".join(lines)
