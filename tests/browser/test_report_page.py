"""The report page in headless Chromium: it opens from disk, its script does what it should, and nothing else runs."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from scores_by_hand import write_report_of_all
from ssa_analysis.reports import html as module
from ssa_analysis.reports.figures import FIGURES
from ssa_analysis.reports.html import write_report

from ssa_analysis.checkpoints.loading import LoadReport
from ssa_analysis.data.datasets import load_data
from ssa_analysis.linking.comparison import compare
from ssa_analysis.running.plan import Cell, CellResult
from ssa_analysis.running.store import Store
from ssa_analysis.scores import Score

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--virtual-time-budget=20000", "--enable-logging=stderr",
)  # fmt: skip
VALUES = (10.0, 9.0, 2.0)  # as text they stand in another order than as numbers
CANARY = '<script>document.title="pwned"</script><img src=x onerror=\'document.title="pwned"\'>'
HOSTILE = CANARY.replace("/", "|")  # a folder's name cannot hold a slash
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
DRAWN = ("score_scatter", "eigenvalues", "corruption_heatmap")


@dataclass(frozen=True)
class Dump:
    """The page after its script has run, and what the browser had to say."""

    dom: str
    console: str

    @property
    def title(self) -> str:
        return re.search(r"<title>(.*?)</title>", self.dom, re.S)[1]  # type: ignore[index]


def open_page(path: Path, fragment: str = "") -> Dump:
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", path.as_uri() + fragment],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    return Dump(done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line))


def run_in(path: Path, folder: Path, script: str, fragment: str = "") -> Any:
    """What ``script``, the body of an asynchronous function, returns in a copy of the page, once that is ready."""
    harness = f"""<script>(async () => {{
      const pause = milliseconds => new Promise(go => setTimeout(go, milliseconds));
      const until = async test => {{ for (let i = 0; i < 400 && !test(); i++) await pause(10); return test(); }};
      const $ = (selector, root = document) => root.querySelector(selector);
      const table = id => $(`#table-${{id}} table`);
      const column = (id, name) => [...table(id).tHead.rows[0].cells].findIndex(cell => cell.textContent === name);
      const cells = (id, name) => [...table(id).tBodies[0].rows].map(row => row.cells[column(id, name)].textContent);
      const type = (input, text) => {{ input.value = text; input.dispatchEvent(new Event("input", {{ bubbles: true }})); }};
      await until(() => document.documentElement.dataset.ready);
      let result;
      try {{ result = await (async () => {{ {script} }})(); }} catch (error) {{ result = `${{error}}`; }}
      document.title = "RESULT" + btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(result))));
    }})();</script></body>"""
    copy = folder / "driven.html"
    copy.write_text(POLICY.sub("", path.read_text()).replace("</body>", harness))  # which lets no further script run
    title = open_page(copy, fragment).title
    assert title.startswith("RESULT"), title
    return json.loads(base64.b64decode(title.removeprefix("RESULT")))


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small report, in which one checkpoint's name, method and error are hostile."""
    folder = tmp_path_factory.mktemp("browser")
    with Store(folder / "scores.db") as store:
        for number, name in enumerate(["b", "a", HOSTILE]):
            cell = Cell(f"runs/{name}/last.pt", f"{number}" * 64, "downstream", {"seed": 0}, "digits", "f" * 16, "0.1.0/1")
            accuracy = Score("downstream", "probe_accuracy", VALUES[number], "share")
            store.write(CellResult(cell, [accuracy]))
        failed = Cell("runs/b/last.pt", "0" * 64, "shift", {"seed": 0}, "digits", "f" * 16, "0.1.0/1")
        store.write(CellResult(failed, error=CANARY))
        return write_report(store, folder / "report")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of eight checkpoints with all that can be known of them, and a few of its figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FIGURES", [entry for entry in FIGURES if entry.name in DRAWN])
        return write_report_of_all(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def dump(hostile_page: Path) -> Dump:
    return open_page(hostile_page)


def test_the_page_opens_from_disk(dump: Dump) -> None:
    assert dump.title == "ssa-analyze report: digits"
    assert "Best downstream:" in dump.dom


def test_its_script_runs(hostile_page: Path, dump: Dump) -> None:
    heads = re.findall(r"<th [^>]*>", dump.dom)
    assert len(heads) > 10
    assert all('tabindex="0"' in head for head in heads)
    assert "tabindex" not in hostile_page.read_text().split("<script>")[0]  # it is the script that sets it


@pytest.mark.parametrize("fragment", ["", f"#checkpoint={'2' * 16}", f"#compare={'2' * 16},{'0' * 16}"])
def test_foreign_script_does_not_run(hostile_page: Path, fragment: str) -> None:
    dump = open_page(hostile_page, fragment)
    assert dump.title != "pwned"
    assert "&lt;script&gt;document.title" in dump.dom  # it is there, as text
    assert "<img" not in dump.dom
    assert dump.console == ""


@pytest.fixture(scope="module")
def hostile_everywhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which all that has a name is called by the canary: data set, classes, method, layout, score, unit, mark."""
    folder = tmp_path_factory.mktemp("everywhere")
    data = replace(load_data("digits", subset=60), name=CANARY, class_names=tuple(f"{CANARY}{k}" for k in range(10)))
    training = {"settings": {"method": CANARY, CANARY: CANARY}, "epoch": 1, "data": {"name": CANARY}, CANARY: [CANARY]}
    (folder / HOSTILE).mkdir()
    (folder / HOSTILE / "log.csv").write_text("epoch,loss\n1,2.0\n2,1.0\n")
    row = HOSTILE.replace('"', '""')
    rows = [f'{epoch},shift,"{row}",1,0,2\n' for epoch in (1, 2)]
    (folder / HOSTILE / "records.csv").write_text("".join(["epoch,measure,name,value,low,high\n", *rows]))
    with Store(folder / "scores.db") as store:
        for number in range(3):
            path, sha256 = folder / (HOSTILE if number == 0 else str(number)) / "last.pt", f"{number}" * 64
            report = LoadReport(
                str(path), sha256, CANARY, CANARY, 3, 30, True, True, {CANARY: CANARY}, [CANARY], training, {}, CANARY
            )
            cell = Cell(str(path), sha256, "downstream", {"seed": 0, CANARY: CANARY}, CANARY, "f" * 16, CANARY)
            scores = [
                Score("downstream", "probe_accuracy", VALUES[number] / 10, CANARY, settings={"mark": CANARY, CANARY: CANARY}),
                Score("downstream", CANARY, VALUES[number], CANARY, settings={"classes": [CANARY]}, arrays={CANARY: [CANARY]}),
            ]
            store.write(CellResult(cell, scores, report=report))
            store.write(CellResult(replace(cell, measure="shift"), error=CANARY))
        return write_report(store, folder / "report", images=data)


@pytest.mark.parametrize("fragment", ["", f"#checkpoint={'0' * 16}", f"#compare={'0' * 16},{'1' * 16}", f"#checkpoint={CANARY}"])
def test_names_of_every_kind_run_nothing(hostile_everywhere: Path, fragment: str) -> None:
    dump = open_page(hostile_everywhere, fragment)
    assert "ssa-analyze report" in dump.title
    assert "&lt;script&gt;" in dump.title
    assert dump.dom.count("&lt;script&gt;document.title") > 10
    assert "<img" not in dump.dom
    assert dump.console == ""
    figures = sorted(path.name for path in hostile_everywhere.parent.rglob("*") if path.is_file())
    assert any(name.startswith("views_sheet") for name in figures)
    assert [name for name in figures if not re.fullmatch(r"[a-z0-9_]+\.(png|pdf|csv|tex|html)", name)] == []


@pytest.mark.parametrize("place", ["", "#checkpoint", "#compare"])
def test_the_console_is_silent_and_nothing_is_fetched(full: Path, tmp_path: Path, place: str) -> None:
    ids = re.findall(r'data-card="([0-9a-f]+)"', full.read_text())
    fragment = {"#checkpoint": f"#checkpoint={ids[0]}", "#compare": f"#compare={ids[0]},{ids[5]}"}.get(place, "")
    assert open_page(full, fragment).console == ""
    assert run_in(full, tmp_path, "return performance.getEntriesByType('resource').map(entry => entry.name);", fragment) == []


def test_a_request_would_have_been_seen(full: Path, tmp_path: Path) -> None:
    script = """document.body.append(Object.assign(new Image(), {src: "http://127.0.0.1:9/x.png"}));
      await until(() => performance.getEntriesByType("resource").length);
      return performance.getEntriesByType("resource").map(entry => entry.name);"""
    assert run_in(full, tmp_path, script) == ["http://127.0.0.1:9/x.png"]


def test_the_page_lets_nobody_fetch(full: Path, tmp_path: Path) -> None:
    """With its policy in place, which the browser enforces on the page's own script too."""
    copy = tmp_path / "guarded.html"
    intruder = '<img src="http://127.0.0.1:9/x.png"><script>document.title="ran"</script></main>'
    copy.write_text(full.read_text().replace("</main>", intruder, 1))
    dump = open_page(copy)
    assert dump.title != "ran"
    assert dump.console.count("violates the following Content Security Policy directive") == 2


def test_a_click_sorts(hostile_page: Path, tmp_path: Path) -> None:
    """By name and by number, up and down."""
    script = """const order = [];
    for (const [name, key] of [["checkpoint", "click"], ["checkpoint", "Enter"], ["value", "click"], ["value", "click"]]) {
      const head = table("scores").tHead.rows[0].cells[column("scores", name)];
      if (key === "click") head.click(); else head.dispatchEvent(new KeyboardEvent("keydown", {key}));
      order.push([...cells("scores", "value"), head.getAttribute("aria-sort")]);
    }
    return order;"""
    # <script...>, a, b have the values 2, 9, 10
    assert run_in(hostile_page, tmp_path, script) == [["2", "9", "10", "ascending"], ["10", "9", "2", "descending"]] * 2


def test_filters_words_and_comparisons(full: Path, tmp_path: Path) -> None:
    script = """const input = $("#table-summary input"), found = {};
    const compared = ["probeaccuracy>0.8", "probeaccuracy<=0.7", "method=sam"];
    for (const text of ["", "fourier", "-fourier", "ssa-clr s1", ...compared, "nothing"]) {
      type(input, text);
      found[text] = cells("summary", "checkpoint");
    }
    return found;"""
    found = run_in(full, tmp_path, script)
    methods = ("simclr", "simclr-sam", "simclr-fourier", "ssa-clr")
    everyone = {f"{m}-s{s}" for m in methods for s in (0, 1)}
    assert set(found[""]) == everyone
    assert set(found["fourier"]) == {"simclr-fourier-s0", "simclr-fourier-s1"}
    assert set(found["-fourier"]) == everyone - set(found["fourier"])
    assert found["ssa-clr s1"] == ["ssa-clr-s1"]
    assert set(found["probeaccuracy>0.8"]) == {"simclr-fourier-s1", "ssa-clr-s1"}  # 0.70 to 0.84, method by method
    assert found["probeaccuracy<=0.7"] == ["simclr-s0"]
    assert set(found["method=sam"]) == {"simclr-sam-s0", "simclr-sam-s1"}
    assert found["nothing"] == []


def test_a_figure_enlarges_and_closes(full: Path, tmp_path: Path) -> None:
    script = """const drawing = $("#score_scatter .drawing"), dialog = $("#enlarged");
    const before = dialog.open, small = drawing.getBoundingClientRect().height;
    drawing.click();
    const during = dialog.open, copy = $(".drawing", dialog), width = $("svg", copy).getBoundingClientRect().width;
    $("button", dialog).click();
    return [before, during, dialog.open, copy.getAttribute("aria-label"), width > 0.9 * innerWidth, !!$("svg", drawing)];"""
    assert run_in(full, tmp_path, script) == [False, True, False, "Scores against downstream accuracy", True, True]


def test_the_pointer_finds_a_value(full: Path, tmp_path: Path) -> None:
    """In the middle of each cell of the heat map, and nothing in its margin."""
    script = """const drawing = $("#corruption_heatmap .drawing"), svg = $("svg", drawing);
    const [axes] = await unpack(drawing.dataset.hover);
    svg.scrollIntoView();
    const box = svg.getBoundingClientRect(), tip = $("#tip"), found = [];
    const move = async (x, y) => {
      const place = {clientX: box.left + x * box.width / 1000, clientY: box.top + y * box.height / 1000};
      drawing.dispatchEvent(new PointerEvent("pointermove", place));
      await pause(20);
    };
    await move(500, 500); await until(() => !tip.hidden);
    for (const [x, y, text] of axes.points) { await move(x + 5, y); found.push(!tip.hidden && tip.textContent === text); }
    await move(1, 1);
    return [found.length, found.every(Boolean), axes.points[0][2], tip.hidden];"""
    assert run_in(full, tmp_path, script) == [8 * 4, True, "simclr-s0\\nclean: 0.9".replace("\\n", "\n"), True]


def test_the_theme_is_switched_and_kept(full: Path, tmp_path: Path) -> None:
    script = """const paper = () => getComputedStyle(document.body).backgroundColor, button = $("#theme"), seen = [];
    const ink = () => getComputedStyle($("#eigenvalues .drawing svg")).fill;
    for (let i = 0; i < 4; i++) {
      seen.push([button.textContent, paper(), ink(), localStorage.getItem("ssa-analyze-theme")]);
      button.click();
    }
    return seen;"""
    white, black, dark, pale = "rgb(255, 255, 255)", "rgb(27, 30, 35)", "rgb(21, 24, 29)", "rgb(230, 232, 235)"
    assert run_in(full, tmp_path, script) == [
        ["theme: auto", white, black, None],
        ["theme: light", white, black, "light"],
        ["theme: dark", dark, pale, "dark"],
        ["theme: auto", white, black, None],
    ]


def test_a_checkpoint_has_its_page(full: Path, tmp_path: Path) -> None:
    script = """const link = [...document.querySelectorAll("#table-summary td a")].find(a => a.textContent === "ssa-clr-s1");
    link.click();
    await until(() => !$("#card").hidden && $("#card .plots svg"));
    const plots = [...document.querySelectorAll("#card .plot")].map(plot => [plot.dataset.plot, $("svg", plot) !== null]);
    const origin = $("#card .origin").textContent.includes("convnet, width 4");
    const there = [$("#overview").hidden, $("#card h1").textContent, origin, document.title];
    $("#card a").click();
    await until(() => $("#card").hidden);
    return [there, plots, $("#overview").hidden];"""
    there, plots, hidden = run_in(full, tmp_path, script)
    assert there == [True, "ssa-clr-s1", True, "ssa-clr-s1: ssa-analyze report"]
    assert {name for name, drawn in plots if drawn} >= {
        "eigenvalues", "density", "slices", "surface", "coordinates", "similarities", "corruptions", "waterfall",
    }  # fmt: skip
    assert all(drawn for _, drawn in plots)
    assert hidden is False


def test_two_checkpoints_side_by_side_agree_with_the_command(full: Path, tmp_path: Path) -> None:
    script = """$("#pick").first.value = "simclr-s0"; $("#pick").second.value = "ssa-clr-s1";
    $("#pick button").click();
    await until(() => !$("#card").hidden && $("#card .plots svg"));
    const rows = [...document.querySelectorAll("#card .table tbody tr")].map(row => [...row.cells].map(cell => cell.textContent));
    return [[...document.querySelectorAll("#card .which")].map(a => a.textContent), rows];"""
    names, rows = run_in(full, tmp_path, script)
    assert names == ["simclr-s0", "ssa-clr-s1"]
    with Store(full.parent.parent / "scores.db") as store:
        expected = compare(store.frame(), *names).set_index("score")
    assert len(rows) == len(expected)
    for score, first, second, difference, low, high, unit, separable in rows:
        row = expected.loc[score]
        assert float(first) == pytest.approx(row["first"], rel=1e-3)
        assert float(second) == pytest.approx(row["second"], rel=1e-3)
        assert float(difference) == pytest.approx(row["difference"], rel=2e-3, abs=1e-6)
        for shown, value in ((low, row["low"]), (high, row["high"])):
            assert (shown == "") == (value != value), score
            assert shown == "" or float(shown) == pytest.approx(value, rel=1e-2, abs=1e-5), score
        assert (unit, separable == "yes") == (row["unit"], bool(row["separable"])), score


def test_a_name_that_is_none(full: Path, tmp_path: Path) -> None:
    script = """$("#pick").first.value = "simclr-s0"; $("#pick").second.value = "nobody";
    $("#pick button").click();
    return [location.hash, $("#pick").second.validationMessage, $("#card").hidden];"""
    assert run_in(full, tmp_path, script) == ["", "There is no such checkpoint.", True]


def test_an_address_of_no_checkpoint_shows_the_overview(full: Path, tmp_path: Path) -> None:
    script = "return [$('#overview').hidden, $('#card').hidden];"
    assert run_in(full, tmp_path, script, "#checkpoint=ffff") == [False, True]


def test_the_browser_would_have_run_the_canary(tmp_path: Path) -> None:
    """The canary sings where it is not escaped, and the console is heard: the tests above can fail."""
    path = tmp_path / "canary.html"
    path.write_text(f"<!doctype html><title>safe</title><body>{CANARY}<script>nonsense()</script>")
    dump = open_page(path)
    assert dump.title == "pwned"
    assert "nonsense is not defined" in dump.console
