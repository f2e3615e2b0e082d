"""``ssa-analyze list``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click
from ssa_analysis.cli.common import json_option, print_json, warn
from ssa_analysis.cli.loudness import put

from ssa_analysis.registry import Registry

KINDS = ("measures", "datasets", "layouts", "methods", "executors")


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@json_option("the list, with what else is known of each,")
def command(kind: str, as_json: bool) -> None:
    """List what there is of a KIND, with one line on each; for measures, their settings and defaults too.

    What other packages add is there, too; an entry of theirs that cannot be used is named on stderr.

    \b
    Example:
      ssa-analyze list measures
      ssa-analyze list layouts --json
    """
    found = rows(kind)
    if as_json:
        print_json(found)
    else:
        for row in found:
            put(f"{row['name']:20} {row['summary']}")
            if row.get("settings"):
                put(f"{'':20}   {', '.join(f'{name}={value}' for name, value in row['settings'].items())}")
            if row.get("options"):
                put(f"{'':20}   options: {', '.join(row['options'])}")
    table = registry_of(kind)
    for problem in table.problems if table is not None else []:
        warn(problem)


def rows(kind: str) -> list[dict[str, Any]]:
    """What there is: name, summary, and what else is told of this kind."""
    if kind == "methods":
        from ssa_analysis.training.settings import METHODS

        return [{"name": n, "summary": r.summary, "sam": r.sharpness_aware, "fourier": r.fourier} for n, r in METHODS.items()]
    found = [{"name": name, "summary": row.summary, **details(kind, row)} for name, row in registry_of(kind) or ()]
    if kind == "datasets":
        found.append({"name": "FOLDER", "summary": "class-per-folder images"})
        found.append({"name": "FILE.npz", "summary": "x, y arrays"})
    return found


def details(kind: str, row: Any) -> dict[str, Any]:
    """What is told of an entry besides its summary."""
    if kind == "measures":
        settings = {f.name: f.default for f in fields(row.settings)}
        return {"settings": settings, "by_default": row.by_default, "revision": row.revision}
    if kind == "datasets":
        return {"recipe": row.recipe, "mean": row.mean, "std": row.std}
    if kind == "layouts":
        return {"source": row.source, "family": row.family, "certainty": row.certainty, "normalisation": row.recipe.normalisation}
    return {"options": row.options}


def registry_of(kind: str) -> Registry[Any] | None:
    """The table that other packages may add to; None for methods."""
    if kind == "measures":
        from ssa_analysis.running.plan import MEASURES

        return MEASURES
    if kind == "datasets":
        from ssa_analysis.data.datasets import DATASETS

        return DATASETS
    if kind == "layouts":
        from ssa_analysis.checkpoints.layouts import LAYOUTS

        return LAYOUTS
    if kind == "executors":
        from ssa_analysis.running.executors import EXECUTORS

        return EXECUTORS
    return None
