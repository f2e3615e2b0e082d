"""The report: a page that holds everything, runs nothing foreign, and is the same bytes every time."""

from __future__ import annotations

import base64
import gc
import gzip
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ssa_analysis.reports import html as module
from ssa_analysis.reports.figures import FIGURES, TRAINING_CURVES
from ssa_analysis.reports.html import SCRIPTS, protocol_note, write_report

from ssa_analysis.errors import DataError, OutputError, StoreError
from ssa_analysis.running.store import Store

HOSTILE = "<script>document.title='pwned'</script>&\"'"


class Page(HTMLParser):
    """Tags with their attributes, the text, and the cells of every table."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._table: list[list[str]] = []
        self._inside = ""
        self._name = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        about = dict(attrs)
        if tag == "div" and about.get("class") == "table":
            self._name = str(about["id"])
        elif tag == "table":
            self._table = self.tables.setdefault(self._name, [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "th"):
            self._table[-1][-1] += data
        if self._inside not in ("style", "script"):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    @property
    def figures(self) -> list[str]:
        """Names of the figures."""
        return [str(a["id"]) for name, a in self.tags if name == "figure"]

    @property
    def payloads(self) -> dict[str, dict[str, Any]]:
        """Name of a card -> its content."""
        found = re.findall(r'data-card="([0-9a-f]+)">([^<]*)<', self.source)
        return {name: json.loads(gzip.decompress(base64.b64decode(letters))) for name, letters in found}


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[[Store], Page]:
    return lambda store: Page(write_report(store, tmp_path / "report"))


@pytest.fixture(scope="module")
def full_report(report_of_all: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of eight checkpoints, written once for the module."""
    return report_of_all(tmp_path_factory.mktemp("full"))


def test_a_full_report_has_every_figure_and_table(full_report: Path) -> None:
    page = Page(full_report)
    assert sorted(page.figures) == sorted(entry.name for entry in FIGURES)
    assert page.count("svg") == len(FIGURES)
    assert len(page.tables["table-summary"]) == 1 + 8
    assert len(page.tables["table-bounds"]) == 1 + 72
    assert len(page.tables["table-scores"]) == 1 + 8 * 53
    assert len(page.tables["table-checkpoints"]) == 1 + 8
    assert "table-failures" not in page.tables
    assert sum(name == "li" for name, _ in page.tags) >= 5
    assert all(fact in page.text for fact in ("Scores on digits", "8 checkpoints", "4 methods", f"{8 * 53} scores"))
    assert "failed" not in page.text
    files = sorted(p.name for p in (full_report.parent / "figures").iterdir())
    assert files == sorted(f"{entry.name}.{kind}" for entry in FIGURES for kind in ("png", "pdf"))
    assert (full_report.parent / "figures" / "eigenvalues.png").read_bytes().startswith(b"\x89PNG")
    assert (full_report.parent / "figures" / "eigenvalues.pdf").read_bytes().startswith(b"%PDF")
    tables = sorted(p.name for p in (full_report.parent / "tables").iterdir())
    assert tables == sorted(
        f"{name}.{kind}"
        for name in ("summary", "scores", "verdicts", "predictions", "links", "bounds")
        for kind in ("csv", "tex")
    )


def test_the_page_says_what_the_checkpoints_are_and_how_it_was_measured(full_report: Path) -> None:
    page = Page(full_report)
    head, *rows = page.tables["table-checkpoints"]
    row = {row[0]: dict(zip(head, row, strict=True)) for row in rows}["ssa-clr-s1"]
    assert (row["method"], row["architecture"], row["weights"], row["epochs"]) == ("ssa-clr", "convnet, width 4", "1740", "4")
    assert "torch " in page.text
    assert "Hessian eigenvalues, trace, norms and spectral density" in page.text


def test_links_of_the_page_lead_somewhere(full_report: Path) -> None:
    page = Page(full_report)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    targets = [str(a["href"])[1:] for name, a in page.tags if name == "a"]
    assert set(targets) - set(ids) == {""}  # to the top
    assert {"findings", "group-1", "checkpoints", "method"} <= set(targets)
    own = [identity for identity in ids if not re.fullmatch(r"[A-Za-z]+[0-9a-f]{5,}|\w+-[0-9a-f]+", identity)]  # not of drawings
    assert len(set(own)) == len(own) > len(FIGURES)
    assert all(a.get("aria-label") for name, a in page.tags if a.get("role") == "img")


