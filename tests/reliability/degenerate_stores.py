"""Degenerate stores, and what may come of linking, judging, predicting, comparing and reporting them."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scores_by_hand import fill, names_of, scores_of, table_of
from ssa_analysis.reports.html import write_report

from ssa_analysis.errors import SSAError
from ssa_analysis.linking.comparison import compare
from ssa_analysis.linking.hypotheses import HypothesisSettings, judge
from ssa_analysis.linking.links import link_scores
from ssa_analysis.linking.prediction import predictions
from ssa_analysis.linking.table import design_of, wide_table
from ssa_analysis.running.store import Store
from ssa_analysis.scores import Score

TARGET = "downstream.probe_accuracy"
COUNTS = (4, 3, 1, 2, 8, 0, 5)
UNKNOWN = {"value": math.nan, "stderr": math.nan, "low": math.nan, "high": math.nan, "converged": False}


def _others(change: Callable[[int, float], float]) -> Callable[[int, Score], Score]:
    """Every score but the downstream ones: number of the checkpoint and value -> value."""
    return lambda number, s: s if s.measure == "downstream" else dataclasses.replace(s, value=change(number, s.value))


def _target(change: Callable[[int, float], float]) -> Callable[[int, Score], Score]:
    return lambda number, s: dataclasses.replace(s, value=change(number, s.value)) if s.measure == "downstream" else s


STORES: dict[str, Callable[[int, Score], Score]] = {
    "scores x 1e200": _others(lambda n, v: v * 1e200),
    "one target": _target(lambda n, v: 0.5),
    "no number": lambda n, s: dataclasses.replace(s, **UNKNOWN) if s.measure != "downstream" else s,
    "one number": lambda n, s: dataclasses.replace(s, value=0.5),
    "nothing is wrong": lambda n, s: s,
    "constant scores": _others(lambda n, v: 1.0),
    "zeros": _others(lambda n, v: 0.0),
    "every second is NaN": _others(lambda n, v: math.nan if n % 2 else v),
    "a score is infinite": _others(lambda n, v: math.inf if n == 1 else v),
    "no target": _target(lambda n, v: math.nan),
    "a target is NaN": _target(lambda n, v: math.nan if n == 0 else v),
    "ties": lambda n, s: dataclasses.replace(s, value=round(s.value + n // 2 * 0.3, 1)),
    "scores x 1e-300": _others(lambda n, v: v * 1e-300),
    "differences of 1e-15": _others(lambda n, v: 1 + v * 1e-15),
    "a million and differences of 1e-6": _others(lambda n, v: 1e6 + v * 1e-6),
}


def store_of(count: int, name: str) -> dict[str, tuple[str, list[Score]]]:
    """Checkpoint -> method and scores."""
    made = {}
    for number, (checkpoint, method) in enumerate(names_of(count).items()):
        made[checkpoint] = (method, [STORES[name](number, score) for score in scores_of(number)])
    return made


def _linked(frame: pd.DataFrame) -> str:
    links = link_scores(frame, TARGET, draws=50, permutations=19, deep=("curvature.trace",))
    broken = [link.score for link in links if not (math.isfinite(link.spearman.value) and math.isfinite(link.pearson.value))]
    outside = [link.score for link in links if not -1 - 1e-9 <= link.pearson.value <= 1 + 1e-9]
    return f"no coefficient of {broken[0]}" if broken else f"a correlation beyond one of {outside[0]}" if outside else ""


def _judged(frame: pd.DataFrame) -> str:
    judge(frame, HypothesisSettings(draws=20, permutations=19))
    return ""


def _predicted(frame: pd.DataFrame) -> str:
    table = wide_table(frame)
    if TARGET not in table:
        return ""
    known = table[table[TARGET].notna()]
    sets = {"trace": ("curvature.trace",), "more": ("curvature.trace", "flatness.worst_case", "shift.gaussian_w2")}
    found = predictions(known, known[TARGET].to_numpy(), design_of(frame, list(known.index)), sets, draws=20)
    broken = [p.name for p in found if not (np.isfinite(p.predicted).all() and math.isfinite(p.r2.value))]
    return f"no prediction from {broken[0]}" if broken else ""


def _compared(frame: pd.DataFrame) -> str:
    names = list(dict.fromkeys(frame["checkpoint"]))
    return "" if len(names) < 2 or len(compare(frame, names[0], names[1])) else "nothing compared"


ACTIONS = {"linking": _linked, "judging": _judged, "predicting": _predicted, "comparing": _compared}
EVERY = [(count, name, action) for count in COUNTS for name in STORES for action in ACTIONS]
REPORTS = [
    (count, name) for count in (2, 1, 3, 4) for name in ("no number", "one number", "a score is infinite", "zeros", "one target")
]


def tried(count: int, name: str, action: str) -> tuple[str, str]:
    """What was seen, and what should not have been; a warning is an error."""
    frame = table_of(store_of(count, name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return "numbers", ACTIONS[action](frame)
        except SSAError as error:
            return "said why not", "" if len(str(error)) > 20 and "\n" not in str(error) else f"says too little: {error}"
        except Exception as error:
            return "another exception", f"{type(error).__name__}: {error}"


def reported(count: int, name: str, folder: Path) -> tuple[str, str]:
    """Whether the page of such a store is written."""
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with Store(folder / "scores.db") as store:
                for checkpoint, (method, scores) in store_of(count, name).items():
                    fill(store, checkpoint, method, scores)
                page = write_report(store, folder / "report")
            text = page.read_text(encoding="utf-8")
        except Exception as error:
            return "no page", f"{type(error).__name__}: {error}"
    return "pages", "" if len(text) > 10_000 else "the page is empty"
