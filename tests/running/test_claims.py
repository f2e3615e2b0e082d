"""Cells that another run has in hand are left to it, however that run ends."""

from __future__ import annotations

import hashlib
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ssa_analysis.running import claims
from ssa_analysis.running.claims import Claims

KEYS = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(3)]


def hold(path: Path, keys: list[str], told: Connection) -> None:
    """A process that takes keys, says which it got, and keeps them until it is told otherwise."""
    with Claims(path) as held:
        told.send([held.take(key) for key in keys])
        while (key := told.recv()) is not None:
            held.release(key)
            told.send("released")


def test_one_process_has_a_cell_until_it_gives_it_back_or_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with Claims(path) as mine:
        assert mine.take(KEYS[0])
        other = context.Process(target=hold, args=(path, KEYS, theirs), daemon=True)
        other.start()
        assert ours.recv() == [False, True, True]
        assert [mine.take(key) for key in KEYS] == [True, False, False]
        ours.send(KEYS[1])
        assert ours.recv() == "released"
        assert mine.take(KEYS[1])
        assert not mine.take(KEYS[2])
        other.kill()
        other.join()
        assert mine.take(KEYS[2])
    assert not path.exists()


def test_the_file_stays_while_another_process_uses_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    other = context.Process(target=hold, args=(path, KEYS[:1], theirs), daemon=True)
    other.start()
    assert ours.recv() == [True]
    with Claims(path) as mine:
        assert mine.take(KEYS[1])
    assert path.exists()
    ours.send(None)
    other.join()
    assert not path.exists()


def test_where_there_are_no_locks_everything_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for nowhere in (Claims(tmp_path / "no folder" / "lock"), Claims(tmp_path / "lock")):
        with nowhere as held:
            assert held.take(KEYS[0])
    monkeypatch.setattr(claims, "fcntl", None)
    with Claims(tmp_path / "lock") as held:
        assert held.take(KEYS[0])
        held.release(KEYS[0])
