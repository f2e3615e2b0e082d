"""Cards: everything that a store knows of one checkpoint, as data that the page draws when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ssa_analysis.reports.names import KEY_SCORES, label_of, labelled
from ssa_analysis.reports.payload import short
from ssa_analysis.reports.style import UNKNOWN, method_label
from ssa_analysis.reports.tables import with_error

from ssa_analysis.linking.comparison import error_kind
from ssa_analysis.scores import marks_of

BINS = 24  # of histograms
POINTS = 120  # of a curve
PIXELS = 31  # of a surface, each way
HISTORY = 60  # epochs of a training curve
NEEDED = ("sha256", "measure", "name", "value", "stderr", "low", "high", "unit", "converged", "settings", "arrays")
Row = Mapping[str, Any]  # of a store's table, with these


def card_id(sha256: str) -> str:
    """How the page refers to a checkpoint: the beginning of its hash."""
    return sha256[:16]


def make_cards(
    frame: pd.DataFrame, checkpoints: pd.DataFrame, failures: pd.DataFrame, history: pd.DataFrame, sheets: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Cards by :func:`card_id`, in the order of ``checkpoints``.

    Args:
        frame: a store's long table of one data set. checkpoints, failures: of the store. history: its training curves.
        sheets: hash -> name of the figure that shows the checkpoint's views.
    """
    columns = {name: frame[name].tolist() for name in NEEDED}  # row by row pandas would take ten times as long
    own: dict[str, list[Row]] = {}
    for values in zip(*columns.values(), strict=True):
        own.setdefault(values[0], []).append(dict(zip(NEEDED, values, strict=True)))
    places = _places(frame)
    failed = dict(iter(failures.groupby("checkpoint"))) if len(failures) else {}
    past = dict(iter(history.groupby("checkpoint"))) if len(history) else {}
    cards = {}
    for row in checkpoints.to_dict("records"):
        rows = own.get(row["sha256"], [])
        card = _origin(row)
        card["failures"] = (
            [[r["measure"], r["error"]] for r in failed[row["path"]].to_dict("records")] if row["path"] in failed else []
        )
        card["key"] = _key_scores(rows, places)
        card["scores"] = [_score(r) for r in rows]
        card["plots"] = _plots(rows)
        card["history"] = _history(past[row["checkpoint"]]) if row["checkpoint"] in past else {}
        card["sheet"] = sheets.get(row["sha256"], "")
        cards[card_id(row["sha256"])] = card
    return cards


def _origin(row: Mapping[str, Any]) -> dict[str, Any]:
    """Where a checkpoint is from and how it was read."""
    report = row["report"] if isinstance(row["report"], dict) else {}
    training = report.get("training") or {}
    return {
        "name": row["checkpoint"], "path": row["path"], "file": Path(row["path"]).name, "sha256": row["sha256"],
        "method": method_label(row["method"] or UNKNOWN), "architecture": row["arch"], "layout": row["layout"],
        "weights": report.get("parameters"), "projector": report.get("has_projector"), "classifier": report.get("has_classifier"),
        "assumptions": list(report.get("assumptions") or []), "left_over": dict(report.get("left_over") or {}),
        "recipe": _flat(training.get("settings") or {}),
        "training": {key: value for key, value in training.items() if key != "settings" and not isinstance(value, dict)},
        "trained_on": (training.get("data") or {}).get("name"),
    }  # fmt: skip


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names, as text."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return {key: value for key, value in found.items() if value is not None and value != ""}


