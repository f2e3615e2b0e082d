"""Write a report: one self-contained page, and the same figures and tables as files."""

from __future__ import annotations

import base64
import gc
import gzip
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from ssa_analysis.reports.analysis import linking_of
from ssa_analysis.reports.cards import make_cards
from ssa_analysis.reports.figure_files import figure_files, inline_svg, lay_out, write_figure
from ssa_analysis.reports.figures import FIGURES, TRAINING_CURVES, VIEWS_SHEET, FigureEntry
from ssa_analysis.reports.findings import findings
from ssa_analysis.reports.hover import hover_points
from ssa_analysis.reports.payload import packed
from ssa_analysis.reports.sheets import view_sheets
from ssa_analysis.reports.style import SIZES
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
from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import DataError, SettingsError
from ssa_analysis.linking.hypotheses import HypothesisSettings
from ssa_analysis.linking.table import mixed_images
from ssa_analysis.measures import MEASURES
from ssa_analysis.registry import unknown_name
from ssa_analysis.running.histories import training_history
from ssa_analysis.running.store import Store
from ssa_analysis.texts import visible, whole
from ssa_analysis.version import __version__

SHOWN_ROWS = 500  # of a table that stands in the page; longer ones are carried along, and shown as they are asked for
CARRIED_ROWS = 20_000  # longer ones are in the folder of tables alone
LATEX_ROWS = 1000  # a longer table is no use on paper
PLAIN_CSV_ROWS = 20_000  # longer ones are compressed
SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "theme.js", "report.js", "cards.js")


@dataclass(frozen=True)
class Section:
    """One figure of the page; ``hover`` is a payload."""

    name: str
    title: str
    caption: str
    group: str
    svg: Markup
    hover: str


@dataclass(frozen=True)
class Table:
    """A table of the page: what stands in it, or, where it is long, the payload of its rows."""

    name: str
    columns: list[str]
    rows: list[list[str]]
    count: int
    payload: str = ""


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return "" if value is None else str(value)


def page_table(name: str, table: pd.DataFrame) -> Table:
    """A data frame as the page has it."""
    listed = table if len(table) <= CARRIED_ROWS else table.iloc[:0]
    rows = [[_cell(value) for value in values] for values in listed.itertuples(index=False)]
    columns = [str(column) for column in table.columns]
    if len(rows) <= SHOWN_ROWS:
        return Table(name, columns, rows, len(table))
    return Table(name, columns, [], len(table), packed(rows))


def protocol_note(frame: pd.DataFrame, environments: dict[str, dict[str, Any]]) -> str:
    """A few sentences on data, seeds and versions, for the foot of tables."""
    if frame.empty:
        return "No scores."
    data = ", ".join(sorted(frame["data"].unique()))
    seeds = ", ".join(str(s) for s in sorted(frame["seed"].unique()))
    mixed = mixed_images(frame)
    warning = (
        f" Not comparable, because measured on different images for different checkpoints: {', '.join(mixed)}." if mixed else ""
    )
    versions = sorted({f"torch {e['packages'].get('torch', '?')}" for e in environments.values()})
    drawn = sorted({str(e["packages"]["kornia"]) for e in environments.values() if "kornia" in e["packages"]})
    if len(drawn) > 1:
        warning += f" Measured with kornia {' and '.join(drawn)}, which may draw different views from one seed."
    return (
        f"Data: {data}; seed {seeds}; ssa-analyze {', '.join(sorted({v.split('/')[0] for v in frame['code_version']}))}, "
        f"{', '.join(versions)}. Values ± standard error over held-out images, draws or directions (see the score's settings); "
        f"* did not converge.{warning}"
    )


