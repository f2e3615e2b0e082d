"""Options that several verbs share, progress, and how errors end."""

from __future__ import annotations

import difflib
import functools
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from ssa_analysis.cli.loudness import say, warn

from ssa_analysis.checkpoints.finding import find_checkpoints
from ssa_analysis.checkpoints.options import load_options
from ssa_analysis.checkpoints.own_model import parse_model
from ssa_analysis.errors import CheckpointError, SettingsError, StoreError
from ssa_analysis.paths import expanded
from ssa_analysis.progress import duration, parse_duration
from ssa_analysis.scores import plain_json
from ssa_analysis.stopping import gentle_interrupts, stop_requested
from ssa_analysis.toml_files import read_toml

F = TypeVar("F", bound=Callable[..., Any])

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class Progress:
    """Finished steps out of a known total, one line each, with the time left; readable in a log file too."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started = total, 0, time.monotonic()

    def step(self, text: str, problem: bool = False) -> None:
        """Count one step and say it; a problem even with ``--quiet``."""
        self.done += 1
        elapsed = time.monotonic() - self.started
        left = elapsed / self.done * (self.total - self.done)
        rest = f"  about {duration(left)} left" if self.done < self.total and not stop_requested() else ""
        width = len(str(self.total))
        say(f"[{self.done:{width}}/{self.total}] {text}{rest}", problem)


def json_option(what: str) -> Callable[[F], F]:
    """``--json``: stdout holds ``what`` as one JSON document and nothing else; the command gets it as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON on stdout.")


def print_json(value: Any) -> None:
    """One JSON document on stdout, of plain values, scores, dataclasses, paths and numpy's scalars; NaN and infinity are null."""
    click.echo(json.dumps(plain_json(value), indent=1, allow_nan=False))


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


