"""Contact sheets of views: one for every recipe that checkpoints of a store were trained with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.sheet import view_tiles
from ssa_analysis.data.views import ViewRecipe, named_recipe
from ssa_analysis.errors import SSAError
from ssa_analysis.training.loop import training_recipe
from ssa_analysis.training.settings import settings_from_dict

MOST = 6  # sheets; recipes that fewer checkpoints have go without


@dataclass(frozen=True)
class Sheet:
    """Tiles of one recipe, what it is called, and the hashes of the checkpoints that have it."""

    title: str
    tiles: pd.DataFrame
    checkpoints: tuple[str, ...]


def view_sheets(checkpoints: pd.DataFrame, data: Data) -> Iterator[Sheet]:
    """Sheets of the recipes of a store's checkpoints, the most common first.

    Checkpoints whose file does not say how they were trained are shown with the data set's own recipe, as the measures take it.
    """
    groups: dict[ViewRecipe, list[str]] = {}
    for sha256, report in zip(checkpoints["sha256"], checkpoints["report"], strict=True):
        groups.setdefault(_recipe(report, data), []).append(sha256)
    picked = data.splits.get("held-out", next(iter(data.splits.values())))[:64]
    labels = data.labels[picked] if data.labelled else None
    for recipe, hashes in sorted(groups.items(), key=lambda item: -len(item[1]))[:MOST]:
        yield Sheet(_title(recipe), view_tiles(data.images[picked], recipe, labels=labels), tuple(hashes))


def _recipe(report: Any, data: Data) -> ViewRecipe:
    training = (report or {}).get("training") or {}
    try:
        return training_recipe(settings_from_dict(training["settings"]), data)
    except (SSAError, KeyError, TypeError, ValueError):
        return named_recipe(data.recipe)


def _title(recipe: ViewRecipe) -> str:
    parts = [f"crops from {recipe.crop_low:.0%}" if recipe.crop_low < 1 else "no crops"]
    parts += [f"jitter {recipe.brightness:g}/{recipe.contrast:g}/{recipe.saturation:g}/{recipe.hue:g}"] if recipe.jitter else []
    parts += [f"{name} {getattr(recipe, name):g}" for name in ("flip", "gray", "blur", "rotate") if getattr(recipe, name)]
    fourier = recipe.fourier
    parts.append("no Fourier" if fourier is None else f"Fourier, α {fourier.alpha:g}")
    return ", ".join(parts)
