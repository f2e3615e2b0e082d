"""Values of a configuration file that are of another kind than their option, and names that would command a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("json = nan", r"\[score.json\] must be true or false"), ("workers = inf", "must be a whole number"),
        ("workers = true", "must be a whole number"), ("tau = 'x'", "is not a valid float"),
        ("tau = true", "must be a number"), ("store = 0.5", "must be a path"),
        ("store = 1979-05-27", "must be a path"), ("data = true", "must be a text"), ("test-set = [{a = 1}]", "list of texts"),
        ("measures = 'a\\u0000b'".replace("'", '"'), "holds a zero byte"), ("corruptions = 10", "must be a path"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind(cli: Cli, good: Path, line: str, message: str) -> None:
    Path("x.toml").write_text(f"[score]\n{line}\n")
    assert re.search(message, cli("score", good, "--data", "digits", "--config", "x.toml").usage())


def test_values_of_the_right_kind_are_taken(cli: Cli, good: Path) -> None:
    Path("x.toml").write_text('[score]\ndata = "digits"\nsubset = 300\nmeasures = ["representation"]\ntau = 1\njson = true\n')
    assert cli("score", good, "--config", "x.toml").json[0]["settings"]["tau"] == 1


def test_an_error_names_no_escape_sequence(cli: Cli) -> None:
    ended = cli("inspect", "a\x1b]0;x\x07\nb.pt")
    assert ended.complaint() == "ssa-analyze: a\\x1b]0;x\\x07\\nb.pt: no such file"
    assert "\x1b" not in cli("score", "x.pt", "--data", "digits", "--no\x1b[2J").err


def test_names_in_a_file_are_spelt_out(cli: Cli, tmp_path: Path, payload: dict[str, Any]) -> None:
    torch.save({**payload, "optimizer\x1b[2J": [1]}, tmp_path / "a\x1b[2J.pt")
    ended = cli("inspect", tmp_path / "a\x1b[2J.pt")
    assert ended.code == 0
    assert "a\\x1b[2J.pt" in ended.out
    assert "\x1b" not in ended.out


def test_names_that_are_no_utf_8_from_score_to_report(cli: Cli, good: Path, tmp_path: Path) -> None:
    strange = tmp_path / "caf\udce9.pt"
    strange.write_bytes(good.read_bytes())
    assert cli("score", strange, "--data", "digits", "--subset", 300, "--measures", "representation").code == 0
    assert cli("report", "scores.db", "--out", "report").code == 0
    assert "caf\\xe9" in Path("report/index.html").read_bytes().decode()
    assert "caf\\xe9" in cli("export", "scores.db").out
    assert cli("compare", strange, strange, "--store", "scores.db").code == 0


def test_scores_that_no_measure_wrote(cli: Cli, store: Path) -> None:
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(store)) as db:
        db.execute("UPDATE cells SET measure = 'bounds' WHERE measure = 'representation'")
        db.execute("UPDATE scores SET name = 'R1' WHERE name = 'alignment'")
        db.commit()
    ended = cli("report", store, "--out", "report")
    assert ended.code == 1
    assert re.search("holds scores that are not as ssa-analyze writes them .*; if it has written them, report", ended.complaint())


def test_no_home_of_nobody(cli: Cli) -> None:
    for arguments in (("inspect", "~nobody-of-this-name/x"), ("export", "~nobody-of-this-name/s.db")):
        assert cli(*arguments).complaint().startswith("ssa-analyze: ~nobody-of-this-name/")


def test_memory_that_runs_out_is_said_in_a_line(cli: Cli, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssa_analysis.cli import inspect_verb

    def grab(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(inspect_verb, "load_checkpoint", grab)
    ended = cli("inspect", good)
    assert (ended.code, "memory ran out" in ended.complaint()) == (1, True)


def test_a_budget_of_ages(cli: Cli, good: Path) -> None:
    ended = cli("score", good, "--data", "digits", "--time-budget", "9" * 400 + "h")
    assert (ended.code, "a duration such as" in ended.complaint()) == (2, True)


def test_a_log_that_is_a_link_or_damaged_when_a_training_goes_on(cli: Cli, tmp_path: Path) -> None:
    tiny = (
        "--data",
        "digits",
        "--subset",
        300,
        "--arch",
        "convnet",
        "--width",
        4,
        "--projector",
        "8",
        "--batch",
        64,
        "--warmup",
        0,
    )
    (tmp_path / "precious").write_text("precious")
    assert cli("train", *tiny, "--epochs", 1, "--out", "run").code == 0
    Path("run/log.csv").unlink()
    Path("run/log.csv").symlink_to(tmp_path / "precious")
    assert cli("train", *tiny, "--epochs", 1, "--out", "run", "--resume").code == 0
    assert (tmp_path / "precious").read_text() == "precious"
    assert not Path("run/log.csv").is_symlink()
