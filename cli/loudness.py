"""How much is said: lines for people on stderr, fewer with ``--quiet``, more of an error with ``--verbose``. Without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

import click

from ssa_analysis.progress import hide_progress
from ssa_analysis.texts import one_line, visible


@dataclass
class Loudness:
    """How much the command line says: ``quiet`` leaves results and problems, ``verbose`` adds where an error came from."""

    quiet: bool = False
    verbose: bool = False


LOUDNESS = Loudness()


def loudness_options() -> list[click.Option]:
    """``--quiet`` and ``--verbose``, which every verb has."""

    def quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        LOUDNESS.quiet = value
        if value:
            hide_progress()

    def verbose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        LOUDNESS.verbose = value
        if value and LOUDNESS.quiet:
            raise click.UsageError("--quiet and --verbose exclude each other")

    return [
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=quiet, help="Say results and problems only."),
        click.Option(["-v", "--verbose"], is_flag=True, expose_value=False, callback=verbose, help="Say where errors come from."),
    ]


def warn(text: str) -> None:
    """A line on stderr that is said even with ``--quiet``."""
    say(text, problem=True)


def say(text: str, problem: bool = False, colour: str | None = None) -> None:
    """A line for people, on stderr; in a colour only where that is wanted, and never in one that a name brings along. Of a
    job's processes, the first one speaks."""
    if os.environ.get("RANK", "0") != "0" or (LOUDNESS.quiet and not problem):
        return
    shown = click.style(one_line(text), fg=colour) if colour else one_line(text)
    click.echo(shown, err=True, color=None if "NO_COLOR" not in os.environ else False)


def put(text: str) -> None:
    """A result on stdout, of one line or several; names in it that would command a terminal are spelt out."""
    click.echo(visible(text))
