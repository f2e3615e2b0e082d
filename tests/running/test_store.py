"""The score store: what is written is read back, nothing good is lost, and bad files end in one line."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ssa_analysis.checkpoints.loading import LoadReport
from ssa_analysis.errors import StoreError
from ssa_analysis.running import store as store_module
from ssa_analysis.running.environment import environment
from ssa_analysis.running.plan import Cell, CellResult
from ssa_analysis.running.store import SCHEMA_VERSION, SCORE_COLUMNS, Store, short_names
from ssa_analysis.scores import Score

Make = Callable[..., Cell]
Result = Callable[..., CellResult]

# numbers that lose something in any text with fewer than 17 digits, and the ends of the range
AWKWARD = (0.1 + 0.2, 1 / 3, -2.2250738585072014e-308, 1.7976931348623157e308, 5e-324)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "scores.db") as store:
        yield store


def bits(value: float) -> bytes:
    return np.float64(value).tobytes()


def one_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "sqlite3" not in text
    return text


def report_of(cell: Cell, method: str = "simclr") -> LoadReport:
    training = {"settings": {"method": method}, "epoch": 7}
    return LoadReport(
        cell.path, cell.sha256, "ssa-analyze", "convnet, width 4", 20, 1740, True, False, {"optimizer": "state"}, ["a"], training
    )


def test_scores_come_back_to_the_bit(store: Store, cell: Make) -> None:
    score = Score(
        "toy", "s", 1 / 3, "nats", 0.1 + 0.2, -1e-17, 1e300, False, {"error": "residual", "deep": {"list": [1, None, "ü"]}}, 2.5,
        "runs/a/last.pt", {"grid": [[0.1, 0.2], [1 / 7, -3.0]], "name": ["x", "y"]},
    )  # fmt: skip
    store.write(CellResult(cell(), [score], seconds=2.5))
    assert store.scores_of(cell()) == [score]


@pytest.mark.parametrize("value", AWKWARD)
def test_every_float_survives(store: Store, cell: Make, result: Result, value: float) -> None:
    store.write(result(cell(), value))
    assert bits(store.scores_of(cell())[0].value) == bits(value)
    assert bits(store.frame()["value"][0]) == bits(value)


def test_nan_and_infinity_survive(store: Store, cell: Make, result: Result) -> None:
    store.write(result(cell(), math.nan, math.inf, -math.inf))
    values = [score.value for score in store.scores_of(cell())]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]
    assert np.isnan(store.frame()["value"][0])
    assert store.frame()["value"].tolist()[1:] == [math.inf, -math.inf]


def test_nan_inside_settings_and_arrays_survives(store: Store, cell: Make) -> None:
    score = Score("toy", "s", 1.0, settings={"p_value": math.nan}, arrays={"null": [math.nan, 1.0]})
    store.write(CellResult(cell(), [score]))
    row = store.frame().iloc[0]
    assert math.isnan(row["settings"]["p_value"])
    assert math.isnan(row["arrays"]["null"][0])
    assert row["arrays"]["null"][1] == 1.0


def test_scores_keep_their_order(store: Store, cell: Make) -> None:
    names = ["zeta", "alpha", "mid"]
    store.write(CellResult(cell(), [Score("toy", name, 0.0) for name in names]))
    assert [score.name for score in store.scores_of(cell())] == names
    assert store.frame()["name"].tolist() == names


def test_a_stored_cell_is_known_after_reopening(tmp_path: Path, cell: Make, result: Result) -> None:
    path = tmp_path / "scores.db"
    with Store(path) as first:
        assert not first.has(cell())
        first.write(result(cell(), 1.0))
    with Store(path, must_exist=True) as second:
        assert second.has(cell())
        assert second.has(cell(path="moved/elsewhere.pt"))  # the same file under another name


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"seed": 3, "tau": None, "radius": 0.2}},
        {"settings": {"seed": 4, "tau": None, "radius": 0.1}},
        {"settings": {"seed": 3, "tau": None}},
        {"data_fingerprint": "fedcba9876543210"},
        {"code_version": "0.1.0/2"},
        {"sha256": "bb" * 32},
        {"measure": "other"},
    ],
    ids=lambda change: "-".join(change),
)
def test_whatever_decides_a_number_makes_another_cell(
    store: Store, cell: Make, result: Result, change: dict[str, object]
) -> None:
    store.write(result(cell(), 1.0))
    other = cell(**change)
    assert other.key != cell().key
    assert not store.has(other)
    assert store.scores_of(other) == []


def test_the_order_of_settings_does_not_make_another_cell(cell: Make) -> None:
    assert cell(settings={"radius": 0.1, "tau": None, "seed": 3}).key == cell().key


def test_a_failed_cell_is_listed_but_not_had(store: Store, cell: Make) -> None:
    store.write(CellResult(cell(), error="it broke"))
    assert not store.has(cell())
    assert store.frame().empty
    assert store.failures().values.tolist() == [["runs/a/last.pt", "digits", "toy", "it broke"]]


def test_data_sets_with_finished_scores(store: Store, cell: Make, result: Result) -> None:
    assert store.data_names() == []
    store.write(result(cell(data_name="svhn", data_fingerprint="a" * 16), 1.0))
    store.write(result(cell(data_name="digits"), 1.0))
    store.write(CellResult(cell(data_name="cifar10", data_fingerprint="b" * 16), error="it broke"))
    assert store.data_names() == ["digits", "svhn"]


def test_a_failure_never_replaces_a_good_cell(store: Store, cell: Make, result: Result) -> None:
    store.write(result(cell(), 4.0))
    store.write(CellResult(cell(), error="later it broke"))
    assert store.has(cell())
    assert store.frame()["value"].tolist() == [4.0]
    assert store.failures().empty


def test_a_success_replaces_a_failure(store: Store, cell: Make, result: Result) -> None:
    store.write(CellResult(cell(), error="it broke"))
    store.write(result(cell(), 4.0))
    assert store.has(cell())
    assert store.frame()["value"].tolist() == [4.0]
    assert store.failures().empty


def test_a_failure_with_a_good_twin_is_not_listed(store: Store, cell: Make, result: Result) -> None:
    store.write(result(cell(settings={"seed": 1}), 1.0))
    store.write(CellResult(cell(settings={"seed": 2}), error="only this seed broke"))
    store.write(CellResult(cell(measure="other"), error="never worked"))
    assert store.failures()["error"].tolist() == ["never worked"]


def test_the_newest_cell_counts(store: Store, cell: Make, result: Result) -> None:
    old, new = cell(settings={"seed": 0}), cell(settings={"seed": 1})
    store.write(result(old, 1.0, 2.0))
    store.write(result(cell(measure="other"), 7.0))
    store.write(result(new, 10.0))
    frame = store.frame()
    toy = frame[frame["measure"] == "toy"]
    assert toy["value"].tolist() == [10.0]  # not a mixture: the old cell's second score is gone too
    assert toy["seed"].tolist() == [1]
    assert frame[frame["measure"] == "other"]["value"].tolist() == [7.0]
    store.write(result(old, 1.0, 2.0))  # computed again: now it is the newest
    assert store.frame().query("measure == 'toy'")["value"].tolist() == [1.0, 2.0]


def test_cells_on_other_data_stand_side_by_side(store: Store, cell: Make, result: Result) -> None:
    store.write(result(cell(), 1.0))
    store.write(result(cell(data_name="cifar10", data_fingerprint="ff"), 2.0))
    assert sorted(store.frame()["data"]) == ["cifar10", "digits"]
    assert store.frame("cifar10")["value"].tolist() == [2.0]
    with pytest.raises(StoreError, match=r"no scores on 'cifar'; there are: cifar10, digits"):
        store.frame("cifar")


def test_the_frame_has_the_documented_columns_even_when_empty(store: Store, cell: Make, result: Result) -> None:
    assert tuple(store.frame().columns) == SCORE_COLUMNS
    assert len(store.frame()) == 0
    assert store.frame()["value"].dtype == float
    store.write(replace(result(cell(), 1.0), report=report_of(cell(), "ssa-clr")))
    row = store.frame().iloc[0]
    assert (row["checkpoint"], row["method"], row["seed"], row["seconds"]) == ("a", "ssa-clr", 3, 1.5)
    assert row["converged"] in (True, False)


def test_epoch_and_run_come_from_the_training_record(store: Store, cell: Make, result: Result) -> None:
    """A record that holds NaN, which is no JSON for SQLite, is read all the same."""
    for number, (epoch, seed) in enumerate(((0, 1), (5, 1), (5, 2))):
        own = cell(path=f"run/{number}.pt", sha256=str(number) * 64)
        training = {"settings": {"seed": seed}, "epoch": epoch, "loss": math.nan, "data": {"name": "digits"}}
        store.write(replace(result(own, 1.0), report=replace(report_of(own, "simclr"), training=training)))
    own = cell(path="other.pt", sha256="f" * 64)
    store.write(replace(result(own, 1.0), report=replace(report_of(own, "resnet"), training={})))
    frame = store.frame().set_index("path")
    assert frame.loc[["run/0.pt", "run/1.pt", "run/2.pt"], "epoch"].tolist() == [0, 5, 5]
    assert frame.loc["run/0.pt", "run"] == frame.loc["run/1.pt", "run"] != frame.loc["run/2.pt", "run"]
    assert math.isnan(frame.loc["other.pt", "epoch"])
    assert frame.loc["other.pt", "run"] == ""


def test_the_environment_is_stored_with_every_score(store: Store, cell: Make, result: Result) -> None:
    store.write(result(cell(), 1.0))
    environments = store.environments()
    assert environments[store.frame()["environment"][0]] == json.loads(json.dumps(environment()))


def test_checkpoints_that_could_not_be_loaded_stand_beside_those_that_could(store: Store, cell: Make, result: Result) -> None:
    good, bad = cell(), cell(path="runs/b/last.pt", sha256="bb" * 32)
    store.write(replace(result(good, 1.0), report=report_of(good)))
    store.write(CellResult(bad, error="truncated"))
    table = store.checkpoints().set_index("checkpoint")
    assert table.loc["a", "report"]["parameters"] == 1740
    assert table.loc["b", "report"] == {}
    assert pd.isna(table.loc["b", "method"])


def test_a_later_failure_does_not_forget_what_was_known_of_a_checkpoint(store: Store, cell: Make, result: Result) -> None:
    store.write(replace(result(cell(), 1.0), report=report_of(cell())))
    store.write(CellResult(cell(measure="other"), error="no report this time"))
    assert store.checkpoints().iloc[0]["arch"] == "convnet, width 4"


def test_all_tables_call_a_checkpoint_the_same(store: Store, cell: Make, result: Result) -> None:
    """A failed checkpoint lengthens the names of the others in every table or in none."""
    store.write(result(cell(path="x/a/last.pt"), 1.0))
    store.write(CellResult(cell(path="y/a/last.pt", sha256="bb" * 32), error="truncated"))
    assert store.frame()["checkpoint"].tolist() == ["x/a"]
    assert store.checkpoints()["checkpoint"].tolist() == ["x/a", "y/a"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a/last.pt", "runs/b/last.pt"], ["a", "b"]),
        (["/abs/runs/a/last.pt"], ["a"]),
        (["models/moco.pth", "models/byol.ckpt"], ["moco", "byol"]),
        (["last.pt"], ["last"]),
        (["../last.pt"], ["last"]),
        (["x/a/last.pt", "y/a/last.pt", "y/b/last.pt"], ["x/a", "y/a", "b"]),
        (["a/last.pt", "x/a/last.pt"], ["a", "x/a"]),
        (["m/net.pt", "m/net.pth"], ["m/net@h0h0h0", "m/net@h1h1h1"]),
        (["runs/a/last.pt", "runs/a/last.pt"], ["runs/a@h0h0h0", "runs/a@h1h1h1"]),
    ],
)
def test_short_names(paths: list[str], names: list[str]) -> None:
    keys = [f"h{i}" * 8 for i in range(len(paths))]
    assert list(short_names(dict(zip(keys, paths, strict=True))).values()) == names


def test_foreign_text_is_only_text(store: Store, cell: Make) -> None:
    hostile = "x'); DROP TABLE scores; --\"\\ ü\t<b>%s{0}"
    odd = cell(path=f"runs/{hostile}/last.pt", measure=hostile, data_name=hostile)
    store.write(
        CellResult(odd, [Score(hostile, hostile, 1.0, hostile, settings={hostile: hostile}, arrays={hostile: [hostile]})])
    )
    store.write(CellResult(cell(sha256="bb" * 32), error=hostile))
    row = store.frame(hostile).iloc[0]
    assert [row[c] for c in ("measure", "name", "unit", "data")] == [hostile] * 4
    assert row["checkpoint"] == hostile.replace("\t", "\\t")  # which is shown in a line of a terminal
    assert (row["settings"], row["arrays"]) == ({hostile: hostile}, {hostile: [hostile]})
    assert store.failures()["error"].tolist() == [hostile]


def test_two_stores_on_one_file_do_not_lose_a_cell(tmp_path: Path, cell: Make, result: Result) -> None:
    path, each = tmp_path / "scores.db", 25
    Store(path).close()
    problems: list[BaseException] = []

    def fill(writer: int) -> None:
        try:
            with Store(path) as store:
                for number in range(each):
                    store.write(result(cell(measure=f"m{writer}-{number}"), writer + number / 100))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=fill, args=(writer,)) for writer in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with Store(path) as store:
        frame = store.frame().set_index("measure")
    assert {name: frame.loc[name, "value"] for name in frame.index} == {
        f"m{w}-{n}": w + n / 100 for w in range(2) for n in range(each)
    }


def test_a_write_that_fails_half_way_leaves_the_old_cell(store: Store, cell: Make, result: Result) -> None:
    store.write(result(cell(), 4.0))
    broken = CellResult(cell(), [Score("toy", "a", 1.0), Score("toy", "a", 2.0)])  # a name may stand only once
    with pytest.raises(StoreError):
        store.write(broken)
    assert [score.value for score in store.scores_of(cell())] == [4.0]
    store.write(result(cell(), 5.0))  # and the store still works
    assert [score.value for score in store.scores_of(cell())] == [5.0]


class TestBadFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError) as error:
            Store(tmp_path / "no.db", must_exist=True)
        assert "no such store; ssa-analyze score writes one" in one_line(error)
        assert not (tmp_path / "no.db").exists()

    def test_folder_missing(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError) as error:
            Store(tmp_path / "no" / "scores.db")
        assert f"the folder {tmp_path / 'no'} does not exist" in one_line(error)

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError) as error:
            Store(tmp_path)
        assert "cannot be opened or created" in one_line(error)

    @pytest.mark.parametrize("must_exist", [True, False])
    def test_not_a_database(self, tmp_path: Path, must_exist: bool) -> None:
        path = tmp_path / "scores.db"
        path.write_bytes(b"these are my notes, not a database" * 40)
        before = path.read_bytes()
        with pytest.raises(StoreError) as error:
            Store(path, must_exist=must_exist)
        assert "not a score store" in one_line(error)
        assert path.read_bytes() == before

    def test_empty_file(self, tmp_path: Path, cell: Make, result: Result) -> None:
        path = tmp_path / "scores.db"
        path.touch()
        with pytest.raises(StoreError) as error:
            Store(path, must_exist=True)
        assert "an empty database, not a store" in one_line(error)
        with Store(path) as store:  # for writing, an empty file is as good as none
            store.write(result(cell(), 1.0))
        with Store(path, must_exist=True) as store:
            assert store.has(cell())

    def test_another_program_s_database(self, tmp_path: Path) -> None:
        path = tmp_path / "places.sqlite"
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE bookmarks (url TEXT)")
        database.close()
        with pytest.raises(StoreError) as error:
            Store(path)
        assert "a database of another program" in one_line(error)
        database = sqlite3.connect(path)
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]
        database.close()

    def test_newer_version(self, tmp_path: Path) -> None:
        path = tmp_path / "scores.db"
        Store(path).close()
        database = sqlite3.connect(path)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        database.close()
        with pytest.raises(StoreError) as error:
            Store(path)
        assert f"newer ssa-analyze (store version {SCHEMA_VERSION + 1})" in one_line(error)

    def test_damaged(self, tmp_path: Path, cell: Make, result: Result) -> None:
        path = tmp_path / "scores.db"
        with Store(path) as store:
            store.write(result(cell(), *np.linspace(0, 1, 500)))
        content = bytearray(path.read_bytes())
        content[4096:] = b"\xff" * (len(content) - 4096)
        path.write_bytes(content)
        with Store(path, must_exist=True) as store, pytest.raises(StoreError) as error:
            store.frame()
        assert "damaged" in one_line(error)

    def test_read_only_is_found_out_when_opened_for_writing(
        self, open_folder: Path, cell: Make, result: Result, ordinary_user: Callable
    ) -> None:
        path = open_folder / "scores.db"
        with Store(path) as store:
            store.write(result(cell(), 1.0))
        path.chmod(0o444)
        open_folder.chmod(0o555)
        with ordinary_user():
            with pytest.raises(StoreError) as error:
                Store(path)
            with Store(path, must_exist=True) as reader:  # reading is still possible
                assert reader.frame()["value"].tolist() == [1.0]
        open_folder.chmod(0o755)
        assert "read-only" in one_line(error)

    def test_read_only_folder(self, open_folder: Path, ordinary_user: Callable) -> None:
        open_folder.chmod(0o555)
        with ordinary_user(), pytest.raises(StoreError) as error:
            Store(open_folder / "scores.db")
        open_folder.chmod(0o755)
        assert "cannot be opened or created" in one_line(error)
        assert list(open_folder.iterdir()) == []

    def test_opening_does_not_change_a_store(self, tmp_path: Path, cell: Make, result: Result) -> None:
        path = tmp_path / "scores.db"
        with Store(path) as store:
            store.write(result(cell(), 1.0))
        before = path.read_bytes()
        Store(path).close()
        Store(path, must_exist=True).close()
        assert path.read_bytes() == before


def test_cells_of_a_measure_with_scores_of_other_names_stand_side_by_side(store: Store, cell: Make) -> None:
    """The landscape along random directions (also one from before there was a choice) and along eigenvectors."""

    def write(name: str, value: float, error: str | None = None, **settings: object) -> None:
        one = cell(measure="landscape", settings={"seed": 0, **settings})
        store.write(CellResult(one, [] if error else [Score("landscape", name, value)], error=error))

    write("rise_half", 1.0)
    write("eigen_rise_1", 2.0, along="eigenvectors")
    write("rise_half", 3.0, along="random")
    write("barrier", math.nan, "no such file", along="checkpoint")
    frame = store.frame()
    assert sorted(zip(frame["name"], frame["value"], strict=True)) == [("eigen_rise_1", 2.0), ("rise_half", 3.0)]
    assert store.failures()["error"].tolist() == ["no such file"]
    write("barrier", 4.0, along="checkpoint", other="b.pt")
    assert store.failures().empty
    assert set(store.frame()["name"]) == {"eigen_rise_1", "rise_half", "barrier"}


def test_cells_of_an_unknown_measure_are_not_told_apart(store: Store, cell: Make, result: Result) -> None:
    store.write(result(cell(settings={"seed": 0, "along": "a"}), 1.0))
    store.write(result(cell(settings={"seed": 0, "along": "b"}), 2.0))
    assert store.frame()["value"].tolist() == [2.0]


def test_a_result_waits_for_a_store_that_another_process_holds(
    tmp_path: Path, cell: Make, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = tmp_path / "s.db", list[str]()
    monkeypatch.setattr(store_module, "BUSY", 0.05)
    other = sqlite3.connect(path, isolation_level=None)

    def tell(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            other.execute("ROLLBACK")

    with Store(path, tell=tell) as store:
        other.execute("BEGIN IMMEDIATE")  # a writer, which lets others read
        store.write(result(cell(), 1.0))
        assert told == [f"{path}: another process holds it; a result waits to be written"] * 2
        assert store.has(cell())
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(store_module, "PATIENCE", 0.0)
        with pytest.raises(StoreError, match="another process holds it; try again"):
            store.write(result(cell(measure="other"), 1.0))
    other.close()
