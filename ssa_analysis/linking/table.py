"""From a store's long table to what is linked: checkpoints x scores, and how the checkpoints were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ssa_analysis.scores import marks_of
from ssa_analysis.training.settings import hyperparameters

METHOD_SETTINGS = ("rho", "adaptive", "alpha", "window", "share", "swap", "partner")  # what the four methods differ in
UNKNOWN = "unknown"


def wide_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Checkpoints x ``measure.name`` values, from the long table of a store; not-finite values are missing."""
    labelled = frame.assign(score=frame["measure"] + "." + frame["name"])
    table = labelled.pivot_table(index="checkpoint", columns="score", values="value", aggfunc="last", sort=False)
    return table.replace([np.inf, -np.inf], np.nan)


def mixed_images(frame: pd.DataFrame) -> list[str]:
    """Measures whose scores were taken on different images of one data set (other subsets, say), by name."""
    prints = frame["settings"].map(lambda s: s.get("data_fingerprint"))
    seen = set(zip(frame["data"], frame["measure"], prints, strict=True))
    pairs = [(data, measure) for data, measure, _ in seen]
    return sorted({measure for data, measure in pairs if pairs.count((data, measure)) > 1})


def note_of(frame: pd.DataFrame, score: str) -> str:
    """What must be said of the values of ``measure.name`` in a store's long table; nothing without a column ``settings``."""
    if "settings" not in frame:
        return ""
    measure, _, name = score.partition(".")
    return marks_of(frame.loc[(frame["measure"] == measure) & (frame["name"] == name), "settings"])


def notes_of(frame: pd.DataFrame) -> dict[str, str]:
    """:func:`note_of` every score of a store's long table that there is something to say of."""
    if "settings" not in frame:
        return {}
    marked = np.array([bool(settings.get("mark")) for settings in frame["settings"]], dtype=bool)
    scores = frame.loc[marked, ["measure", "name"]].drop_duplicates()
    groups = frame.groupby(["measure", "name"], sort=False)["settings"]
    return {f"{measure}.{name}": marks_of(groups.get_group((measure, name))) for measure, name in scores.itertuples(index=False)}


@dataclass(frozen=True)
class Design:
    """How n checkpoints were made: which are repetitions of one configuration, and in what the configurations differ.

    Attributes:
        settings: ``(n, h)`` the hyper-parameters that differ among the checkpoints, as text; index: the checkpoints.
        configuration: ``(n,)`` number of each checkpoint's configuration: all settings but the seed. A checkpoint of which
            the file says nothing is a configuration of its own.
        method: ``(n,)`` names. seed: ``(n,)``, -1 where it is not known.
        loss: ``(n,)`` training loss of the last epoch, NaN where it is not known.
    """

    settings: pd.DataFrame
    configuration: np.ndarray
    method: np.ndarray
    seed: np.ndarray
    loss: np.ndarray

    @property
    def configurations(self) -> int:
        """How many different ones there are."""
        return int(self.configuration.max()) + 1 if len(self.configuration) else 0

    def of(self, checkpoints: Sequence[str]) -> Design:
        """The design of the named checkpoints, in their order."""
        return self.take(self.settings.index.get_indexer(pd.Index(checkpoints)))

    @property
    def nuisance(self) -> list[str]:
        """The differing settings that are no part of the method: learning rate, temperature, ..."""
        return [name for name in self.settings.columns if name not in METHOD_SETTINGS]

    def groups(self, columns: Sequence[str]) -> np.ndarray:
        """``(n,)`` numbers of the groups of checkpoints that agree in the columns; one group without columns."""
        if not len(columns):
            return np.zeros(len(self.settings), dtype=int)
        return np.asarray(self.settings.groupby(list(columns), sort=False).ngroup())

    def take(self, rows: np.ndarray) -> Design:
        """The design of some of the checkpoints (bool mask or indices); settings that no longer differ are dropped."""
        settings = self.settings.iloc[np.flatnonzero(rows) if rows.dtype == bool else rows]
        settings = settings[[c for c in settings.columns if settings[c].nunique() > 1]]
        _, configuration = np.unique(self.configuration[rows], return_inverse=True)
        return Design(settings, configuration, self.method[rows], self.seed[rows], self.loss[rows])


def design_of(frame: pd.DataFrame, checkpoints: Sequence[str] | None = None) -> Design:
    """The design of the checkpoints of a store's long table, in the order named (default: that of the table)."""
    first = frame.drop_duplicates("checkpoint").set_index("checkpoint")
    names = list(first.index if checkpoints is None else checkpoints)
    trainings: list[dict[str, Any]] = list(first["training"].reindex(names)) if "training" in first else [{}] * len(names)
    trainings = [training if isinstance(training, dict) else {} for training in trainings]
    rows: list[dict[str, Any]] = []
    known: dict[str, dict[str, Any]] = {}  # by all settings but the seed
    for number, training in enumerate(trainings):
        if training.get("settings"):
            key = repr({name: value for name, value in training["settings"].items() if name != "seed"})
            row = known[key] = known.get(key) or hyperparameters(training["settings"])
            rows.append({**row, "epochs": training.get("epoch", row["epochs"])})
        else:
            rows.append({"file": number})
    settings = pd.DataFrame(rows, index=pd.Index(names, name="checkpoint")).astype(object)
    settings = settings.where(settings.notna(), "default" if "file" not in settings else UNKNOWN).map(str)
    configuration = (
        np.asarray(settings.groupby(list(settings.columns), sort=False).ngroup())
        if len(settings.columns)
        else np.arange(len(names))
    )
    varying = [c for c in settings.columns if c != "file" and settings[c].nunique() > 1]
    seeds = [training.get("settings", {}).get("seed", -1) for training in trainings]
    losses = [training.get("loss") for training in trainings]
    method = first["method"].reindex(names).fillna(UNKNOWN) if "method" in first else pd.Series(UNKNOWN, names)
    return Design(
        settings[varying], configuration, np.asarray(method, dtype=str), np.asarray(seeds, dtype=int),
        np.asarray([np.nan if loss is None else loss for loss in losses], dtype=float),
    )  # fmt: skip
