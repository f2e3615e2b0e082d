"""``ssa-analyze doctor``: lines, JSON, exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ssa_analysis.diagnosis.findings import VERDICTS

DATA = ("--data", "digits", "--subset", 300)


def test_a_line_for_each_check_with_how_it_is_known(cli: Callable[..., Any], trained: Any) -> None:
    ended = cli("doctor", trained.paths[0], *DATA)
    lines = ended.out.splitlines()
    assert ended.code == int("broken" in lines[-1]), ended.err
    checks = [line for line in lines[:-1] if not line.startswith(" ")]
    assert all(line.split()[0] in VERDICTS for line in checks)
    assert sum("how: " in line for line in lines) == len(checks)
    assert [sum(line.startswith(verdict) for line in checks) for verdict in VERDICTS if f" {verdict}" in f" {lines[-1]}"] == [
        int(part.split()[0]) for part in lines[-1].split(", ")
    ]
    brief = cli("doctor", trained.paths[0], *DATA, "--brief").out.splitlines()
    assert brief[:-1] == checks


def test_a_broken_checkpoint_ends_with_one_and_as_json(cli: Callable[..., Any], trained: Any, tmp_path: Path) -> None:
    content = torch.load(trained.paths[0], weights_only=True)
    next(iter(content["model"].values())).fill_(float("nan"))
    torch.save(content, tmp_path / "nan.pt")
    ended = cli("doctor", tmp_path / "nan.pt", *DATA, "--json")
    assert ended.code == 1
    found = {finding["check"]: finding for finding in ended.json}
    assert found["finite weights"]["verdict"] == "broken"
    assert set(found["file"]) == {"check", "verdict", "seen", "how"}
    assert cli("score", tmp_path / "nan.pt", *DATA, "--store", "s.db").code == 1, "scoring refuses such weights as before"


def test_a_file_that_is_missing(cli: Callable[..., Any]) -> None:
    ended = cli("doctor", "nothing.pt", *DATA)
    assert ended.code == 1
    assert "no such file" in ended.out
