"""``ssa-analyze report``."""

from __future__ import annotations

import click
from ssa_analysis.cli.common import config_option, say
from ssa_analysis.reports.html import write_report

from ssa_analysis.running.store import Store


@click.command()
@click.argument("store_path", metavar="STORE", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Folder for index.html, figures/ and tables/.")
@click.option("--data", help="Data set, where the store holds several.")
@config_option("report")
def command(store_path: str, out: str, data: str | None) -> None:
    """Write the report of STORE: a page that needs no network, figures as PNG and PDF, tables as CSV and LaTeX.

    \b
    Example:
      ssa-analyze report scores.db --out report/
    """
    with Store(store_path, must_exist=True) as store:
        path = write_report(store, out, data=data)
    say(f"wrote {path}")
