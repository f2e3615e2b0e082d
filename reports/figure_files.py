"""A figure as files and as a piece of the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from ssa_analysis.reports.style import styled

from ssa_analysis.checkpoints.writing import write_atomically

FILE_KINDS = ("png", "pdf")
DPI = 150


def lay_out(figure: Figure) -> None:
    """Work the layout out, once and for all: for each file anew it would take longer than to draw them."""
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*constrained_layout not applied.*")
        _quiet_about_glyphs()
        figure.set_dpi(DPI)
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
        # with a layout engine, even "none", every file is drawn twice; without this setting it would come back
        with mpl.rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)


def figure_files(figure: Figure, kinds: Sequence[str]) -> dict[str, bytes]:
    """A figure as ``png``, ``pdf`` or ``svg``, by kind; the same figure always gives the same bytes.

    An ``svg`` has no background of its own.
    """
    files = {}
    if figure.get_layout_engine() is not None:
        lay_out(figure)
    with styled(), warnings.catch_warnings(), mpl.rc_context({"figure.constrained_layout.use": False}):
        _quiet_about_glyphs()
        for kind in kinds:
            stream = io.BytesIO()
            # dates would make two reports of one store differ
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
            figure.savefig(stream, format=kind, dpi=DPI, metadata=metadata, transparent=kind == "svg")
            files[kind] = stream.getvalue()
    return files


def _quiet_about_glyphs() -> None:
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the tables spell such names out


def write_figure(figure: Figure, folder: Path, name: str, kinds: Sequence[str] = FILE_KINDS) -> dict[str, bytes]:
    """Write ``folder/name.png`` and ``.pdf``; returns the figure in all the ``kinds`` asked for."""
    files = figure_files(figure, kinds)
    for kind in FILE_KINDS:
        if kind in files:
            write_atomically(folder / f"{name}.{kind}", files[kind])
    return files


_PLACE = re.compile(r'\s(?:d|x|y)="[^"]*"')  # a hundredth of a point is fine enough for them
_DIGITS = re.compile(r"(\.\d\d)\d+")
_IDENTIFIER = re.compile(r'\s+id="([^"]*)"')
_REFERENCE = re.compile(r"(?:href=\"#|url\(#)([^\")]+)")


def inline_svg(svg: bytes) -> str:
    """An SVG file as an element of a page: as wide as it is let, with those names alone that it refers to itself.

    What is left of them is derived from content, so that figures may share them.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s+(width|height|version)="[^"]*"', "", head)
    wanted = set(_REFERENCE.findall(rest))
    rest = _IDENTIFIER.sub(lambda found: found[0] if found[1] in wanted else "", rest)
    rest = re.sub(r"<!--.*?-->", "", rest, flags=re.DOTALL)
    rest = _PLACE.sub(lambda found: _DIGITS.sub(r"\1", found[0]), rest)
    return re.sub(r"\n\s*", "\n", f"{head}>{rest}").strip()
