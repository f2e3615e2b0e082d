"""Stores that somebody else has written: no code in them runs, and what is no store's content is refused in one line."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from ssa_analysis.errors import SettingsError, StoreError
from ssa_analysis.running.plan import Cell, CellResult, measure_settings
from ssa_analysis.running.store import Store, short_names
from ssa_analysis.running.study import study_from_dict
from ssa_analysis.scores import Score

DATA = {"name": "digits"}
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT x FROM n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Store(tmp_path / "s.db") as store:
        cell = Cell("runs/a/last.pt", "a" * 64, "downstream", {"seed": 0}, "digits", "f" * 16, "0.1.0/1")
        store.write(CellResult(cell, [Score("downstream", "probe_accuracy", 0.5)]))
    return tmp_path / "s.db"


def changed(path: Path, *statements: str) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    return path


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TRIGGER t AFTER INSERT ON cells BEGIN DELETE FROM scores; END",),
        ("CREATE VIEW v AS SELECT 1",),
        (
            "DROP TABLE scores",
            "CREATE VIEW scores AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT x FROM n",
        ),
        ("CREATE INDEX i ON cells (abs(seed))",),
        ("ALTER TABLE scores ADD COLUMN more TEXT",),
        ("ALTER TABLE scores ADD COLUMN more AS (value + 1)",),
        ("DROP TABLE scores",),
    ],
)
def test_a_store_that_would_run_something_is_not_opened(path: Path, statements: tuple[str, ...]) -> None:
    changed(path, *statements)
    for must_exist in (True, False):
        with pytest.raises(StoreError, match=r"which no store has|not the columns of a store"):
            Store(path, must_exist=must_exist)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("scores.settings", "'[]'"), ("scores.settings", "'{'"), ("scores.arrays", "'3'"), ("scores.value", "'x'"),
        ("scores.name", "x'ff'"), ("cells.settings", "'[]'"), ("checkpoints.path", "x'00'"), ("checkpoints.report", "'[]'"),
        ("checkpoints.report", """'{"training": {"settings": 3}}'"""),
        ("checkpoints.report", """'{"training": {"epoch": "x"}}'"""),
        ("environments.content", """'{"packages": 3}'"""), ("checkpoints.report", f"'{'[' * 50_000}'"), ("cells.seed", "'x'"),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_refused(path: Path, column: str, value: str) -> None:
    table, _, name = column.partition(".")
    changed(path, f"UPDATE {table} SET {name} = {value}")

    def read() -> None:
        with Store(path, must_exist=True) as store:
            store.frame()
            store.checkpoints()
            store.environments()

    with pytest.raises(StoreError, match="holds what no ssa-analyze has written"):
        read()


def test_names_that_are_no_utf_8_are_kept_as_text(tmp_path: Path) -> None:
    name = "runs/caf\udce9/last.pt"
    with Store(tmp_path / "s.db") as store:
        cell = Cell(name, "a" * 64, "downstream", {"seed": 0}, "d\udcff", "f" * 16, "0.1.0/1")
        store.write(CellResult(cell, [Score("downstream", "x\udcff", 0.5, "u\udcff")]))
        store.write(CellResult(Cell(name, "a" * 64, "shift", {"seed": 0}, "d", "f" * 16, "0.1.0/1"), error=f"{name}: no"))
        frame = store.frame("d\udcff")
        assert frame.loc[0, ["checkpoint", "path", "data", "name"]].tolist() == [
            "caf\\xe9",
            "runs/caf\\xe9/last.pt",
            "d\\xff",
            "x\\xff",
        ]
        assert store.failures()["error"].tolist() == ["runs/caf\\xe9/last.pt: no"]
    assert short_names({"a": name}) == {"a": "caf\\xe9"}


def test_a_store_that_is_a_link_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "s.db").symlink_to(tmp_path / "s.db")
    with pytest.raises(StoreError):
        Store(tmp_path / "s.db")


@pytest.mark.parametrize("seed", [2**63, -(2**63), 10**30])
def test_a_seed_that_no_store_can_keep(seed: int) -> None:
    with pytest.raises(SettingsError, match="63 bits"):
        measure_settings(["downstream"], seed, {}, {})


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\\b", "..", ".", "", " ", "x" * 201, "a\nb", "a\x1b[2J", 3, ["x"]])
def test_a_study_is_called_as_a_folder_can_be(name: object) -> None:
    with pytest.raises(SettingsError, match=r"name is to be a folder's name|name has more than 200 bytes"):
        study_from_dict({"name": name, "data": DATA})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"seeds": 10**12}, "seeds: more than 100,000"),
        ({"seeds": [[1]]}, "seeds must be a whole number"),
        ({"seeds": [10**30]}, "seeds must be a whole number"),
        ({"grid": [{key: list(range(100)) for key in ("lr", "tau", "rho", "alpha")}]}, "grid: more than 100,000 runs"),
        ({"link": {"draws": "many"}}, "link.draws must be a whole number"),
        ({"link": {"draws": 10**10}}, "draws must be at most 1,000,000"),
        ({"link": {"sharpness": "curvature.trace"}}, "link.sharpness must be a list of names"),
        ({"grid": [{"views": ["x" * 300]}]}, "a run's name has more than 200 bytes"),
    ],
)
def test_a_study_of_wrong_sizes_and_types(content: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        study_from_dict({"data": DATA, **content})
