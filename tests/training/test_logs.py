"""Logs of a run survive what a crash leaves of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssa_analysis.errors import OutputError
from ssa_analysis.training.logs import append_rows, keep_rows, last_row, whole_rows

COLUMNS = ("epoch", "step", "loss", "lr", "knn", "seconds")
WHOLE = "epoch,step,loss,lr,knn,seconds\r\n1,10,4.5,0.1,,1.0\r\n2,20,4.25,0.1,0.5,2.0\r\n"


@pytest.mark.parametrize(
    "tail",
    [
        "3",
        "3,30,4.0",
        "3,30,4.0,0.1,,3.0",
        "\0\0\0\0\0\0",
        "\0\0\n",
        "x,1,2,3,4,5\r\n",
        "3,30\r\n",
        "3,30,1,1,1,1,1\r\n",
        "\xff\xfe",
    ],
)
def test_what_a_crash_leaves_of_a_row_is_no_row(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(WHOLE.encode() + tail.encode("latin-1"))
    assert [row["epoch"] for row in whole_rows(path, COLUMNS)] == ["1", "2"]
    assert last_row(tmp_path) == {"epoch": 2, "step": 20, "loss": 4.25, "lr": 0.1, "knn": 0.5, "seconds": 2.0}
    keep_rows(path, COLUMNS, 2)
    assert path.read_bytes() == WHOLE.encode()


def test_a_resumed_run_keeps_the_rows_of_its_epochs(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(WHOLE.encode())
    keep_rows(path, COLUMNS, 1)
    append_rows(path, [[2, 20, 3.5, 0.1, "", 1.5], [3, 30, 3.25, 0.1, "", 2.5]])
    assert [(row["epoch"], row["loss"]) for row in whole_rows(path, COLUMNS)] == [("1", "4.5"), ("2", "3.5"), ("3", "3.25")]
    keep_rows(path, COLUMNS, 0)
    assert path.read_bytes() == b"epoch,step,loss,lr,knn,seconds\r\n"


def test_a_log_that_is_cut_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed just before the new file takes its place, the old one is there with all its rows."""
    path = tmp_path / "log.csv"
    path.write_bytes(WHOLE.encode())

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        keep_rows(path, COLUMNS, 1)
    assert path.read_bytes() == WHOLE.encode()


def test_a_row_is_on_the_disk_before_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(os.fstat(number).st_size), real(number)))
    append_rows(tmp_path / "log.csv", [[1, 10, 4.5, 0.1, "", 1.0]])
    assert synced == [(tmp_path / "log.csv").stat().st_size]


def test_a_file_that_is_larger_than_any_log_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with open(path, "wb") as stream:
        stream.write(WHOLE.encode())
        stream.truncate(2**40)
    for read in (lambda: whole_rows(path, COLUMNS), lambda: keep_rows(path, COLUMNS, 1), lambda: last_row(tmp_path)):
        with pytest.raises(OutputError, match=r"log\.csv: no log of a training: more than 268,435,456 bytes; move it"):
            read()
    assert path.stat().st_size == 2**40


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(WHOLE.encode())

    def refused(*arguments: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ssa_analysis.training.logs.read_at_most", refused)
    with pytest.raises(OutputError, match=r"log\.csv: could not be read \(Permission denied\)"):
        keep_rows(path, COLUMNS, 1)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"log\.csv: could not be written \(No such file or directory\)"):
        append_rows(tmp_path / "nowhere" / "log.csv", [[1]])
