"""Every example of every verb's help runs as it is printed, in a folder that holds the files which the examples name."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import run_line
from ssa_analysis.cli.main import VERBS

pytestmark = pytest.mark.slow


def examples(help_text: str) -> list[str]:
    """The lines after ``Example:``, up to the empty line."""
    block = help_text.split("Example:")[1].split("\n\n")[0]
    return [line.strip() for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_run_as_they_are_printed(cli: Callable[..., Any], workplace: Path, verb: str) -> None:
    helped = cli(verb, "--help")
    assert (helped.code, helped.err) == (0, "")
    found = examples(helped.out)
    assert found
    for line in found:
        assert shlex.split(line)[:2] == ["ssa-analyze", verb]
        ended = run_line(line)
        assert ended.code == 0, f"{line}\n{ended.err}"
        assert "Traceback" not in ended.err
        assert ended.out or ended.err


def test_no_example_wraps(cli: Callable[..., Any]) -> None:
    """A line of help that begins with an option would be the rest of a command that did not fit."""
    for verb in VERBS:
        assert all(line.startswith(f"ssa-analyze {verb} ") for line in examples(cli(verb, "--help").out)), verb
