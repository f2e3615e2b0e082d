"""``ssa-analyze compare``, ``score --fail-if``, ``--dry-run`` of score and train, ``score --time-budget``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = ("--data", "digits", "--subset", "300")


def test_two_checkpoints_side_by_side(cli: Callable[..., Any], store: Path, trained: Any) -> None:
    ended = cli("compare", trained.paths[0], trained.paths[3], "--store", store, "--all")
    assert ended.code == 0, ended.err
    assert "ssa-clr" in ended.err.split(" against ")[0]
    header, *rows = ended.out.splitlines()
    assert [word for word in ("score", "simclr", "ssa-clr", "difference", "unit", "better") if word not in header] == []
    rows_of = {line.split()[0]: line for line in rows}
    assert {"downstream.probe_accuracy", "representation.uniformity"} <= set(rows_of)
    as_json = {row["score"]: row for row in cli("compare", trained.paths[0], trained.paths[3], "--store", store, "--json").json}
    assert len(as_json) == len(rows)
    row = as_json["representation.uniformity"]
    assert row["difference"] == row["second"] - row["first"]
    few = cli("compare", trained.paths[0], trained.paths[3], "--store", store).out.splitlines()
    assert len(few) - 1 == sum(row["separable"] for row in as_json.values()) or not few


def test_one_against_itself_has_nothing_to_tell_apart(cli: Callable[..., Any], store: Path, trained: Any) -> None:
    ended = cli("compare", trained.paths[0], trained.paths[0], "--store", store)
    assert (ended.code, ended.out) == (0, "")
    assert ": 0 of " in ended.err


def test_a_checkpoint_that_is_not_in_the_store(cli: Callable[..., Any], store: Path, trained: Any) -> None:
    assert (
        "unknown checkpoint 'simclr2'; did you mean simclr" in cli("compare", "simclr2", trained.paths[1], "--store", store).err
    )


def test_a_condition_that_holds_ends_with_one_and_keeps_the_scores(cli: Callable[..., Any], store: Path, trained: Any) -> None:
    common = ("score", trained.paths[0], *DATA, "--measures", "downstream", "--store", store)
    held = cli(*common, "--fail-if", "probe_accuracy > 0", "--fail-if", "downstream.knn_accuracy < -1")
    assert held.code == 1
    assert "--fail-if probe_accuracy > 0: " in held.err
    assert "knn_accuracy <" not in held.err
    assert "1 taken from the store, 0 failed" in held.err
    assert cli(*common, "--fail-if", "probe_accuracy > 1").code == 0
    assert "did you mean probe_accuracy" in cli(*common, "--fail-if", "probe_acuracy > 1").err
    assert cli(*common, "--fail-if", "probe_accuracy").code == 2


def test_a_dry_run_says_the_plan_and_makes_nothing(cli: Callable[..., Any], store: Path, trained: Any, tmp_path: Path) -> None:
    ended = cli("score", *trained.paths, *DATA, "--measures", "downstream,curvature", "--store", tmp_path / "new.db", "--dry-run")
    assert (ended.code, ended.out) == (0, "")
    assert not (tmp_path / "new.db").exists()
    lines = ended.err.splitlines()
    assert "8 of 8 cells to compute" in lines[0]
    assert [line.split()[:3] for line in lines[1:3]] == [["downstream", "4", "checkpoints"], ["curvature", "4", "checkpoints"]]
    assert " GiB at the peak; from a few passes of " in lines[3]
    assert lines[4] == "dry run: nothing was computed"
    known = cli("score", *trained.paths, *DATA, "--measures", "downstream", "--store", store, "--dry-run")
    assert "0 of 4 cells to compute" in known.err
    assert known.err.splitlines()[1:] == ["dry run: nothing was computed"]


def test_a_time_budget_says_what_it_gives_up_and_what_it_leaves(cli: Callable[..., Any], trained: Any, tmp_path: Path) -> None:
    common = ("score", trained.paths[0], *DATA, "--measures", "downstream,flatness", "--store", tmp_path / "new.db")
    small = cli(*common, "--set", "flatness.pairs=64", "--time-budget", "0.01s")
    assert small.code == 1
    assert "for the time budget: flatness with draws 4 instead of 16, restarts 1 instead of 3" in small.err
    assert "more than 10 ms: the rest will be left" in small.err
    assert "left for lack of time (run it again to go on)" in small.err
    assert cli(*common, "--time-budget", "2h", "--dry-run").err.count("time budget") == 0
    assert "a duration such as 90s, 10m or 1h30m is wanted" in cli(*common, "--time-budget", "soon").err


def test_a_dry_run_of_a_training_makes_its_checks_and_trains_nothing(cli: Callable[..., Any], trained: Any) -> None:
    tiny = ("--arch", "convnet", "--width", 4, "--projector", "16,8", "--batch", 64, "--warmup", 0, "--lr", 0.1, "--dry-run")
    plan = ("train", *DATA, *tiny, "--epochs", 2)
    ended = cli(*plan, "--method", "ssa-clr", "--out", "new", "--record", "representation", "--record-every", 1)
    assert (ended.code, ended.out) == (0, ""), ended.err
    lines = ended.err.splitlines()
    assert lines[1].startswith("2 of 2 epochs of 1 steps, 64 pairs a step; ")
    assert lines[1].endswith(" parameters; representation recorded 3 times")
    assert lines[2].startswith("roughly ")
    assert lines[3] == "dry run: nothing was trained"
    assert not Path("new").exists()
    there = trained.folder / "simclr"
    assert "pass --resume to continue it" in cli(*plan, "--out", there).err
    assert "0 of 2 epochs" in cli(*plan, "--out", there, "--resume").err
    assert "fewer than a batch of 512" in cli(*plan, "--out", "new", "--batch", 512).err


def test_the_estimate_of_a_training_grows_with_its_work(cli: Callable[..., Any]) -> None:
    def plan(*more: object) -> dict[str, float]:
        tiny = ("--arch", "convnet", "--projector", "16,8", "--warmup", 0, "--out", "new", "--dry-run", "--json")
        found: dict[str, float] = cli("train", *DATA, *tiny, *more).json
        return found

    small = plan("--width", 4, "--batch", 32, "--epochs", 2)
    long = plan("--width", 4, "--batch", 32, "--epochs", 200)
    assert 20 < long["seconds"] / small["seconds"] < 500
    assert (long["steps"], long["disk"]) == (100 * small["steps"], small["disk"])
    wide = plan("--width", 32, "--batch", 96, "--epochs", 2)
    assert wide["memory"] > 5 * small["memory"]
    assert wide["disk"] > 5 * small["disk"]