@contextmanager
def fewer_collections() -> Iterator[None]:
    """Python looks for garbage in cycles after 20,000 new objects inside the block, not after 700: drawing makes millions that
    live on, and looking through them again and again takes its time."""
    before = gc.get_threshold()
    gc.set_threshold(20_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@fewer_collections()
def write_report(
    store: Store,
    out: str | Path,
    *,
    data: str | None = None,
    frame: pd.DataFrame | None = None,
    images: Data | None = None,
    size: str | None = None,
    hypotheses: HypothesisSettings | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Path:
    """Write ``out/index.html``, ``out/figures/*.{png,pdf}`` and ``out/tables/*.{csv,tex}``.

    Args:
        data: only scores on this data set; needed where the store holds several.
        frame: ``store.frame(data)``, where the caller has read it already.
        images: that data set, for the contact sheet of views; without it there is none.
        size: a name of :data:`ssa_analysis.reports.style.SIZES` that the figures' files are set for; default: as in the page.
        hypotheses: what is linked and judged; default: probe accuracy against the usual scores.

    Returns:
        The path of the page.

    Raises:
        DataError: several data sets and none named. StoreError: the named one is absent. SettingsError: an unknown size.
        OutputError: the folder cannot be written.
    """
    if size is not None and size not in SIZES:
        raise SettingsError(str(unknown_name("size", size, list(SIZES))))
    frame = store.frame(data) if frame is None else frame
    names = sorted(frame["data"].unique())
    if len(names) > 1:
        raise DataError(f"{store.path}: scores on several data sets ({', '.join(names)}); name one with --data")
    checkpoints, failures, environments = store.checkpoints(), store.failures(), store.environments()
    folder = make_folder(Path(out))
    figure_folder, table_folder = make_folder(folder / "figures"), make_folder(folder / "tables")
    on_step("links")
    if not frame.empty:
        linking_of(frame, hypotheses)  # the figures ask for it without settings of their own
    history = training_history(checkpoints, store.path.parent)
    sections, sheets = [], {}
    for entry, content, owners in _drawings(frame, history, checkpoints, images):
        on_step(entry.title)
        figure = entry.draw(content)
        if figure is None:
            continue
        sections.append(_section(entry, figure))
        paper = figure if size is None else entry.draw(content, SIZES[size])
        write_figure(paper, figure_folder, entry.name)
        sheets |= dict.fromkeys(owners, entry.name)
    on_step("tables")
    note = protocol_note(frame, environments)
    tables = {
        "summary": summary_table(frame),
        "scores": score_table(frame),
        "verdicts": verdicts_table(frame, hypotheses),
        "predictions": predictions_table(frame, hypotheses),
        "links": links_table(frame, hypotheses),
        "bounds": bounds_table(frame),
        "failures": failures,
    }
    _write_tables(tables, table_folder, note)
    on_step("page")
    cards = make_cards(frame, checkpoints, failures, history, sheets)
    tables["checkpoints"] = _checkpoint_rows(checkpoints)
    path = folder / "index.html"
    page = render(
        data=", ".join(names),
        findings=[_split(sentence) for sentence in findings(frame, hypotheses)],
        facts=_facts(frame, checkpoints, failures),
        sections=sections,
        groups=list(dict.fromkeys(section.group for section in sections)),
        tables={name: page_table(name, table) for name, table in tables.items()},
        note=note,
        measures=[{"name": name, "summary": row.summary} for name, row in MEASURES if name in set(frame["measure"])],
        environments=list(environments.values()),
        cards={identity: packed(card) for identity, card in cards.items()},
        index=[{"id": identity, "name": card["name"], "method": card["method"]} for identity, card in cards.items()],
        views_missing=images is None and not frame.empty,
    )
    write_atomically(path, whole(page).encode())
    return path


def _drawings(
    frame: pd.DataFrame, history: pd.DataFrame, checkpoints: pd.DataFrame, images: Data | None
) -> Iterator[tuple[FigureEntry, pd.DataFrame, tuple[str, ...]]]:
    """Every figure with the table that it is drawn from and, for the sheets of views, the checkpoints it is of."""
    for entry in FIGURES:
        yield entry, frame, ()
    yield TRAINING_CURVES, history, ()
    sheets = view_sheets(checkpoints, images) if images is not None and len(checkpoints) else ()
    for number, sheet in enumerate(sheets):
        count = f"{len(sheet.checkpoints)} checkpoint" + ("" if len(sheet.checkpoints) == 1 else "s")
        caption = f"{sheet.title} ({count}). {VIEWS_SHEET.caption}"
        name = VIEWS_SHEET.name + (f"_{number + 1}" if number else "")
        yield FigureEntry(name, VIEWS_SHEET.title, caption, VIEWS_SHEET.draw), sheet.tiles, sheet.checkpoints


def _section(entry: FigureEntry, figure: Figure) -> Section:
    lay_out(figure)
    points = hover_points(figure)
    svg = inline_svg(figure_files(figure, ("svg",))["svg"])
    return Section(entry.name, entry.title, entry.caption, entry.group, Markup(svg), packed(points) if points else "")


def _write_tables(tables: Mapping[str, pd.DataFrame], folder: Path, note: str) -> None:
    for name, table in tables.items():
        if table.empty:
            continue
        text = safe_csv(table).encode()
        if len(table) > PLAIN_CSV_ROWS:
            write_atomically(folder / f"{name}.csv.gz", gzip.compress(text, mtime=0))
        else:
            write_atomically(folder / f"{name}.csv", text)
        if len(table) <= LATEX_ROWS:
            write_atomically(folder / f"{name}.tex", visible(to_latex(table, note)).encode())


def render(**content: Any) -> str:
    """The page, with its style and scripts in it; the browser is told to run no others and to fetch nothing."""
    folder = resources.files("ssa_analysis.reports") / "page"
    scripts = [(folder / name).read_text("utf-8") for name in SCRIPTS]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src " + " ".join(
        f"'sha256-{h}'" for h in hashes
    )
    environment = Environment(loader=PackageLoader("ssa_analysis.reports", "page"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        version=__version__,
        policy=policy,
        style=Markup((folder / "report.css").read_text("utf-8")),
        scripts=[Markup(script) for script in scripts],
        **content,
    )


def _split(sentence: str) -> dict[str, str]:
    """A finding: what it is about, and what was found."""
    places = [place for mark in (": ", "? ") if (place := sentence.find(mark)) > 0]
    cut = min(places) + 1 if places else 0
    return {"about": sentence[:cut], "found": sentence[cut:].strip()}


def _facts(frame: pd.DataFrame, checkpoints: pd.DataFrame, failures: pd.DataFrame) -> list[str]:
    def counted(count: int, word: str) -> str:
        return f"{count:,} {word}{'' if count == 1 else 's'}"

    facts = [counted(len(checkpoints), "checkpoint")]
    if len(frame):
        facts += [counted(frame["method"].fillna("unknown").nunique(), "method"), counted(frame["measure"].nunique(), "measure")]
        facts.append(counted(len(frame), "score"))
    return facts + ([f"{len(failures)} failed"] if len(failures) else [])


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
