"""What the runs of a store wrote while they trained: losses and recorded scores, found beside the checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ssa_analysis.paths import ordinary

COLUMNS = ("checkpoint", "method", "epoch", "score", "value", "low", "high")
LONGEST = 10_000  # bytes of the row of its columns
LARGEST = 50 * 2**20  # bytes of a file that is read


def training_history(checkpoints: pd.DataFrame, beside: Path | None = None) -> pd.DataFrame:
    """Training curves of the checkpoints of a store, from the ``log.csv`` and ``records.csv`` in their folders.

    Args:
        checkpoints: ``Store.checkpoints()``. beside: the store's folder, where paths are looked for that lead nowhere from here.

    Returns:
        Columns ``COLUMNS``, a row a value: ``loss``, ``knn`` (an accuracy) and recorded scores as ``measure.name``. Runs without
        readable files are left out; of several checkpoints in a folder the last one stands for the run.
    """
    parts = []
    named = zip(checkpoints["path"], checkpoints["checkpoint"], checkpoints["method"], strict=True)
    folders = {_run_folder(Path(path)): (str(name), method) for path, name, method in named}
    for folder, (name, method) in folders.items():
        place = _found(folder, beside)
        if place is None:
            continue
        for part in (_log(place / "log.csv"), _records(place / "records.csv")):
            if not part.empty:
                parts.append(part.assign(checkpoint=name, method=method))
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    history: pd.DataFrame = pd.concat(parts, ignore_index=True)[list(COLUMNS)]
    return history.dropna(subset=["epoch", "value"]).reset_index(drop=True)


def _run_folder(path: Path) -> Path:
    """The folder of a run's logs; checkpoints that were kept along the way lie in ``epochs`` below it."""
    return path.parent.parent if path.parent.name == "epochs" else path.parent


def _found(folder: Path, beside: Path | None) -> Path | None:
    places = [folder] if folder.is_absolute() or beside is None else [folder, beside / folder]
    return next((p for p in places if ordinary(p / "log.csv") or ordinary(p / "records.csv")), None)


def _table(path: Path, needed: Iterable[str]) -> pd.DataFrame | None:
    """A CSV file, or None where there is none that holds the needed columns."""
    try:
        if not ordinary(path) or path.stat().st_size > LARGEST:
            return None
        with open(path, "rb") as stream:
            if len(stream.readline(LONGEST + 1)) > LONGEST:  # a file of nothing but columns takes hours
                return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table: pd.DataFrame = pd.read_csv(path, low_memory=False)
    except (OSError, ValueError, OverflowError, RecursionError):  # pandas' own errors on malformed files are ValueErrors
        return None
    return table if set(needed) <= set(table.columns) else None


def _numbers(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values, errors="coerce").astype(float)


def _log(path: Path) -> pd.DataFrame:
    table = _table(path, ("epoch", "loss"))
    if table is None:
        return pd.DataFrame()
    parts = [
        pd.DataFrame({"epoch": _numbers(table["epoch"]), "score": name, "value": _numbers(table[name])})
        for name in ("loss", "knn")
        if name in table
    ]
    return pd.concat(parts).assign(low=np.nan, high=np.nan)


def _records(path: Path) -> pd.DataFrame:
    table = _table(path, ("epoch", "measure", "name", "value", "low", "high"))
    if table is None:
        return pd.DataFrame()
    numbers = {column: _numbers(table[column]) for column in ("epoch", "value", "low", "high")}
    return pd.DataFrame({**numbers, "score": table["measure"].astype(str) + "." + table["name"].astype(str)})
