"""From paths, globs and folders to checkpoint files: in order, once each, and never silently nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssa_analysis.checkpoints.finding import find_checkpoints
from ssa_analysis.errors import CheckpointError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs with ``last.pt``; one also with an earlier epoch; a folder of foreign files; an empty one."""
    for name in ("runs/b/last.pt", "runs/a/last.pt", "runs/a/epoch-10.pt", "runs/c/last.pt", "runs/a/log.csv",
                 "zoo/two.pth", "zoo/one.safetensors", "zoo/README.md", "deep/x/last.pt", "deep/y/other.pt"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["runs/a/epoch-10.pt"], ["runs/a/epoch-10.pt"]),
        (["runs/a"], ["runs/a/last.pt"]),  # not its earlier epochs
        (["zoo"], ["zoo/one.safetensors", "zoo/two.pth"]),  # every checkpoint, nothing else
        (["runs"], ["runs/a/last.pt", "runs/b/last.pt", "runs/c/last.pt"]),
        (["deep"], ["deep/x/last.pt"]),
        (["runs/*/last.pt"], ["runs/a/last.pt", "runs/b/last.pt", "runs/c/last.pt"]),
        (["runs/[ab]/last.pt"], ["runs/a/last.pt", "runs/b/last.pt"]),
        (["runs/*"], ["runs/a/last.pt", "runs/b/last.pt", "runs/c/last.pt"]),  # folders behind a quoted glob
        (["runs/**/*.pt"], ["runs/a/epoch-10.pt", "runs/a/last.pt", "runs/b/last.pt", "runs/c/last.pt"]),
        (["runs/c", "runs/a"], ["runs/c/last.pt", "runs/a/last.pt"]),  # in the user's order
        (["runs/b", "runs/*", "./runs/b/last.pt"], ["runs/b/last.pt", "runs/a/last.pt", "runs/c/last.pt"]),
        (["runs/a/../b/last.pt", "runs/b"], ["runs/a/../b/last.pt"]),
    ],
)
def test_paths_globs_and_folders(runs: Path, patterns: list[str], expected: list[str]) -> None:
    assert [str(path) for path in find_checkpoints(patterns)] == expected


def test_absolute_patterns_and_relative_ones_name_one_file(runs: Path) -> None:
    absolute = find_checkpoints([f"{runs}/runs/*/last.pt"])
    assert absolute == [runs / "runs" / name / "last.pt" for name in "abc"]
    assert len(find_checkpoints([f"{runs}/runs/*/last.pt", "runs/a", "runs"])) == 3


def test_home_is_expanded(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(runs))
    assert find_checkpoints(["~/runs/b"]) == [runs / "runs/b/last.pt"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("empty", r"empty: the folder holds no checkpoint \(\.pt, "),
        ("gone.pt", "gone.pt: no such file, folder or match"),
        ("runs/*.pt", r"runs/\*\.pt: no such file, folder or match"),
        ("em*", r"em\*: no such file, folder or match"),
    ],
)
def test_a_pattern_that_leads_to_nothing_is_named(runs: Path, pattern: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_checkpoints(["runs/a", pattern])
