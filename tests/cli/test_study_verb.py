"""``ssa-analyze study`` from its plan to its report, and records of a training."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import DRAWN
from ssa_analysis.reports import html

from ssa_analysis.running.store import Store

Cli = Callable[..., Any]
SMOKE = Path(__file__).resolve().parents[2] / "studies" / "smoke.toml"


@pytest.fixture(scope="module")
def finished(smoke_study: Any) -> tuple[Path, Any]:
    return smoke_study.folder, smoke_study.ended


def test_the_plan_is_shown_first_and_a_dry_run_ends_there(cli: Cli, tmp_path: Path) -> None:
    ended = cli("study", SMOKE, "--out", tmp_path / "out", "--dry-run")
    assert (ended.code, ended.out) == (0, "")
    lines = ended.err.splitlines()
    assert lines[0] == "study smoke: 8 checkpoints of 4 configurations (4 simclr, 4 ssa-clr)"
    assert lines[1].startswith("data: digits, 300 images (train ")
    assert lines[3].endswith(": 0 of 8 are trained")
    assert "estimate, from a few steps on this machine: training " in lines[4]
    assert lines[4].endswith("of checkpoints")
    assert not (tmp_path / "out").exists()
    plan = cli("study", SMOKE, "--out", tmp_path / "out", "--dry-run", "--json").json
    assert (plan["study"], plan["checkpoints"], plan["configurations"], plan["to_train"]) == ("smoke", 8, 4, 8)
    assert set(plan["estimate"]) == {"training", "scoring", "disk", "memory"}
    assert min(plan["estimate"].values()) > 0


def test_it_trains_scores_links_judges_and_reports(finished: tuple[Path, Any]) -> None:
    folder, ended = finished
    assert ended.code == 0, ended.err
    assert "1/3 training 8 of 8 checkpoints" in ended.err
    assert "2/3 scoring: 32 of 32 cells to compute" in ended.err
    assert len(list(folder.glob("runs/*/last.pt"))) == 8
    with Store(folder / "scores.db", must_exist=True) as store:
        assert store.failures().empty
        assert len(store.checkpoints()) == 8
    assert "Lower sharpness goes with higher downstream accuracy at equal training loss: " in ended.out
    assert "SSA-CLR has the best downstream accuracy: " in ended.out
    assert ended.out.splitlines()[-1].startswith(f"Report: {folder}/report/index.html")
    page = (folder / "report" / "index.html").read_text()
    assert 'id="table-verdicts"' in page
    for name in DRAWN:
        assert (folder / "report" / "figures" / f"{name}.pdf").is_file()


def test_the_same_command_again_has_nothing_to_do(cli: Cli, finished: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, first = finished
    monkeypatch.setattr(html, "FIGURES", ())
    again = cli("study", SMOKE, "--out", folder, "--json")
    assert again.code == 0
    assert "1/3 training 0 of 8 checkpoints" in again.err
    assert "2/3 scoring: 0 of 32 cells to compute" in again.err
    told = again.json
    assert [f"{n}. {text}" for n, text in enumerate(told["findings"], 1)] == first.out.splitlines()[:-1]
    assert (told["study"], told["trained"], told["computed"], told["failed"]) == ("smoke", 0, 0, [])
    assert Path(told["report"]).is_file()
    assert Path(told["store"]) == folder / "scores.db"
    claims = {verdict["claim"]: verdict["verdict"] for verdict in told["verdicts"]}
    for claim, verdict in claims.items():
        assert f"{claim}: {verdict.upper()}" in first.out
    assert len(claims) >= 3


def test_what_is_added_to_the_file_is_done(cli: Cli, finished: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = finished
    more = tmp_path / "smoke.toml"
    more.write_text(SMOKE.read_text().replace("lr = [0.05, 0.2]", "lr = [0.05, 0.2, 0.4]"))
    ended = cli("study", more, "--out", folder, "--dry-run")
    assert ended.err.splitlines()[0].startswith("study smoke: 12 checkpoints of 6 configurations")
    assert ended.err.splitlines()[3].endswith(": 8 of 12 are trained")


def test_mistakes_of_the_file_are_told_in_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[data]\nname = "digits"\n[train]\nlearning_rate = 1.0\n')
    ended = cli("study", tmp_path / "bad.toml", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "bad.toml: unknown training setting 'learning_rate'" in ended.complaint()
    missing = cli("study", tmp_path / "none.toml")
    assert "none.toml: cannot be read (No such file or directory)" in missing.complaint()


def test_executors_are_listed_and_unknown_ones_refused(cli: Cli, tmp_path: Path) -> None:
    listed = cli("list", "executors").out
    assert [line.split()[0] for line in listed.splitlines() if not line.startswith(" ")] == ["local", "ray", "slurm"]
    ended = cli("study", SMOKE, "--out", tmp_path / "out", "--executor", "rai")
    assert (ended.code, "did you mean ray" in ended.complaint()) == (2, True)
    ended = cli("study", SMOKE, "--out", tmp_path / "out", "--executor-option", "address")
    assert "write it as NAME=VALUE" in ended.usage()


def test_sharpness_and_shift_are_recorded_while_training(cli: Cli, tmp_path: Path) -> None:
    ended = cli(
        "train", "--data", "digits", "--subset", 300, "--arch", "convnet", "--width", 4, "--projector", "16,8", "--epochs", 4,
        "--batch", 32, "--out", tmp_path / "run", "--record", "flatness,representation", "--record-every", 2,
        "--set", "flatness.pairs=16", "--set", "flatness.batch=16", "--set", "flatness.steps=1", "--set", "flatness.draws=2",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader((tmp_path / "run" / "records.csv").read_text().splitlines()))
    worst = {int(row["epoch"]): float(row["value"]) for row in rows if row["name"] == "worst_case"}
    assert sorted(worst) == [0, 2, 4]
    assert len(set(worst.values())) == 3
    refused = cli("train", "--data", "digits", "--out", tmp_path / "b", "--set", "shift.pairs=3")
    assert "that measure is not recorded" in refused.usage()
