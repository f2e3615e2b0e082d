"""Two checkpoints side by side: every score that both have, its difference, and whether that is more than its error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from ssa_analysis.errors import DataError
from ssa_analysis.registry import unknown_name

COLUMNS = ("score", "unit", "first", "second", "difference", "low", "high", "separable", "error")


def find_checkpoint(frame: pd.DataFrame, text: str) -> str:
    """The name of a checkpoint of a store's frame, by its name, its path or the beginning of its hash.

    Raises:
        SettingsError: none, with suggestions. DataError: several.
    """
    known = frame.drop_duplicates("checkpoint")
    exact = known[(known["checkpoint"] == text) | (known["path"] == text)]
    found = exact if len(exact) else known[known["sha256"].str.startswith(text)] if len(text) >= 6 else exact
    if found.empty:
        raise unknown_name("checkpoint", text, list(known["checkpoint"]))
    if len(found) > 1:
        raise DataError(f"{text!r} stands for {len(found)} checkpoints: {', '.join(found['checkpoint'])}")
    return str(found["checkpoint"].iloc[0])


def compare(frame: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """The scores that two checkpoints of a store's frame share, a row each.

    Returns:
        Columns ``COLUMNS``: ``difference`` is second minus first, with a 95 % interval ``low``, ``high`` (equal to it where both
        are exact, NaN where an error is unknown); ``separable`` whether that leaves out 0; ``error`` how it comes about: standard
        errors, taken as independent; bounds or intervals, the worst case of both; ``exact``; or ``unknown``. Scores on shared
        images vary together, so that differences are in truth sharper than this.

    Raises:
        SettingsError, DataError: as of :func:`find_checkpoint`; DataError too where they share no score.
    """
    names = find_checkpoint(frame, first), find_checkpoint(frame, second)
    keys = ["data", "measure", "name"]
    sides = [frame[frame["checkpoint"] == name].drop_duplicates(keys, keep="last").set_index(keys) for name in names]
    shared = [key for key in sides[0].index if key in sides[1].index]
    if not shared:
        raise DataError(f"{names[0]} and {names[1]} share no score")
    several = len({data for data, _, _ in shared}) > 1
    rows = []
    for key in shared:
        a, b = (side.loc[key] for side in sides)
        label = f"{key[1]}.{key[2]}" + (f" ({key[0]})" if several else "")
        rows.append({"score": label, "unit": a["unit"], "first": a["value"], "second": b["value"], **_difference(a, b)})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _difference(a: Any, b: Any) -> dict[str, Any]:
    difference = float(b["value"] - a["value"])
    kinds = [error_kind(side) for side in (a, b)]
    if "unknown" in kinds:
        low = high = float("nan")
        error = "unknown"
    elif kinds == ["exact", "exact"]:
        low = high = difference
        error = "exact"
    elif "bounds" in kinds:
        (a_low, a_high), (b_low, b_high) = (_ends(side, kind) for side, kind in zip((a, b), kinds, strict=True))
        low, high, error = b_low - a_high, b_high - a_low, "bounds"
    else:
        errors = [0.0 if kind == "exact" else float(side["stderr"]) for side, kind in zip((a, b), kinds, strict=True)]
        spread = 1.96 * math.hypot(*errors)
        low, high, error = difference - spread, difference + spread, "standard errors"
    separable = bool(low > 0 or high < 0)
    return {"difference": difference, "low": low, "high": high, "separable": separable, "error": error}


def _ends(score: Any, kind: str) -> tuple[float, float]:
    return (float(score["value"]),) * 2 if kind == "exact" else (float(score["low"]), float(score["high"]))


def error_kind(score: Any) -> str:
    """How a score's error is known, from its value, stderr, low, high and settings.

    ``standard error``, ``bounds`` (low and high alone), ``exact``, or ``unknown``.
    """
    if not np.isfinite(score["value"]):
        return "unknown"
    if np.isfinite(score["stderr"]):
        return "standard error"
    if np.isfinite(score["low"]) and np.isfinite(score["high"]):
        return "bounds"
    return "exact" if score["settings"].get("error") == "exact" else "unknown"