def _places(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """For each key score: its label, which direction is good, and the rank of every checkpoint by hash."""
    found = {}
    for name in KEY_SCORES:
        measure, score = name.key.split(".")
        rows = frame[(frame["measure"] == measure) & (frame["name"] == score)]
        values = rows.set_index("sha256")["value"]
        values = values[np.isfinite(values)]
        if values.empty:
            continue
        ranks = values.rank(method="min", ascending=name.better != "high").astype(int).to_dict() if name.better else {}
        found[name.key] = {"label": labelled(frame, name.key), "better": name.better, "ranks": ranks, "of": len(values)}
    return found


def _key_scores(rows: Sequence[Row], places: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    by_key = {(r["measure"], r["name"]): r for r in rows}
    found = []
    for key, about in places.items():
        row = by_key.get(tuple(key.split(".", 1)))  # type: ignore[arg-type]
        if row is not None and np.isfinite(row["value"]):
            text = with_error(row["value"], row["stderr"], row["low"], row["high"]) + ("" if row["converged"] else " *")
            found.append({"key": key, "label": about["label"], "better": about["better"], "text": text,
                          "rank": about["ranks"].get(row["sha256"]), "of": about["of"]})  # fmt: skip
    return found


def _score(row: Row) -> list[Any]:
    """measure, name, label, value, stderr, low, high, unit, converged, kind of error, what must be said."""
    numbers = short([row["value"], row["stderr"], row["low"], row["high"]], 6)
    key = f"{row['measure']}.{row['name']}"
    note = str(row["settings"].get("mark") or "")
    return [row["measure"], row["name"], label_of(key), *numbers, row["unit"], bool(row["converged"]), error_kind(row), note]


def _plots(rows: Sequence[Row]) -> dict[str, Any]:
    """What is drawn on a card, by plot; plots of which nothing is known are left out."""
    scores = {(r["measure"], r["name"]): r for r in rows}
    found = {name: draw(scores) for name, draw in PLOTS.items()}
    return {name: content for name, content in found.items() if content}


Scores = Mapping[tuple[str, str], Row]


def _arrays(scores: Scores, measure: str, name: str, needed: str) -> dict[str, Any] | None:
    row = scores.get((measure, name))
    arrays = row["arrays"] if row is not None else None
    return arrays if isinstance(arrays, dict) and arrays.get(needed) else None


def _interval(row: Row) -> list[Any]:
    return list(short([row["value"], row["low"], row["high"]]))


def _thin(values: list[Any], count: int = POINTS) -> list[Any]:
    """At most ``count`` of the values, evenly, the last one with them."""
    if len(values) <= count:
        return list(values)
    return [values[i] for i in np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))]


def _eigenvalues(scores: Scores) -> list[Any]:
    found = [(int(name.split("_")[1]), row) for (measure, name), row in scores.items()
             if measure == "curvature" and name.startswith("lambda_") and name[7:].isdigit()]  # fmt: skip
    return [[number, *_interval(row)] for number, row in sorted(found, key=lambda item: item[0])]


def _density(scores: Scores) -> dict[str, Any]:
    arrays = _arrays(scores, "curvature", "negative_mass", "density")
    if arrays is None:
        return {}
    keys = {"eigenvalue": "x", "density": "y", "low": "low", "high": "high"}
    return {short_key: short(_thin(arrays[key])) for key, short_key in keys.items() if arrays.get(key)}


def _slices(scores: Scores) -> list[Any]:
    """Curves ``name, offsets, losses, lowest, highest``."""
    found = []
    if arrays := _arrays(scores, "landscape", "rise_full", "loss"):
        losses = np.ma.masked_invalid(np.array(arrays["loss"], float))
        ends = [np.ma.filled(part, np.nan) for part in (losses.mean(0), losses.min(0), losses.max(0))]
        found.append(["random directions", *(short(_thin(list(part))) for part in (arrays["offset"], *ends))])
    for number in range(1, 4):
        if arrays := _arrays(scores, "landscape", f"eigen_rise_{number}", "loss"):
            found.append([f"eigenvector {number}", short(_thin(arrays["offset"])), short(_thin(arrays["loss"])), None, None])
    if arrays := _arrays(scores, "landscape", "barrier", "loss"):
        found.append(["path to the other", short(_thin(arrays["offset"])), short(_thin(arrays["loss"])), None, None])
    return found


