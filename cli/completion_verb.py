"""``ssa-analyze completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script that completes verbs, options and files in SHELL.

    Keep it where the shell looks: for bash as ~/.local/share/bash-completion/completions/ssa-analyze, for zsh as _ssa-analyze
    in a folder of $fpath, for fish as ~/.config/fish/completions/ssa-analyze.fish.

    \b
    Example:
      ssa-analyze completion bash
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "ssa-analyze", "_SSA_ANALYZE_COMPLETE").source())
