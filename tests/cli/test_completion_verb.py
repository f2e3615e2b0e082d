"""Completion in a shell: the script, and what it is answered."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest


def answers(words: str, at: int) -> list[str]:
    """What the command offers for a word of a command line, as the script for bash asks it."""
    asked = {"_SSA_ANALYZE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    code = "import sys; sys.argv = ['ssa-analyze']; from ssa_analysis.cli.main import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    return [line.split(",", 1)[1] for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(cli: Callable[..., Any], shell: str) -> None:
    ended = cli("completion", shell)
    assert ended.code == 0
    assert f"_SSA_ANALYZE_COMPLETE={shell}_complete" in ended.out
    assert cli("completion", "tcsh").code == 2


def test_verbs_and_options_are_offered() -> None:
    assert answers("ssa-analyze in", 1) == ["inspect"]
    assert {"--data", "--data-root"} <= set(answers("ssa-analyze doctor --da", 2))