def _surface(scores: Scores) -> dict[str, Any]:
    arrays = _arrays(scores, "landscape", "rise_2d", "loss")
    if arrays is None:
        return {}
    x, y = arrays["offset"], arrays.get("second", arrays["offset"])
    across, down = (np.array(_thin(list(range(len(v))), PIXELS)) for v in (x, y))
    losses = np.array(arrays["loss"], float)[np.ix_(down, across)]
    return {"x": short([x[i] for i in across]), "y": short([y[i] for i in down]), "loss": short(losses)}


def _coordinates(scores: Scores) -> list[Any]:
    """``coordinate, value, low, high, p``."""
    return [[name.removeprefix("mmd2_").replace("_", " "), *_interval(row), short(row["settings"].get("p_value"))]
            for (measure, name), row in scores.items() if measure == "shift" and name.startswith("mmd2_")
            and "p_value" in row["settings"]]  # fmt: skip


def _similarities(scores: Scores) -> dict[str, Any]:
    arrays = _arrays(scores, "shift", "alignment_gap", "ideal")
    if arrays is None or not arrays.get("practical"):
        return {}
    edges = np.histogram_bin_edges(np.array([*arrays["ideal"], *arrays["practical"]], float), BINS)
    heights = {law: short(np.histogram(arrays[law], edges, density=True)[0]) for law in ("ideal", "practical")}
    return {"edges": short(edges), **heights}


def _corruptions(scores: Scores) -> dict[str, Any]:
    arrays = _arrays(scores, "robustness", "mean_error", "value")
    if arrays is None:
        return {}
    accuracy = 1 - np.array(arrays["value"], float)
    return {"corruption": arrays["corruption"], "severity": arrays["severity"], "accuracy": short(accuracy),
            "stderr": short(arrays["stderr"]), "clean": short(1 - arrays["clean"]),
            "note": marks_of([scores["robustness", "mean_error"]["settings"]])}  # fmt: skip


def _waterfall(scores: Scores) -> dict[str, Any]:
    """Steps from the trained probe's loss to the bound; the chain to the certificate where there is one."""
    for name in ("chain", "ideal_bound"):
        if arrays := _arrays(scores, "bounds", name, "step"):
            kept = [(s, v) for i, (s, v) in enumerate(zip(arrays["step"], arrays["value"], strict=True)) if v or not i]
            if name == "ideal_bound":
                kept = kept[:3]  # beyond stands what the practical pairs show
            return {"step": [s for s, _ in kept], "value": short([v for _, v in kept]),
                    "chance": short(scores["bounds", name]["settings"].get("chance"))}  # fmt: skip
    return {}


def _rungs(scores: Scores) -> list[Any]:
    """``rung, slack, low, high, verdict, statement``."""
    return [[name, *_interval(row), row["settings"]["verdict"], row["settings"]["statement"]]
            for (measure, name), row in scores.items() if measure == "bounds" and "verdict" in row["settings"]
            and "statement" in row["settings"]]  # fmt: skip


def _variants(scores: Scores) -> list[Any]:
    """``variant, group, shift, low, high``, the smallest first."""
    found = [
        [name, row["settings"]["group"], *_interval(row)]
        for (measure, name), row in scores.items()
        if measure == "views" and row["settings"].get("group") not in (None, "verdict") and np.isfinite(row["value"])
    ]
    return sorted(found, key=lambda item: item[2])


PLOTS: dict[str, Callable[[Scores], Any]] = {
    "eigenvalues": _eigenvalues,
    "density": _density,
    "slices": _slices,
    "surface": _surface,
    "coordinates": _coordinates,
    "similarities": _similarities,
    "variants": _variants,
    "corruptions": _corruptions,
    "waterfall": _waterfall,
    "rungs": _rungs,
}


def _history(rows: pd.DataFrame) -> dict[str, Any]:
    """Score -> ``epoch, value, low, high`` a row."""
    return {
        str(score): [
            short(list(row)) for row in _thin(list(part[["epoch", "value", "low", "high"]].itertuples(index=False)), HISTORY)
        ]
        for score, part in rows.sort_values("epoch").groupby("score", sort=False)
    }