def test_names_within_drawings_stand_for_the_same_thing_everywhere(full_report: Path) -> None:
    """Drawings share the page's names: a reference may find the twin in another drawing, which must look the same."""
    seen: dict[str, str] = {}
    for name, content in re.findall(r'<(?:path|clipPath) id="([^"]+)"(.*?)/?>', Page(full_report).source, re.DOTALL):
        assert seen.setdefault(name, " ".join(content.split())) == " ".join(content.split()), name
    assert len(seen) > 50


def test_every_checkpoint_has_a_card(full_report: Path) -> None:
    cards = Page(full_report).payloads
    assert len(cards) == 8
    card = next(c for c in cards.values() if c["name"] == "simclr-s0")
    assert card["sha256"].startswith(next(k for k, c in cards.items() if c is card))
    assert (card["method"], card["architecture"], card["weights"]) == ("SimCLR", "convnet, width 4", 1740)
    assert len(card["scores"]) == 53
    accuracy = next(row for row in card["key"] if row["key"] == "downstream.probe_accuracy")
    assert accuracy == {"key": "downstream.probe_accuracy", "label": "probe accuracy", "better": "high",
                        "text": "0.7000 ± 0.0050", "rank": 8, "of": 8}  # fmt: skip


def test_nothing_is_fetched_from_anywhere(full_report: Path) -> None:
    page = Page(full_report)
    for name, attributes in page.tags:
        assert name not in ("link", "iframe", "object", "embed", "base"), name
        assert name != "script" or "src" not in attributes
        for key in ("src", "href", "data", "action", "poster", "srcset"):
            value = attributes.get(key) or ""
            assert value.startswith(("data:image/svg+xml;base64,", "#")) or not value, value
    (policy,) = [str(a["content"]) for name, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "http" not in policy
    source = re.sub(r"<script>.*?</script>", "", page.source, flags=re.DOTALL)
    source = re.sub(r'xmlns(:\w+)?="[^"]*"', "", source)  # names of XML vocabularies are no addresses
    assert "http://" not in source
    assert "https://" not in source
    assert "@import" not in source
    assert not re.search(r"url\(\s*[\"']?(?!#|data:)", source)
    assert re.findall(r"(?:href|src)=\"(?!#|data:)[^\"]*\"", source) == []


def test_every_script_is_one_that_the_page_allows(full_report: Path) -> None:
    page = Page(full_report)
    (policy,) = [str(a["content"]) for name, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    scripts = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(digests) == len(SCRIPTS)
    assert all(f"'sha256-{digest}'" in policy for digest in digests)


def test_two_reports_of_the_same_scores_are_the_same_bytes(
    report_of_all: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stores with the same scores: only the times of writing differ. A few figures stand for all."""
    few = FIGURES[::10]
    monkeypatch.setattr(module, "FIGURES", few)
    pages = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        pages.append(report_of_all(tmp_path / name).parent)
    first, second = ({p.relative_to(page): p.read_bytes() for p in page.rglob("*") if p.is_file()} for page in pages)
    assert len(first) == 1 + 2 * len(few) + 2 * 6
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_several_versions_of_kornia_are_warned_of(frame: pd.DataFrame) -> None:
    environments = {name: {"packages": {"torch": "2.9.0", "kornia": name}} for name in ("0.8.2", "0.9.0")}
    warned = "Measured with kornia 0.8.2 and 0.9.0, which may draw different views"
    assert warned in protocol_note(frame, environments)
    assert "kornia" not in protocol_note(frame, {"a": environments["0.8.2"]})


def test_an_empty_store(store: Store, tmp_path: Path, page_of: Callable[[Store], Page]) -> None:
    page = page_of(store)
    assert "Nothing to report" in page.text
    assert "0 checkpoints" in page.text
    assert "failed" not in page.text
    assert (page.figures, page.tables, page.payloads) == ([], {}, {})
    assert list((tmp_path / "report" / "tables").iterdir()) == []


def test_a_store_with_failures_only(
    store: Store, tmp_path: Path, page_of: Callable[[Store], Page], fail_store: Callable[..., None]
) -> None:
    fail_store(store, "a", "curvature", f"it broke: {HOSTILE}")
    page = page_of(store)
    assert "Nothing to report" in page.text
    assert "What was tried and failed is listed below." in page.text
    assert page.tables["table-failures"][1] == ["runs/a/last.pt", "digits", "curvature", f"it broke: {HOSTILE}"]
    assert page.count("script") == len(SCRIPTS) + 2  # the index and a card besides
    (card,) = page.payloads.values()
    assert card["failures"] == [["curvature", f"it broke: {HOSTILE}"]]
    assert card["scores"] == []


def test_failures_beside_scores(
    store: Store, page_of: Callable[[Store], Page], fill_store: Callable[..., None], fail_store: Callable[..., None],
    scores_for: Callable,
) -> None:  # fmt: skip
    fill_store(store, "good", "simclr", scores_for(0)[:2])
    fail_store(store, "bad", "downstream", "truncated")
    page = page_of(store)
    assert [row[0] for row in page.tables["table-checkpoints"][1:]] == ["bad", "good"]
    assert [row[0] for row in page.tables["table-summary"][1:]] == ["good"]
    assert page.tables["table-failures"][1][3] == "truncated"
    assert "nan" not in page.text.lower().split()


def test_one_checkpoint(
    store: Store, tmp_path: Path, page_of: Callable[[Store], Page], fill_store: Callable[..., None], scores_for: Callable
) -> None:
    fill_store(store, "only", "simclr", [s for s in scores_for(0) if s.measure in ("downstream", "curvature")])
    page = page_of(store)
    assert "1 checkpoint" in page.text
    assert "1 checkpoints" not in page.text
    assert len(page.figures) == 3  # the scatter, the eigenvalues and their density, but no correlations
    assert "correlations need at least 4" in page.text
    assert "table-links" not in page.tables


def test_four_checkpoints_with_nothing_but_accuracy(
    store: Store, tmp_path: Path, page_of: Callable[[Store], Page], fill_store: Callable[..., None], scores_for: Callable
) -> None:
    for number in range(4):
        fill_store(store, f"c{number}", "simclr", scores_for(number)[:1])
    page = page_of(store)
    assert len(page.tables["table-summary"]) == 5
    assert page.figures == []


def test_foreign_text_is_only_text(
    store: Store, tmp_path: Path, page_of: Callable[[Store], Page], fill_store: Callable[..., None], scores_for: Callable
) -> None:
    name = HOSTILE.replace("/", "|")  # a folder's name cannot hold a slash
    fill_store(store, name, HOSTILE, scores_for(0)[:3], data=HOSTILE)
    page = page_of(store)
    assert page.tables["table-summary"][1][:2] == [name, HOSTILE]
    assert page.count("script") == len(SCRIPTS) + 2  # our own, the index, a card
    assert page.count("h1") == 1
    assert [v for _, a in page.tags for k, v in a.items() if k.startswith("on")] == []
    assert "<script>document" not in (tmp_path / "report" / "index.html").read_text()


def test_several_data_sets_need_a_choice(
    store: Store, tmp_path: Path, fill_store: Callable[..., None], scores_for: Callable
) -> None:
    fill_store(store, "a", "simclr", scores_for(0)[:1], data="digits")
    fill_store(store, "a", "simclr", scores_for(1)[:1], data="svhn")
    with pytest.raises(DataError, match=r"several data sets \(digits, svhn\); name one with --data"):
        write_report(store, tmp_path / "report")
    with pytest.raises(StoreError, match=r"no scores on 'cifar10'; there are: digits, svhn"):
        write_report(store, tmp_path / "report", data="cifar10")
    assert not (tmp_path / "report").exists()
    page = Page(write_report(store, tmp_path / "report", data="svhn"))
    assert page.tables["table-summary"][1][2] == "0.7200 ± 0.0050"


def test_a_folder_that_cannot_be_made(store: Store, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("a file stands here")
    before = gc.get_threshold()
    with pytest.raises(OutputError, match=r"report: cannot write there .*; choose another folder"):
        write_report(store, tmp_path / "report")
    assert gc.get_threshold() == before


def test_the_steps_are_told(store: Store, tmp_path: Path) -> None:
    steps, collections, before = list[str](), set[tuple[int, int, int]](), gc.get_threshold()

    def tell(step: str) -> None:
        steps.append(step)
        collections.add(gc.get_threshold())

    gc.set_threshold(700, 10, 10)
    try:
        write_report(store, tmp_path / "report", on_step=tell)
        assert gc.get_threshold() == (700, 10, 10)
    finally:
        gc.set_threshold(*before)
    assert len(collections) == 1
    assert collections.pop()[0] > 7000, "Python looks for garbage as often as ever while figures are drawn"
    titles = [entry.title for entry in (*FIGURES, TRAINING_CURVES)]
    assert steps == ["links", *titles, "tables", "page"]
