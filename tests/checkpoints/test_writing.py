"""Writing: a failure leaves the old file whole, no litter, and one line that says what happened."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from ssa_analysis.checkpoints.reading import read_file
from ssa_analysis.checkpoints.writing import FORMAT, FORMAT_VERSION, make_folder, save_checkpoint, write_atomically
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
