"""Options that several verbs share, progress, and how errors end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ssa_analysis.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

F = TypeVar("F", bound=Callable[..., Any])

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def say(text: str) -> None:
    """A line for people, on stderr; colours only where they are wanted."""
    click.echo(text, err=True, color=None if "NO_COLOR" not in os.environ else False)


def duration(seconds: float) -> str:
    """``850 ms``, ``3.2 s``, ``2 min 05 s``, ``1 h 10 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Finished steps out of a known total, one line each, with the time left; readable in a log file too."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started = total, 0, time.monotonic()

    def step(self, text: str) -> None:
        """Count one step and say it."""
        self.done += 1
        elapsed = time.monotonic() - self.started
        left = elapsed / self.done * (self.total - self.done)
        rest = f"  about {duration(left)} left" if self.done < self.total else ""
        width = len(str(self.total))
        say(f"[{self.done:{width}}/{self.total}] {text}{rest}")


def data_options(function: F) -> F:
    """``--data``, ``--data-root``, ``--subset``, ``--image-size``, ``--no-download``."""
    for option in reversed(
        (
            click.option(
                "--data", required=True, metavar="NAME|PATH", help="Data set name, folder of class folders, or .npz file."
            ),
            click.option("--data-root", type=click.Path(), help="Where torchvision's files lie."),
            click.option(
                "--subset", type=click.IntRange(min=3), help="Use about this many images, spread over splits and classes."
            ),
            click.option("--image-size", type=click.IntRange(min=4), help="Resize images to this many pixels."),
            click.option("--no-download", is_flag=True, help="Never try to download a data set."),
        )
    ):
        function = option(function)
    return function


def device_option(function: F) -> F:
    """``--device``."""
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")(function)


def resolve_device(name: str) -> str:
    """``auto`` becomes cuda where there is one; SettingsError for what torch does not have."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try --device cpu") from error
    return name


def parse_settings(items: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """``measure.setting=value`` texts -> measure -> setting -> value."""
    parsed: dict[str, dict[str, str]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        measure, dot, setting = name.partition(".")
        if not (equals and dot and measure and setting):
            raise click.UsageError(f"--set {item!r}: write it as MEASURE.SETTING=VALUE, for instance curvature.top=10")
        parsed.setdefault(measure, {})[setting] = value
    return parsed


def read_config(path: str | None, verb: str) -> Mapping[str, Any]:
    """The table of a verb in a TOML file; UsageError where it cannot be read."""
    if path is None:
        return {}
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path}: cannot be read as TOML ({error})") from error
    table = content.get(verb, {})
    if not isinstance(table, dict):
        raise click.UsageError(f"{path}: [{verb}] must be a table")
    return table


def config_option(verb: str) -> Callable[[F], F]:
    """``--config FILE.toml``: its ``[verb]`` table gives defaults for the verb's options; the command line wins."""

    def load(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        table = read_config(value, verb)
        options = {p.name: p for p in context.command.params if p.name}
        defaults: dict[str, Any] = {}
        for key, item in table.items():
            name = key.replace("-", "_")
            if name not in options:
                import difflib

                close = difflib.get_close_matches(name, options, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise click.UsageError(f"{value}: [{verb}] has no option {key!r}{hint}")
            defaults[name] = _config_value(item)
        context.default_map = {**(context.default_map or {}), **defaults}

    return click.option(
        "--config", type=click.Path(), callback=load, is_eager=True, expose_value=False,
        help=f"TOML file; its [{verb}] table gives defaults for these options.",
    )  # fmt: skip


def _config_value(item: Any) -> Any:
    """Nested tables become the ``a.b=value`` texts of ``--set``."""
    if isinstance(item, dict):
        return [f"{measure}.{key}={value}" for measure, inner in item.items() for key, value in _inner(measure, inner).items()]
    return item


def _inner(measure: str, inner: Any) -> dict[str, Any]:
    if not isinstance(inner, dict):
        raise click.UsageError(f"[score.set.{measure}] must be a table of settings")
    return inner
