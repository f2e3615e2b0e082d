"""The entry point: the group of verbs, and how errors become one line and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from contextlib import suppress

import click
from ssa_analysis.cli.loudness import LOUDNESS, loudness_options

from ssa_analysis.errors import SSAError
from ssa_analysis.progress import show_progress
from ssa_analysis.texts import one_line
from ssa_analysis.version import __version__

# verb -> module; a verb is imported when it is used, so that --help does not wait for torch
VERBS = {
    "demo": "Train eight small encoders on digits, score them, write a report.",
    "study": "Train a grid of checkpoints, score, link, judge, report.",
    "train": "Train an encoder: SimCLR, with SAM, with Fourier, or SSA-CLR.",
    "score": "Measure checkpoints and keep the scores in a store.",
    "link": "Link the scores of a store with downstream accuracy, judge the claims.",
    "compare": "Set two checkpoints' scores side by side.",
    "corruptions": "Draw what the corruptions do to a data set's images.",
    "views": "Advise on augmentations: which of them bring the shift down.",
    "bounds": "Check the bounds of the theory on checkpoints.",
    "report": "Write a store's report: one HTML page, figures, tables.",
    "inspect": "Say what a checkpoint file holds.",
    "doctor": "Check a checkpoint: sound weights, right normalisation and stem, no collapse.",
    "list": "List measures, datasets, layouts or methods.",
    "export": "Write a store's scores as csv, json, parquet or latex.",
    "completion": "Print a script that completes commands in a shell.",
}


class Verbs(click.Group):
    """Loads a verb's module when it is called, and guesses what a mistyped one was meant to be."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = importlib.import_module(f"ssa_analysis.cli.{name}_verb").command
        assert isinstance(command, click.Command)
        command.name = name
        if not any(parameter.name == "quiet" for parameter in command.params):
            command.params += loudness_options()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else f" Verbs: {', '.join(VERBS)}."
            raise click.UsageError(f"There is no verb {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


SHARED = ("score", "train")  # verbs whose work the processes of a torchrun job share


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ssa-analyze")
@click.pass_context
def cli(context: click.Context) -> None:
    """Sharpness, shift, robustness and bounds of self-supervised vision checkpoints.

    \b
    Start with:  ssa-analyze demo --out demo
    On your own: ssa-analyze score runs/*/last.pt --data cifar10 --store scores.db
                 ssa-analyze report scores.db --out report
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and context.invoked_subcommand not in SHARED:
        raise click.UsageError(
            f"{context.invoked_subcommand} runs in one process, but torchrun has started {os.environ['WORLD_SIZE']}; "
            f"only {' and '.join(SHARED)} share their work among them"
        )


def main() -> None:
    """Run the CLI. Exit codes: 0 all done, 1 something failed, 2 usage, 130 interrupted."""
    if os.environ.get("RANK", "0") == "0":  # of a job's processes, the first one speaks
        show_progress()
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.UsageError as error:
        error.message = one_line(error.message)
        error.show(sys.stderr)
        sys.exit(2)
    except click.ClickException as error:
        error.message = one_line(error.message)
        error.show(sys.stderr)
        sys.exit(1)
    except SSAError as error:
        if LOUDNESS.verbose:
            traceback.print_exc()
        click.echo(f"ssa-analyze: {one_line(str(error))}", err=True)
        sys.exit(2 if error.is_usage else 1)
    except (KeyboardInterrupt, click.Abort):
        click.echo("ssa-analyze: interrupted; what was finished is kept", err=True)
        sys.exit(130)
    except OSError as error:
        # a last net, for instance for a full disk behind stdout (a reader of stdout that has gone is click's business)
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"ssa-analyze: {one_line(f'{where}{error.strerror or error}')}", err=True)
        with suppress(OSError):  # what is still in the buffer would fail again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        click.echo("ssa-analyze: memory ran out; ask for less at a time (--subset, a smaller --image-size)", err=True)
        sys.exit(1)
    except ImportError as error:
        click.echo(f"ssa-analyze: {explain_import(error)}", err=True)
        sys.exit(1)
    except RuntimeError as error:
        if "torchvision" not in str(error):
            raise
        click.echo(f"ssa-analyze: {explain_import(error)}", err=True)
        sys.exit(1)


def explain_import(error: BaseException) -> str:
    """What to do when a package is absent or torch and torchvision do not match."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "torchvision" in text:
        return f"torch and torchvision are not a matching pair ({text}); run: pip install --upgrade torch torchvision"
    return f"a package is missing or broken ({text}); run: pip install --upgrade ssa-analysis"
