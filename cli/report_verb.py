"""``ssa-analyze report``."""

from __future__ import annotations

import click
from ssa_analysis.cli.common import config_option, json_option, of_foreign_store, print_json, say, warn
from ssa_analysis.reports.findings import findings
from ssa_analysis.reports.html import write_report
from ssa_analysis.reports.style import SIZES

from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.errors import DataError
from ssa_analysis.running.store import Store


@click.command()
@click.argument("store_path", metavar="STORE", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Folder for index.html, figures/ and tables/.")
@click.option("--data", help="Data set, where the store holds several.")
@click.option("--data-root", type=click.Path(), help="Where the images lie, for the contact sheet of views.")
@click.option(
    "--size", type=click.Choice([*SIZES]), help="Set the figures' files for a venue's text or column; the page has its own."
)
@json_option("the page and the findings")
@config_option("report")
@of_foreign_store
def command(store_path: str, out: str, data: str | None, data_root: str | None, size: str | None, as_json: bool) -> None:
    """Write the report of STORE: a page that needs no network, figures as PNG and PDF, tables as CSV and LaTeX.

    The page has the findings, every figure and table, a page for each checkpoint and the comparison of any two.

    \b
    Example:
      ssa-analyze report scores.db --out report/
      ssa-analyze report scores.db --out paper/ --size icml-column
    """
    with Store(store_path, must_exist=True) as store:
        frame = store.frame(data)
        path = write_report(store, out, frame=frame, images=_images(store, data, data_root), size=size)
    if as_json:
        print_json({"report": path, "findings": findings(frame)})
    say(f"wrote {path}")


def _images(store: Store, data: str | None, root: str | None) -> Data | None:
    """The scored data set, if it is one of those that are known by name and it is here; nothing is downloaded."""
    names = [data] if data is not None else store.data_names()
    if len(names) != 1:
        return None
    try:
        return load_data(names[0], root, download=False)
    except DataError as error:
        if root is not None:
            warn(f"no contact sheet of the views: {error}")
        return None
