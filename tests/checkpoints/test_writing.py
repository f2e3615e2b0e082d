"""Writing: a failure leaves the old file whole, no litter, and one line that says what happened."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from ssa_analysis.checkpoints.reading import read_file
from ssa_analysis.checkpoints.writing import (
    FORMAT,
    FORMAT_VERSION,
    locked_folder,
    make_folder,
    remove_leftovers,
    save_checkpoint,
    write_atomically,
)
from ssa_analysis.errors import OutputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_arrives_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write_atomically(path, b"old")
    write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert names(tmp_path) == ["last.pt"]
    assert path.stat().st_mode & 0o777 == 0o644  # temporary files are private, results are not


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_failure_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    path = tmp_path / "last.pt"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OutputError, match=rf"last\.pt: could not be written \({os.strerror(code)}\)"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["last.pt"]


def test_an_interrupt_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    write_atomically(path, b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["last.pt"]


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="could not be written"):
        write_atomically(tmp_path / "absent" / "last.pt", b"new")


def test_make_folder_makes_parents_and_says_where_it_cannot(tmp_path: Path) -> None:
    made = make_folder(tmp_path / "a" / "b")
    assert made.is_dir()
    assert make_folder(made) == made
    assert names(made) == []
    (tmp_path / "file").write_text("in the way")
    for impossible in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=f"{impossible}: cannot write there .*; choose another folder"):
            make_folder(impossible)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="Permission denied"):
        make_folder(tmp_path)
    with pytest.raises(OutputError, match="Permission denied"):
        write_atomically(tmp_path / "last.pt", b"new")


def test_a_checkpoint_says_its_format_and_reads_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"model": {"w": torch.arange(3.0)}, "epoch": 4})
    read = read_file(tmp_path / "a.pt")
    assert (read["format"], read["version"], read["epoch"]) == (FORMAT, FORMAT_VERSION, 4)
    assert read["model"]["w"].tolist() == [0.0, 1.0, 2.0]


def hold(path: Path, told: Connection) -> None:
    """A process that keeps a folder until it is killed."""
    with locked_folder(path):
        told.send("held")
        time.sleep(300)


def test_a_folder_is_one_process_s_until_that_ends(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    other = context.Process(target=hold, args=(tmp_path, theirs), daemon=True)
    other.start()
    assert ours.recv() == "held"
    with pytest.raises(OutputError, match="another process is at work in this folder"), locked_folder(tmp_path, patience=0.2):
        pass
    other.kill()
    with locked_folder(tmp_path, patience=5):  # the system has given it back
        assert names(tmp_path) == []


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".last.pt.ab12cd_9", ".log.csv.abcdefgh", ".last.pt.short", ".hidden", "last.pt", ".last.npz.abcdefgh"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, ".pt", ".csv")
    assert names(tmp_path) == [".hidden", ".last.npz.abcdefgh", ".last.pt.short", "last.pt"]


def test_equal_payloads_give_equal_bytes(tmp_path: Path) -> None:
    """Whether two strings or tuples are one object is no part of what is saved."""
    one = "name"
    shared, apart = (1, 2), [tuple(range(1, 3)) for _ in range(2)]
    save_checkpoint(tmp_path / "a.pt", {one: torch.arange(3), "x": {one: [shared, shared]}})
    save_checkpoint(tmp_path / "b.pt", {one: torch.arange(3), "x": {"".join(["n", "ame"]): apart}})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_a_file_is_flushed_renamed_and_its_folder_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order a power loss leaves the old file or the new one, whole."""
    steps: list[tuple[str, int, int]] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(number: int) -> None:
        kind = os.fstat(number)
        steps.append(("folder" if stat.S_ISDIR(kind.st_mode) else "file", kind.st_ino, kind.st_size))
        fsync(number)

    def seen_replace(source: str, target: Path) -> None:
        kind = Path(source).stat()
        steps.append(("rename", kind.st_ino, kind.st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    write_atomically(tmp_path / "last.pt", b"12345")
    inode = (tmp_path / "last.pt").stat().st_ino
    assert steps[:2] == [("file", inode, 5), ("rename", inode, 5)]
    assert [step[:2] for step in steps[2:]] == [("folder", tmp_path.stat().st_ino)]
