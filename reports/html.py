"""Write a report: one self-contained page, and the same figures and tables as files."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from ssa_analysis.reports.analysis import linking_of
from ssa_analysis.reports.figures import FIGURES
from ssa_analysis.reports.findings import findings
from ssa_analysis.reports.style import styled
from ssa_analysis.reports.tables import (
    bounds_table,
    links_table,
    predictions_table,
    safe_csv,
    score_table,
    summary_table,
    to_latex,
    verdicts_table,
)

from ssa_analysis.checkpoints.writing import make_folder, write_atomically
from ssa_analysis.errors import DataError
from ssa_analysis.linking.hypotheses import HypothesisSettings
from ssa_analysis.linking.table import mixed_images
from ssa_analysis.measures import MEASURES
from ssa_analysis.running.store import Store
from ssa_analysis.version import __version__

FILE_KINDS = ("png", "pdf")
DPI = 150


@dataclass(frozen=True)
class Section:
    """One figure of the page."""

    name: str
    title: str
    caption: str
    svg: str  # base64


def figure_files(figure: Figure, kinds: Sequence[str]) -> dict[str, bytes]:
    """A figure as ``png``, ``pdf`` or ``svg``, by kind; the same figure always gives the same bytes.

    The layout is worked out once and stays: for each file anew it would take longer than to draw them.
    """
    files = {}
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*constrained_layout not applied.*")
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the tables spell such names out
        figure.set_dpi(DPI)
        figure.draw_without_rendering()
        # with a layout engine, even "none", every file is drawn twice; without this setting it would come back
        with mpl.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)
            for kind in kinds:
                stream = io.BytesIO()
                # dates would make two reports of one store differ
                metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
                figure.savefig(stream, format=kind, dpi=DPI, metadata=metadata)
                files[kind] = stream.getvalue()
    return files


def write_figure(figure: Figure, folder: Path, name: str, kinds: Sequence[str] = FILE_KINDS) -> dict[str, bytes]:
    """Write ``folder/name.png`` and ``.pdf``; returns the figure in all the ``kinds`` asked for."""
    files = figure_files(figure, kinds)
    for kind in FILE_KINDS:
        write_atomically(folder / f"{name}.{kind}", files[kind])
    return files


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return "" if value is None else str(value)


def _html_table(table: pd.DataFrame) -> dict[str, Any]:
    """Header and cells; a cell is its text and, for sorting, its number."""
    rows = []
    for values in table.itertuples(index=False):
        cells = []
        for value in values:
            number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
            cells.append({"text": _cell(value), "number": number if number is None or pd.notna(number) else None})
        rows.append(cells)
    return {"columns": [str(c) for c in table.columns], "rows": rows}


def protocol_note(frame: pd.DataFrame, environments: dict[str, dict[str, Any]]) -> str:
    """One sentence on data, seeds and versions, for the foot of tables."""
    if frame.empty:
        return "No scores."
    data = ", ".join(sorted(frame["data"].unique()))
    seeds = ", ".join(str(s) for s in sorted(frame["seed"].unique()))
    mixed = mixed_images(frame)
    warning = (
        f" Not comparable, because measured on different images for different checkpoints: {', '.join(mixed)}." if mixed else ""
    )
    versions = sorted({f"torch {e['packages'].get('torch', '?')}" for e in environments.values()})
    return (
        f"Data: {data}; seed {seeds}; ssa-analyze {', '.join(sorted({v.split('/')[0] for v in frame['code_version']}))}, "
        f"{', '.join(versions)}. Values ± standard error over held-out images, draws or directions (see the score's settings); "
        f"* did not converge.{warning}"
    )


def write_report(
    store: Store,
    out: str | Path,
    *,
    data: str | None = None,
    hypotheses: HypothesisSettings | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Path:
    """Write ``out/index.html``, ``out/figures/*.{png,pdf}`` and ``out/tables/*.{csv,tex}``.

    Args:
        data: only scores on this data set; needed where the store holds several.
        hypotheses: what is linked and judged; default: probe accuracy against the usual scores.

    Returns:
        The path of the page.

    Raises:
        DataError: several data sets and none named. StoreError: the named one is absent.
        OutputError: the folder cannot be written.
    """
    frame = store.frame(data)
    names = sorted(frame["data"].unique())
    if len(names) > 1:
        raise DataError(f"{store.path}: scores on several data sets ({', '.join(names)}); name one with --data")
    failures = store.failures()
    folder = make_folder(Path(out))
    figure_folder, table_folder = make_folder(folder / "figures"), make_folder(folder / "tables")
    environments = store.environments()
    note = protocol_note(frame, environments)
    sections = []
    on_step("links")
    if not frame.empty:
        linking_of(frame, hypotheses)  # the figures ask for it without settings of their own
    for entry in FIGURES:
        on_step(entry.title)
        figure = entry.draw(frame)
        if figure is None:
            continue
        svg = base64.b64encode(write_figure(figure, figure_folder, entry.name, (*FILE_KINDS, "svg"))["svg"]).decode()
        sections.append(Section(entry.name, entry.title, entry.caption, svg))
    on_step("tables")
    tables = {
        "summary": summary_table(frame),
        "scores": score_table(frame),
        "verdicts": verdicts_table(frame, hypotheses),
        "predictions": predictions_table(frame, hypotheses),
        "links": links_table(frame, hypotheses),
        "bounds": bounds_table(frame),
        "failures": failures,
    }
    for name, table in tables.items():
        if not table.empty:
            write_atomically(table_folder / f"{name}.csv", safe_csv(table).encode())
            write_atomically(table_folder / f"{name}.tex", to_latex(table, note).encode())
    page = (
        Environment(loader=PackageLoader("ssa_analysis.reports", "."), autoescape=True, undefined=StrictUndefined)
        .get_template("page.html")
        .render(
            version=__version__,
            data=", ".join(names),
            checkpoints=_html_table(_checkpoint_rows(store.checkpoints())),
            findings=findings(frame, hypotheses),
            sections=sections,
            tables={name: _html_table(table) for name, table in tables.items()},
            note=note,
            measures=[{"name": name, "summary": row.summary} for name, row in MEASURES if name in set(frame["measure"])],
            environments=list(environments.values()),
        )
    )
    path = folder / "index.html"
    write_atomically(path, page.encode())
    return path


def _checkpoint_rows(checkpoints: pd.DataFrame) -> pd.DataFrame:
    reports = list(checkpoints["report"])
    return pd.DataFrame(
        {
            "checkpoint": checkpoints["checkpoint"],
            "method": checkpoints["method"],
            "architecture": checkpoints["arch"],
            "layout": checkpoints["layout"],
            "weights": [r.get("parameters") for r in reports],
            "epochs": [r.get("training", {}).get("epoch") for r in reports],
            "path": checkpoints["path"],
            "SHA-256": [s[:12] for s in checkpoints["sha256"]],
        }
    )
