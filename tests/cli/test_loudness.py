"""``--quiet`` leaves results and problems, ``--verbose`` says where an error comes from; every verb has both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ssa_analysis.cli.main import VERBS

DATA = ("--data", "digits", "--subset", "300")


def test_quiet_scoring_prints_the_results_alone(cli: Callable[..., Any], trained: Any, tmp_path: Path) -> None:
    common = ("score", trained.paths[0], *DATA, "--measures", "downstream,curvature", "--json")
    quiet = cli(*common, "--store", tmp_path / "a.db", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert {score["measure"] for score in quiet.json} == {"downstream", "curvature"}
    assert cli(*common, "--store", tmp_path / "b.db").err != "", "the next command speaks again"


def test_problems_are_said_in_any_case(cli: Callable[..., Any], trained: Any, tmp_path: Path) -> None:
    common = ("score", trained.paths[0], tmp_path / "no.pt", *DATA, "--store", tmp_path / "a.db", "-q")
    ended = cli(*common, "--measures", "downstream", "--fail-if", "probe_accuracy > 0")
    assert ended.code == 1
    assert [line.split(":")[0] for line in ended.err.splitlines()] == ["left out", "--fail-if probe_accuracy > 0"]


def test_verbose_says_where_an_error_comes_from(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    short, long = (cli("inspect", tmp_path / "bad.pt", *more) for more in ((), ("-v",)))
    assert short.code == long.code == 1
    assert "Traceback" not in short.err
    assert "Traceback" in long.err
    assert long.err.splitlines()[-1] == short.err.strip()
    assert "exclude each other" in cli("inspect", tmp_path / "bad.pt", "-q", "-v").usage()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_both(cli: Callable[..., Any], verb: str) -> None:
    help_text = cli(verb, "--help").out
    assert help_text.count("--quiet") == 1
    assert help_text.count("--verbose") == 1
