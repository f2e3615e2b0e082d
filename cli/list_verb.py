"""``ssa-analyze list``."""

from __future__ import annotations

from dataclasses import fields

import click

KINDS = ("measures", "datasets", "layouts", "methods", "executors")


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
def command(kind: str) -> None:
    """List what there is of a KIND, with one line on each; for measures, their settings and defaults too.

    \b
    Example:
      ssa-analyze list measures
    """
    for name, summary in rows(kind):
        click.echo(f"{name:20} {summary}")


def rows(kind: str) -> list[tuple[str, str]]:
    """Names and summaries."""
    if kind == "measures":
        from ssa_analysis.running.plan import MEASURES

        return [
            (name, f"{row.summary}\n{'':20}   {', '.join(f'{f.name}={f.default}' for f in fields(row.settings))}")
            for name, row in MEASURES
        ]
    if kind == "datasets":
        from ssa_analysis.data.datasets import DATASETS

        return [
            *((name, row.summary) for name, row in DATASETS),
            ("FOLDER", "class-per-folder images"),
            ("FILE.npz", "x, y arrays"),
        ]
    if kind == "layouts":
        from ssa_analysis.checkpoints.layouts import LAYOUTS

        return [(name, row.summary) for name, row in LAYOUTS]
    if kind == "executors":
        from ssa_analysis.running.executors import EXECUTORS

        return [
            (name, f"{row.summary}" + (f"\n{'':20}   options: {', '.join(row.options)}" if row.options else ""))
            for name, row in EXECUTORS
        ]
    from ssa_analysis.training.settings import METHODS

    return [(name, row.summary) for name, row in METHODS.items()]
