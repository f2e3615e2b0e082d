"""``ssa-analyze doctor``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import click
from ssa_analysis.cli.common import (
    EXIT_FAILED,
    data_options,
    device_option,
    json_option,
    model_options,
    print_json,
    resolve_device,
)

from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.diagnosis.findings import BROKEN, OK, SUSPICIOUS, VERDICTS, Finding
from ssa_analysis.running.plan import DataSpec, loaded_data
from ssa_analysis.texts import one_line

COLOURS = {OK: "green", SUSPICIOUS: "yellow", BROKEN: "red"}


@click.command()
@click.argument("file", type=click.Path())
@data_options
@model_options
@click.option("--images", type=click.IntRange(min=8), help="Images to run it on; default: 256, or 64 of more than 64 pixels.")
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@device_option
@click.option("--brief", is_flag=True, help="Only the verdicts, not how they are known.")
@json_option("the findings")
def command(
    file: str, data: str, data_root: str | None, subset: int | None, image_size: int | None, no_download: bool,
    options: LoadOptions, images: int | None, seed: int, device: str, brief: bool, as_json: bool,
) -> None:  # fmt: skip
    """Check a checkpoint FILE on images like those of its training. Exit code 1 if something is broken.

    Weights that are no numbers, zero or never trained; BatchNorm's statistics against the images, which tell a wrong
    normalisation, padding, stride, max-pooling or missing ReLU; features and embeddings that have collapsed, dead units;
    a missing projector; a classifier at chance.

    \b
    Example:
      ssa-analyze doctor runs/a/last.pt --data digits
      ssa-analyze doctor resnet18.pth --data images/ --image-size 16 --normalise half
    """
    from ssa_analysis.diagnosis import diagnose

    findings = diagnose(
        file, loaded_data(DataSpec(data, data_root, subset, image_size, not no_download)), options, images, seed,
        resolve_device(device),
    )  # fmt: skip
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            click.echo(_line(replace(finding, seen=one_line(finding.seen), how=one_line(finding.how)), brief))
        counts = Counter(finding.verdict for finding in findings)
        click.echo(", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]))
    if any(finding.verdict == BROKEN for finding in findings):
        raise click.exceptions.Exit(EXIT_FAILED)


def _line(finding: Finding, brief: bool) -> str:
    verdict = click.style(f"{finding.verdict:10}", fg=COLOURS.get(finding.verdict))
    line = f"{verdict}  {finding.check:20}  {finding.seen}"
    return line if brief or not finding.how else f"{line}\n{'':34}how: {finding.how}"
