"""The score store: one SQLite file, written cell by cell, so that nothing computed is ever lost."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from ssa_analysis.errors import StoreError
from ssa_analysis.measures import MEASURES
from ssa_analysis.paths import expanded, ordinary, resolved
from ssa_analysis.running.columns import number_of, table_of, text_of, whole_number_of
from ssa_analysis.running.environment import environment, environment_id
from ssa_analysis.running.plan import Cell, CellResult
from ssa_analysis.scores import Score
from ssa_analysis.texts import one_line, whole

SCHEMA_VERSION = 1
BUSY = 30.0  # seconds that another process may hold the file before it is said
PATIENCE = 600.0  # seconds that a result waits to be written, since it may have taken hours
_SCHEMA = """
CREATE TABLE IF NOT EXISTS checkpoints (
    sha256 TEXT PRIMARY KEY, path TEXT NOT NULL, layout TEXT, arch TEXT, method TEXT, report TEXT
);
CREATE TABLE IF NOT EXISTS environments (id TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cells (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL REFERENCES checkpoints,
    measure TEXT NOT NULL, settings TEXT NOT NULL, seed INTEGER NOT NULL, data TEXT NOT NULL,
    data_fingerprint TEXT NOT NULL, code_version TEXT NOT NULL, status TEXT NOT NULL, error TEXT,
    seconds REAL NOT NULL, finished REAL NOT NULL, environment TEXT NOT NULL REFERENCES environments
);
CREATE TABLE IF NOT EXISTS scores (
    cell INTEGER NOT NULL REFERENCES cells ON DELETE CASCADE, name TEXT NOT NULL, value REAL, unit TEXT NOT NULL,
    stderr REAL, low REAL, high REAL, converged INTEGER NOT NULL, settings TEXT NOT NULL, arrays TEXT NOT NULL,
    PRIMARY KEY (cell, name)
);
"""
SCORE_COLUMNS = (
    "checkpoint", "path", "sha256", "method", "data", "measure", "name", "value", "stderr", "low", "high", "unit",
    "converged", "seed", "seconds", "code_version", "settings", "arrays", "environment", "epoch", "run", "training",
)  # fmt: skip


_COLUMNS = {
    "checkpoints": {"sha256", "path", "layout", "arch", "method", "report"},
    "environments": {"id", "content"},
    "cells": {
        "id", "key", "sha256", "measure", "settings", "seed", "data", "data_fingerprint", "code_version", "status", "error",
        "seconds", "finished", "environment",
    },
    "scores": {"cell", "name", "value", "unit", "stderr", "low", "high", "converged", "settings", "arrays"},
}  # fmt: skip


def short_names(paths: Mapping[str, str]) -> dict[str, str]:
    """Readable, distinct names for checkpoints: the run folder for ``.../NAME/last.pt``, else the file's stem.

    Names that coincide get more of their path, and in the end a piece of their hash.

    Args:
        paths: hash -> path.
    """

    def parts_of(path: str) -> list[str]:
        p = Path(one_line(path))
        parts = [x for x in (*p.parent.parts, p.stem) if x not in ("/", "..", ".")]
        return parts[:-1] if p.stem == "last" and len(parts) > 1 else parts

    split = {key: parts_of(path) for key, path in paths.items()}
    depth = dict.fromkeys(paths, 1)
    while True:
        names = {key: "/".join(parts[-depth[key] :]) for key, parts in split.items()}
        groups: dict[str, list[str]] = {}
        for key, name in names.items():
            groups.setdefault(name, []).append(key)
        growing = [k for g in groups.values() if len(g) > 1 for k in g if depth[k] < len(split[k])]
        if not growing:
            return {k: n if len(groups[n]) == 1 else f"{n}@{k[:6]}" for k, n in names.items()}
        for key in growing:
            depth[key] += 1


class Store:
    """A score store on disk.

    Args:
        path: created if absent, unless ``must_exist``.
        tell: is told that another process holds the file while a result waits.

    Raises:
        StoreError: not there, not a store, read-only, or of a newer version.
    """

    def __init__(self, path: str | Path, *, must_exist: bool = False, tell: Callable[[str], None] = lambda text: None) -> None:
        self.path, self._tell = expanded(path), tell
        if must_exist and not ordinary(self.path):
            raise StoreError(f"{self.path}: no such store; ssa-analyze score writes one")
        if not must_exist and not resolved(self.path.parent).is_dir():
            raise StoreError(f"{self.path}: the folder {self.path.parent} does not exist")
        self.read_only = must_exist and not os.access(self.path, os.W_OK)
        mode = "ro" if self.read_only else "rwc"
        with self._explained():
            address = f"{resolved(self.path).as_uri()}?mode={mode}"
            self._db = sqlite3.connect(address, uri=True, timeout=BUSY, isolation_level=None)
        try:
            with self._explained():
                self._db.execute("PRAGMA trusted_schema = OFF")
                self._db.execute("PRAGMA foreign_keys = ON")
                if must_exist:
                    self._check(empty_is_fine=False)
                else:
                    self._prepare_to_write()
        except BaseException:
            self._db.close()
            raise

    def _check(self, empty_is_fine: bool) -> bool:
        """StoreError unless this is a store that we understand; whether it is an empty file that may become one."""
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(f"{self.path}: written by a newer ssa-analyze (store version {version})")
        if version:
            self._check_tables()
            return False
        if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StoreError(f"{self.path}: a database of another program")
        if not empty_is_fine:
            raise StoreError(f"{self.path}: an empty database, not a store; ssa-analyze score writes one")
        return True

    def _check_tables(self) -> None:
        """StoreError unless the tables are plain ones with our columns: views and triggers of somebody else would run as we read
        or write."""
        for kind, name, sql in self._db.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
            if not (kind == "table" or (kind == "index" and sql is None)) or (sql or "").lstrip().upper().startswith(
                "CREATE VIRTUAL"
            ):
                raise StoreError(f"{self.path}: holds a {kind} {name!r:.60}, which no store has")
        for table, columns in _COLUMNS.items():
            found = {row[1]: row[6] for row in self._db.execute(f"PRAGMA table_xinfo({table})").fetchall()}
            if set(found) != columns or any(found.values()):  # a hidden one is computed by an expression
                raise StoreError(f"{self.path}: its table {table} has not the columns of a store's")

    def _prepare_to_write(self) -> None:
        """Create the tables in a new file; fail now, and not after hours of computing, where nothing can be written."""
        self._db.execute("BEGIN IMMEDIATE")  # two processes may meet here
        is_new = self._check(empty_is_fine=True)
        if is_new:
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
        # SQLite opens a read-only file without a word; only a write finds it out
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._db.execute("COMMIT" if is_new else "ROLLBACK")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            hints = {
                "readonly": "the file or folder is read-only",
                "unable to open": "it cannot be opened or created there",
                "locked": "another process holds it; try again when that has ended",
                "full": "the disk is full; free some space and run the command again, what is stored already is kept",
                "not a database": "it is not a score store",
                "malformed": "the file is damaged",
            }
            text = next((hint for word, hint in hints.items() if word in str(error)), str(error))
            raise StoreError(f"{self.path}: {text}") from error
        except UnicodeDecodeError as error:  # SQLite's own words about a damaged file, which quote it
            raise StoreError(f"{self.path}: the file is damaged") from error

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """What is read may have been written by anybody: StoreError where it is not what a store holds."""
        try:
            with self._explained():
                yield
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            raise StoreError(f"{self.path}: holds what no ssa-analyze has written ({what})") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def has(self, cell: Cell) -> bool:
        """Whether the cell was computed without error."""
        with self._explained():
            row = self._patiently("SELECT status FROM cells WHERE key = ?", cell.key).fetchone()
        return row is not None and row[0] == "ok"

    def write(self, result: CellResult) -> None:
        """Store one cell in one transaction; a failed cell never replaces a good one."""
        cell, report, now = result.cell, result.report, time.time()
        content = environment()
        status = "failed" if result.error else "ok"
        with self._explained():
            self._patiently("BEGIN IMMEDIATE")
            try:
                if result.error and self.has(cell):
                    self._db.execute("ROLLBACK")
                    return
                described = (
                    (whole(report.layout), whole(report.arch), whole(report.method), json.dumps(_report_dict(report)))
                    if report
                    else (None,) * 4
                )
                self._db.execute(
                    "INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (sha256) DO UPDATE SET "
                    "path = excluded.path, layout = coalesce(excluded.layout, layout), arch = coalesce(excluded.arch, arch), "
                    "method = coalesce(excluded.method, method), report = coalesce(excluded.report, report)",
                    (cell.sha256, whole(cell.path), *described),
                )
                identity = environment_id(content)
                self._db.execute(
                    "INSERT OR IGNORE INTO environments VALUES (?, ?)", (identity, json.dumps(content, sort_keys=True))
                )
                self._db.execute("DELETE FROM cells WHERE key = ?", (cell.key,))
                row = self._db.execute(
                    "INSERT INTO cells (key, sha256, measure, settings, seed, data, data_fingerprint, code_version, status, "
                    "error, seconds, finished, environment) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (cell.key, cell.sha256, cell.measure, json.dumps(dict(cell.settings), sort_keys=True), cell.seed,
                     whole(cell.data_name), cell.data_fingerprint, cell.code_version, status,
                     result.error and whole(result.error), result.seconds, now, identity),
                )  # fmt: skip
                self._db.executemany(
                    "INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (row.lastrowid, whole(s.name), s.value, whole(s.unit), s.stderr, s.low, s.high, int(s.converged),
                         json.dumps(dict(s.settings), sort_keys=True), json.dumps(dict(s.arrays)))
                        for s in result.scores
                    ],
                )  # fmt: skip
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _patiently(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Run a statement of a run that has computed something, which waits longer for the file than a command that begins."""
        started = time.monotonic()
        while True:
            try:
                return self._db.execute(statement, values)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() - started > PATIENCE:
                    raise
                self._tell(f"{self.path}: another process holds it; a result waits to be written")

    def scores_of(self, cell: Cell) -> list[Score]:
        """The stored scores of a cell; empty if it is not there."""
        with self._understood():
            rows = self._db.execute(
                "SELECT name, value, unit, stderr, low, high, converged, s.settings, c.seconds, arrays FROM scores s "
                "JOIN cells c ON c.id = s.cell WHERE c.key = ? ORDER BY s.rowid",
                (cell.key,),
            ).fetchall()
            return [
                Score(cell.measure, text_of(name), float("nan") if value is None else number_of(value), text_of(unit),
                      number_of(stderr), number_of(low), number_of(high), bool(converged), table_of(settings), number_of(seconds),
                      cell.path, table_of(arrays))
                for name, value, unit, stderr, low, high, converged, settings, seconds, arrays in rows
            ]  # fmt: skip

    def frame(self, data: str | None = None) -> pd.DataFrame:
        """All scores, one a row (columns ``SCORE_COLUMNS``).

        ``epoch`` is that of the checkpoint (NaN where the file does not say); checkpoints of one training run share ``run``,
        which is empty where the file does not say. ``training`` is what the file says of it (settings, epoch, loss), or {}.

        Where a measure of a checkpoint on a data set was computed more than once (other seeds, settings or code),
        the newest cell counts; settings that give scores of other names (``Measure.apart``) are told apart.

        Raises:
            StoreError: no scores on ``data``.
        """
        with self._understood():
            rows = self._db.execute(
                "SELECT k.path, k.sha256, k.method, c.data, c.measure, s.name, s.value, s.stderr, s.low, s.high, s.unit, "
                "s.converged, c.seed, c.seconds, c.code_version, s.settings, s.arrays, c.environment, "
                "k.report, k.report, k.report FROM scores s "
                "JOIN cells c ON c.id = s.cell JOIN checkpoints k ON k.sha256 = c.sha256 "
                "WHERE c.id IN (SELECT value FROM json_each(?)) ORDER BY k.path, c.id, s.rowid",
                (json.dumps(list(self._newest("ok").values())),),
            ).fetchall()
            names = self._names()
            frame = pd.DataFrame([(names[row[1]], *row) for row in rows], columns=list(SCORE_COLUMNS))
            for column in ("path", "sha256", "data", "measure", "name", "unit", "code_version", "environment"):
                frame[column] = _column([text_of(value) for value in frame[column]], frame)
            methods = [None if value is None else text_of(value) for value in frame["method"]]
            frame["method"] = _column(methods, frame)
            for column in ("settings", "arrays"):
                frame[column] = pd.Series([table_of(text) for text in frame[column]], index=frame.index, dtype=object)
            frame["converged"] = frame["converged"].astype(bool)
            reports = {text: table_of(text) if text else {} for text in frame["run"].unique()}
            runs = {text: _run_of(report) for text, report in reports.items()}
            frame["epoch"] = [runs[text][0] for text in frame["epoch"]]
            frame["run"] = _column([runs[text][1] for text in frame["run"]], frame)
            trainings = {text: _training(report) for text, report in reports.items()}
            frame["training"] = pd.Series([trainings[text] for text in frame["training"]], index=frame.index, dtype=object)
            for column in ("value", "stderr", "low", "high"):
                frame[column] = pd.Series([number_of(value) for value in frame[column]], index=frame.index).astype(float)
            frame["seconds"] = pd.Series([number_of(value) for value in frame["seconds"]], index=frame.index).astype(float)
            frame["seed"] = [whole_number_of(value) for value in frame["seed"]]
        known, data = sorted(frame["data"].unique()), data and whole(data)
        if data is not None and data not in known:
            raise StoreError(f"{self.path}: no scores on {data!r}; there are: {', '.join(known) or 'none'}")
        return frame[frame["data"] == data] if data is not None else frame

    def _newest(self, status: str) -> dict[tuple[str, str, str, str], int]:
        """(checkpoint hash, measure, data, variant) -> id of the newest cell: ids grow, whatever the clock does."""
        with self._understood():
            cells = self._db.execute(
                "SELECT sha256, measure, data, settings, id FROM cells WHERE status = ? ORDER BY id", (status,)
            ).fetchall()
            return {
                (sha256, text_of(measure), data, _variant(measure, settings)): identity
                for sha256, measure, data, settings, identity in cells
            }

    def failures(self) -> pd.DataFrame:
        """Cells that failed and have no good twin: columns checkpoint path, data, measure, error."""
        good = self._newest("ok")
        with self._understood():
            found = self._db.execute(
                "SELECT k.path, c.data, c.measure, c.error, c.sha256, c.settings FROM cells c "
                "JOIN checkpoints k ON k.sha256 = c.sha256 WHERE c.status = 'failed' ORDER BY k.path, c.measure"
            ).fetchall()
            rows = [
                (text_of(row[0]), text_of(row[1]), text_of(row[2]), text_of(row[3] or ""))
                for row in found
                if (row[4], row[2], row[1], _variant(row[2], row[5])) not in good
            ]
        return pd.DataFrame(rows, columns=["checkpoint", "data", "measure", "error"])

    def checkpoints(self) -> pd.DataFrame:
        """One row a checkpoint: name, path, sha256, layout, arch, method, report (dict)."""
        with self._understood():
            rows = self._db.execute("SELECT path, sha256, layout, arch, method, report FROM checkpoints ORDER BY path").fetchall()
            names = self._names()
            columns = ["checkpoint", "path", "sha256", "layout", "arch", "method", "report"]
            content = [
                (
                    names[r[1]],
                    text_of(r[0]),
                    text_of(r[1]),
                    *(None if part is None else text_of(part) for part in r[2:5]),
                    _report(r[5]),
                )
                for r in rows
            ]
        return pd.DataFrame(content, columns=columns)

    def _names(self) -> dict[str, str]:
        """Hash -> readable name, over all checkpoints of the store, so that every table calls them the same."""
        with self._understood():
            rows = self._db.execute("SELECT sha256, path FROM checkpoints ORDER BY path").fetchall()
            return short_names({text_of(sha256): text_of(path) for sha256, path in rows})

    def data_names(self) -> list[str]:
        """Names of the data sets with finished scores."""
        with self._understood():
            found = self._db.execute("SELECT DISTINCT data FROM cells WHERE status = 'ok' ORDER BY data").fetchall()
            return [text_of(name) for (name,) in found]

    def environments(self) -> dict[str, dict[str, Any]]:
        """Environment id -> content."""
        with self._understood():
            rows = self._db.execute("SELECT id, content FROM environments").fetchall()
            return {text_of(identity): _environment(content) for identity, content in rows}


def _environment(text: Any) -> dict[str, Any]:
    found = table_of(text)
    if not isinstance(found.get("packages", {}), dict):
        raise TypeError("the packages of an environment are no table")
    return found


def _column(values: list[Any], frame: pd.DataFrame) -> pd.Series:
    """A column of texts, which pandas would take for numbers where there is none."""
    return pd.Series(values, index=frame.index, dtype=object if not values else None)


def _variant(measure: str, settings: str) -> str:
    """Values of the settings that tell cells of a measure apart, as text; the same for all of an unknown measure."""
    return json.dumps(MEASURES.get(measure).variant(table_of(settings))) if measure in MEASURES else ""


def _report(text: str | None) -> dict[str, Any]:
    """A checkpoint's report, whose training record is a table where there is one."""
    report = table_of(text) if text else {}
    _training(report)
    return report


def _training(report: Mapping[str, Any]) -> dict[str, Any]:
    training = report.get("training") or {}
    if not isinstance(training, dict) or not all(isinstance(training.get(part) or {}, dict) for part in ("settings", "data")):
        raise TypeError("a training record is no table")
    return training


def _run_of(report: Mapping[str, Any]) -> tuple[float, str]:
    """Epoch and run of a checkpoint's report: NaN and empty where it says nothing of a training run."""
    training = _training(report)
    if not training:
        return math.nan, ""
    run = json.dumps([training.get("settings"), training.get("data")], sort_keys=True)
    return float(training.get("epoch", math.nan)), hashlib.sha256(run.encode()).hexdigest()[:12]


def _report_dict(report: Any) -> dict[str, Any]:
    return {
        "layout": report.layout, "arch": report.arch, "tensors": report.tensors, "parameters": report.parameters,
        "has_projector": report.has_projector, "has_classifier": report.has_classifier,
        "left_over": report.left_over, "assumptions": report.assumptions,
        "training": report.training,
    }  # fmt: skip