def model_options(function: F) -> F:
    """``--model``, ``--normalise``, ``--layout``, ``--recipe``, ``--embedding``; the command gets them as ``options``."""

    @functools.wraps(function)
    def command(
        *arguments: Any,
        model: str | None,
        normalise: str | None,
        layout: str | None,
        recipe: tuple[str, ...],
        embedding: str,
        **others: Any,
    ) -> Any:
        if model is None and normalise is not None:
            recipe = (*recipe, f"normalisation={normalise}")
        own = None if model is None else parse_model(model, normalise)
        return function(*arguments, options=load_options(own, layout, recipe, embedding), **others)

    from_file = "Your own architecture: the file is executed, the function returns a torch.nn.Module. See docs/checkpoints.md"
    numbers = "Input normalisation: imagenet, cifar10, cifar100, half, none or m,m,m/s,s,s. Needed with --model."
    wrapped: Any = command
    for option in reversed(
        (
            click.option("--model", metavar="FILE.py:FUNCTION", help=from_file),
            click.option("--normalise", metavar="NAME|NUMBERS", help=numbers),
            click.option(
                "--layout", metavar="NAME|FILE.toml", help="Read the file as this layout. See: ssa-analyze list layouts"
            ),
            click.option(
                "--recipe",
                multiple=True,
                metavar="NAME=VALUE",
                help="What the file does not say: stem_padding, max_pool, stem_relu, heads, feature_layer, ...; repeatable.",
            ),
            click.option(
                "--embedding",
                default="projector",
                show_default=True,
                help="What the contrastive loss sees: the projector's output, or features, for a file without one.",
            ),
        )
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


_STRANGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


def of_foreign_store(function: F) -> F:
    """For commands of a store (``store_path``), which anybody may have written: StoreError where its scores are not as measures
    write them, and break what shows them."""

    @functools.wraps(function)
    def command(*arguments: Any, store_path: str | None, **others: Any) -> Any:
        try:
            return function(*arguments, store_path=store_path, **others)
        except _STRANGE as error:
            if store_path is None:
                raise
            what = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            raise StoreError(
                f"{store_path}: holds scores that are not as ssa-analyze writes them ({what}); if it has written them, "
                "report what --verbose says"
            ) from error

    return command  # type: ignore[return-value]


def corruption_options(function: F) -> F:
    """``--corruptions``, ``--frost-textures``."""
    official = (
        "Official corrupted images for robustness: a CIFAR-10-C or CIFAR-100-C folder or an ImageNet-C tree; else regenerated."
    )
    option = click.option("--corruptions", type=click.Path(), metavar="FOLDER", help=official)
    textures = "The official frost textures, for regenerated corruptions; else a procedural texture under its own name."
    return option(click.option("--frost-textures", type=click.Path(), metavar="FOLDER", help=textures)(function))


def whole_path(path: str | None) -> str:
    """An absolute path, so that a store knows the setting from anywhere; empty for None."""
    return "" if path is None else str(expanded(path).absolute())


def device_option(function: F) -> F:
    """``--device``."""
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")(function)


def executor_options(function: F) -> F:
    """``--workers``, ``--executor``, ``--executor-option``."""
    for option in reversed(
        (
            click.option(
                "--workers",
                type=click.IntRange(min=1),
                help="Jobs at a time; local: processes, default one for each GPU, else 1.",
            ),
            click.option(
                "--executor", default="local", show_default=True, help="What runs the jobs. See: ssa-analyze list executors"
            ),
            click.option(
                "--executor-option",
                multiple=True,
                metavar="NAME=VALUE",
                help="Of the executor, such as address=HOST:PORT or slurm_partition=gpu; repeatable.",
            ),
        )
    ):
        function = option(function)
    return function


def chosen_executor(name: str, workers: int | None, options: tuple[str, ...], device: str, isolated: bool = False) -> Any:
    """The executor that the three options stand for."""
    from ssa_analysis.running.executors import ExecutorSettings, make_executor

    values = {}
    for item in options:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise click.UsageError(f"--executor-option {item!r}: write it as NAME=VALUE")
        values[key.strip()] = value.strip()
    return make_executor(name, ExecutorSettings(workers, device, values, isolated))


def cell_timeout_option(function: F) -> F:
    """``--cell-timeout``, as seconds."""
    return click.option(
        "--cell-timeout",
        metavar="DURATION",
        callback=lambda context, parameter, value: None if value is None else parse_duration(value),
        help="End a cell that takes longer, such as 30m, and record it as failed; the others go on. Uses a process of its own.",
    )(function)


@contextmanager
def interruptible(what: str) -> Iterator[None]:
    """The first Ctrl-C inside the block ends the work after ``what``, the second one at once."""
    with gentle_interrupts(lambda: warn(f"stopping after {what}; Ctrl-C again stops now (what is finished is kept)")):
        yield


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


def merge_settings(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Callback of ``--set``: the command line adds to the settings of --config, and wins where both name one."""
    assert parameter.name is not None
    if context.get_parameter_source(parameter.name) is not click.core.ParameterSource.COMMANDLINE:
        return value
    return (*(context.default_map or {}).get(parameter.name, ()), *value)


def set_option(metavar: str, text: str) -> Callable[[F], F]:
    """``--set``, repeatable; texts of the settings as ``assignments``."""
    return click.option("--set", "assignments", multiple=True, metavar=metavar, callback=merge_settings, help=text)


def known_checkpoints(patterns: tuple[str, ...]) -> tuple[list[Path], int]:
    """Files behind the patterns, and how many patterns or files had to be left out, which is said on stderr.

    Raises:
        CheckpointError: there is nothing to work on.
    """
    paths: list[Path] = []
    problems: list[CheckpointError] = []
    for pattern in patterns:
        try:
            found = find_checkpoints([pattern])
        except CheckpointError as error:
            problems.append(error)
            continue
        problems += [CheckpointError(f"{path}: may not be read (permission denied)") for path in found if not _readable(path)]
        paths += [path for path in found if _readable(path) and path not in paths]
    if not paths:
        raise problems[0]
    for problem in problems:
        warn(f"left out: {problem}")
    return paths, len(problems)


def _readable(path: Path) -> bool:
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


def read_config(path: str | None, verb: str, verbs: Collection[str]) -> Mapping[str, Any]:
    """The table of a verb in a TOML file; UsageError where it cannot be read or has a table for no verb."""
    if path is None:
        return {}
    try:
        content = read_toml(Path(path))
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    for name in content:
        if name not in verbs:
            raise click.UsageError(f"{path}: [{name}] is no verb{_closest(name, verbs)}")
    table = content.get(verb, {})
    if not isinstance(table, dict):
        raise click.UsageError(f"{path}: [{verb}] must be a table")
    return table


def config_option(verb: str) -> Callable[[F], F]:
    """``--config FILE.toml``: its ``[verb]`` table gives defaults for the verb's options; the command line wins."""

    def load(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        root = context.find_root().command
        verbs = root.list_commands(context) if isinstance(root, click.Group) else [verb]
        options = {
            spelling.removeprefix("--"): option
            for option in context.command.params
            if isinstance(option, click.Option) and option is not parameter
            for spelling in option.opts
        }
        defaults: dict[str, Any] = {}
        for key, item in read_config(value, verb, verbs).items():
            spelling = key.replace("_", "-")
            if spelling not in options:
                raise click.UsageError(f"{value}: [{verb}] has no option {key!r}{_closest(spelling, options)}")
            option = options[spelling]
            assert option.name is not None
            defaults[option.name] = _config_value(f"{value}: [{verb}.{key}]", item, option)
        context.default_map = {**(context.default_map or {}), **defaults}

    return click.option(
        "--config", type=click.Path(), callback=load, is_eager=True, expose_value=False,
        help=f"TOML file; its [{verb}] table gives defaults for these options.",
    )  # fmt: skip


def _closest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _config_value(where: str, item: Any, option: click.Option) -> Any:
    """Nested tables become the ``a.b=value`` texts of ``--set``, lists the comma-separated text of other options."""
    if isinstance(item, dict):
        if not option.multiple or not all(isinstance(inner, dict) for inner in item.values()):
            what = "tables of settings, one for each measure" if option.multiple else "a value, not a table"
            raise click.UsageError(f"{where} must be {what}")
        return [f"{measure}.{key}={value}" for measure, inner in item.items() for key, value in inner.items()]
    if option.multiple and not isinstance(item, list):
        raise click.UsageError(f"{where} must be a list or tables of settings")
    if isinstance(item, list):
        if not all(isinstance(part, str | int | float) for part in item):
            raise click.UsageError(f"{where} must be a list of texts or numbers")
        texts = [_plain_text(where, str(part)) for part in item]
        return texts if option.multiple else _of_type(where, ",".join(texts), option)
    return _of_type(where, item, option)


def _of_type(where: str, item: Any, option: click.Option) -> Any:
    """A value of a TOML file as click takes one from a command line; UsageError for one of another kind."""
    kind, wanted = option.type, "a text"
    is_number = isinstance(item, int | float) and not isinstance(item, bool)
    if option.is_flag:
        fits, wanted = isinstance(item, bool), "true or false"
    elif isinstance(kind, click.types.IntParamType):
        fits, wanted = isinstance(item, str) or (is_number and isinstance(item, int)), "a whole number"
    elif isinstance(kind, click.types.FloatParamType):
        fits, wanted = isinstance(item, str) or is_number, "a number"
    elif isinstance(kind, click.Path):
        fits, wanted = isinstance(item, str), "a path"
    else:
        item = str(item) if is_number else item
        fits = isinstance(item, str)
    if not fits:
        raise click.UsageError(f"{where} must be {wanted}, got {item!r:.80}")
    return _plain_text(where, item) if isinstance(item, str) else item


def _plain_text(where: str, text: str) -> str:
    if "\0" in text:
        raise click.UsageError(f"{where} holds a zero byte")
    return text
