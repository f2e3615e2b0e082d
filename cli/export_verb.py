"""``ssa-analyze export``."""

from __future__ import annotations

import io
import json
from pathlib import Path

import click
from ssa_analysis.cli.common import config_option, of_foreign_store, say
from ssa_analysis.reports.html import protocol_note
from ssa_analysis.reports.tables import safe_csv, score_table, summary_table, to_latex

from ssa_analysis.checkpoints.writing import write_atomically
from ssa_analysis.errors import SettingsError
from ssa_analysis.running.store import Store
from ssa_analysis.scores import JSON_FIELDS, Score
from ssa_analysis.texts import visible

FORMATS = ("csv", "json", "parquet", "latex")


@click.command()
@click.argument("store_path", metavar="STORE", type=click.Path())
@click.option("--format", "kind", type=click.Choice(FORMATS), default="csv", show_default=True)
@click.option("--out", type=click.Path(), help="File; default: stdout (not for parquet).")
@click.option("--data", help="Only scores on this data set.")
@config_option("export")
@of_foreign_store
def command(store_path: str, kind: str, out: str | None, data: str | None) -> None:
    """Write all scores of STORE, one a row; latex writes the summary table, checkpoints by key scores.

    \b
    Example:
      ssa-analyze export scores.db --format csv --out scores.csv
      ssa-analyze export scores.db --format json
    """
    if kind == "parquet" and out is None:
        raise click.UsageError("parquet is binary; name a file with --out")
    with Store(store_path, must_exist=True) as store:
        frame, environments = store.frame(data), store.environments()
    if kind == "csv":
        content = safe_csv(score_table(frame)).encode()
    elif kind == "json":
        scores = [
            Score(**{key: row["path"] if key == "checkpoint" else row[key] for key in JSON_FIELDS}).to_json()
            for row in frame.astype(object).to_dict("records")
        ]
        content = (json.dumps(scores, indent=1) + "\n").encode()
    elif kind == "latex":
        content = visible(to_latex(summary_table(frame), protocol_note(frame, environments))).encode()
    else:
        content = _parquet(frame.assign(settings=frame["settings"].map(json.dumps)).drop(columns=["arrays"]))
    if out is None:
        click.echo(content, nl=False)
    else:
        write_atomically(Path(out), content)
        say(f"wrote {out}")


def _parquet(frame: object) -> bytes:
    import pandas as pd

    assert isinstance(frame, pd.DataFrame)
    stream = io.BytesIO()
    try:
        frame.to_parquet(stream, index=False)
    except ImportError as error:
        raise SettingsError("parquet needs pyarrow; run: pip install 'ssa-analysis[parquet]'") from error
    return stream.getvalue()
