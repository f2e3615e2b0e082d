"""The report page in headless Chromium: it opens from disk, its script runs, and nothing else does."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from ssa_analysis.reports.html import write_report

from ssa_analysis.running.plan import Cell, CellResult
from ssa_analysis.running.store import Store
from ssa_analysis.scores import Score

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--virtual-time-budget=3000", "--enable-logging=stderr",
)  # fmt: skip
VALUES = (10.0, 9.0, 2.0)  # as text they stand in another order than as numbers
CANARY = '<script>document.title="pwned"</script><img src=x onerror=\'document.title="pwned"\'>'


@dataclass(frozen=True)
class Dump:
    """The page after its script has run, and what the browser had to say."""

    dom: str
    console: str

    @property
    def title(self) -> str:
        return re.search(r"<title>(.*?)</title>", self.dom, re.S)[1]  # type: ignore[index]


def open_page(path: Path) -> Dump:
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    return Dump(done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small report, in which one checkpoint's name, method and error are hostile."""
    folder = tmp_path_factory.mktemp("browser")
    with Store(folder / "scores.db") as store:
        for number, name in enumerate(["b", "a", CANARY.replace("/", "|")]):
            cell = Cell(f"runs/{name}/last.pt", f"{number}" * 64, "downstream", {"seed": 0}, "digits", "f" * 16, "0.1.0/1")
            accuracy = Score("downstream", "probe_accuracy", VALUES[number], "share")
            store.write(CellResult(cell, [accuracy]))
        failed = Cell("runs/b/last.pt", "0" * 64, "shift", {"seed": 0}, "digits", "f" * 16, "0.1.0/1")
        store.write(CellResult(failed, error=CANARY))
        return write_report(store, folder / "report")


@pytest.fixture(scope="module")
def dump(page: Path) -> Dump:
    return open_page(page)


def test_the_page_opens_from_disk(dump: Dump) -> None:
    assert dump.title == "ssa-analyze report: digits"
    assert "Best downstream: b" in dump.dom


def test_its_script_runs(page: Path, dump: Dump) -> None:
    heads = re.findall(r"<th [^>]*>", dump.dom)
    assert len(heads) > 10
    assert all('tabindex="0"' in head for head in heads)
    assert "tabindex" not in page.read_text().lower().split("<script>")[0]  # it is the script that sets it


def test_foreign_script_does_not_run(dump: Dump) -> None:
    assert dump.title != "pwned"
    assert len(re.findall("<script", dump.dom)) == 1
    assert "&lt;script&gt;document.title" in dump.dom  # it is there, as text


def test_the_console_is_silent(dump: Dump) -> None:
    assert dump.console == ""


def test_a_click_sorts(page: Path, tmp_path: Path) -> None:
    """By name and by number, up and down; the clicks are added to a copy of the page."""
    clicks = """<script>
    const table = document.getElementById("table-scores");
    const order = [];
    const column = name => [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === name);
    for (const [name, key] of [["checkpoint", "click"], ["checkpoint", "Enter"], ["value", "click"], ["value", "click"]]) {
      const head = table.tHead.rows[0].cells[column(name)];
      if (key === "click") head.click(); else head.dispatchEvent(new KeyboardEvent("keydown", {key}));
      order.push([...table.tBodies[0].rows].map(row => row.cells[column("value")].textContent).join(" ") +
                 " " + head.getAttribute("aria-sort"));
    }
    document.title = order.join("; ");
    </script></body>"""
    copy = tmp_path / "clicks.html"
    copy.write_text(page.read_text().replace("</body>", clicks))
    # <script...>, a, b have the values 2, 9, 10
    assert open_page(copy).title.split("; ") == ["2 9 10 ascending", "10 9 2 descending"] * 2


def test_the_browser_would_have_run_the_canary(tmp_path: Path) -> None:
    """The canary sings where it is not escaped, and the console is heard: the tests above can fail."""
    path = tmp_path / "canary.html"
    path.write_text(f"<!doctype html><title>safe</title><body>{CANARY}<script>nonsense()</script>")
    dump = open_page(path)
    assert dump.title == "pwned"
    assert "nonsense is not defined" in dump.console
