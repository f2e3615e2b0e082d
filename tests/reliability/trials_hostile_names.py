"""Trials of the group "hostile": names of files, classes, methods and data sets that mean something to whoever shows them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from children import MIB, try_all
from mutations import drawn, mutated_json
from trial import Tally, trial
from trials_hostile_fuzz import _convnet, _torch_file

from ssa_analysis.data.datasets import load_data
from ssa_analysis.hooks import ScoreRecorder
from ssa_analysis.linking.table import wide_table
from ssa_analysis.running.plan import Cell, CellResult
from ssa_analysis.running.recording import Recorder
from ssa_analysis.running.store import Store
from ssa_analysis.scores import Score
from ssa_analysis.texts import no_formula, one_line, visible, whole

NASTY = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><script>alert(1)</script>",
    "javascript:alert(1)", "{{ 7*7 }}", "<svg onload=alert(1)>", "]]><b>", "<!--", "&lt;", "=1+1", "+1", "-1+1", "@SUM(A1)",
    "\t=1", "\r=1", "\n=1", " =1", "\uff1d1", "=cmd|' /C calc'!A0", "'; DROP TABLE scores; --", "x' OR '1'='1", "\x1b[2J",
    "\x1b]0;pwned\x07", "\x9b31m", "\u202egnp.exe", "a\x00b", "a\nb", "a\rb", "x" * 300, "\udcff\udcfe", "caf\udce9",
    "$\\frac$", "$x", "\\input{/etc/passwd}", "%s%n", "{0.__class__}", "\\", "..", "a/../b", "\ud83d\ude00"[:1],
    "\U0001f600", "__proto__", "constructor", "\ufeff", "\u2028", "NaN", "None", "-5.0", "1e5",
)  # fmt: skip
FORMULA = re.compile(r"[\s\x00]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")


def names(count: int) -> list[str]:
    """``count`` names: the known ones, and those that hypothesis makes of their parts."""
    from hypothesis import strategies as st

    parts = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=5)), min_size=1, max_size=3).map("".join)
    more = drawn(parts, max(0, count - len(NASTY)))
    return [*NASTY, *more][:count]


class _Page(HTMLParser):
    """What a browser would run of a page, apart from its own scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.alien: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.scripts += 1
        if tag in ("img", "iframe", "object", "embed", "b") or any(
            name.startswith("on") or (value or "").strip().lower().startswith("javascript:") for name, value in attributes
        ):
            self.alien.append(f"<{tag} {attributes}>"[:200])


def _store_of(folder: Path, called: list[str], number: int) -> Path:
    path = folder / f"{number}.db"
    with Store(path) as store:
        for place, name in enumerate(called):
            cell = Cell(f"runs/{name}/last.pt", f"{place:064x}", "downstream", {"seed": 0}, "digits", "f" * 16, "0.1.0/1")
            scores = [
                Score("downstream", "probe_accuracy", 0.5 + place / 100, name, 0.1, settings={"mark": name, "classes": [name]}),
                Score("downstream", "confusion", -0.5, name, settings={"mark": ""}, arrays={"names": [name]}),
            ]
            store.write(CellResult(cell, scores, seconds=1.0))
            store.write(
                CellResult(Cell(cell.path, cell.sha256, "shift", {"seed": 0}, "digits", "f" * 16, "0.1.0/1"), error=f"no {name}")
            )
            store._db.execute("UPDATE checkpoints SET method = ?, layout = ?, arch = ? WHERE sha256 = ?",
                              (no_surrogates(name), no_surrogates(name), no_surrogates(name), cell.sha256))  # fmt: skip
    return path


def no_surrogates(text: str) -> str:
    return text.encode(errors="replace").decode()


def _csv_problem(text: str) -> str:
    """A cell that a spreadsheet would take for a formula, or nothing."""
    for row in csv.reader(io.StringIO(text, newline="")):
        for cell in row:
            if FORMULA.match(cell) and not re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?( ± [\d.]+(e[+-]?\d+)?)?( \*)?|-inf", cell):
                return f"a formula: {cell!r:.100}"
    return ""


@trial(
    "hostile", "HTML, script, LaTeX, SQL and escape sequences in names, through store, report, tables and exports",
    "the report runs nothing of them, no cell is a formula, numbers stay numbers, every output is UTF-8", few=50, many=500,
)  # fmt: skip
def names_in_outputs(tally: Tally, times: int, folder: Path) -> None:
    from command_line import run_cli
    from ssa_analysis.reports import html

    each = 50
    called = names(times)
    plain, scripts = _Page(), 0
    with patch.object(html, "FIGURES", html.FIGURES[:1] if times <= each else html.FIGURES):
        for number, start in enumerate(range(0, times, each)):
            some = called[start : start + each]
            store, out = _store_of(folder, some, number), folder / f"report{number}"
            ended = run_cli("report", store, "--out", out)
            problems = [] if ended.code == 0 else [ended.err]
            if ended.code == 0:
                page = _Page()
                page.feed((out / "index.html").read_bytes().decode())
                scripts = page.scripts - len(some)  # one for the data of each checkpoint
                problems += page.alien
                problems += [] if scripts == plain.scripts or not plain.scripts else ["another number of scripts"]
                plain.scripts = scripts
                for table in (out / "tables").glob("*.csv"):
                    problems.append(_csv_problem(table.read_bytes().decode()))
            for kind in ("csv", "json", "latex"):
                exported = run_cli("export", store, "--format", kind)
                problems += [] if exported.code == 0 else [exported.err]
                if kind == "csv":
                    problems.append(_csv_problem(exported.out))
                    values = [
                        row["value"]
                        for row in csv.DictReader(io.StringIO(exported.out, newline=""))
                        if row["name"] == "confusion"
                    ]
                    problems += [] if values == ["-0.5"] * len(some) else [f"numbers are {values}"[:100]]
                elif kind == "json":
                    assert len(exported.json) == 2 * len(some)
            with Store(store, must_exist=True) as there:
                problems += [] if len(there.frame()) == 2 * len(some) else ["rows are gone"]
                wide_table(there.frame())
            problem = "; ".join(filter(None, problems))
            for place in range(len(some)):
                tally.count("shown as text", problem[:600] if place == 0 else "")


@trial("hostile", "formulas in every CSV that is written", "a quote before each; numbers stay numbers", few=200, many=5000)
def formulas(tally: Tally, times: int, folder: Path) -> None:
    from ssa_analysis.reports.tables import safe_csv

    called = names(times)
    for start in range(0, times, 500):
        some = [whole(name) for name in called[start : start + 500]]  # as pandas can hold them
        table = pd.DataFrame({"name": some, some[0]: -1.5, "text": "-1.500 ± 0.100 *"})
        text = safe_csv(table)
        problem = _csv_problem(text)
        rows = list(csv.reader(io.StringIO(text, newline="")))
        problem = problem or (
            "" if [row[1:] for row in rows[1:]] == [["-1.5", "-1.500 ± 0.100 *"]] * len(some) else "numbers changed"
        )
        text.encode()
        for place, _ in enumerate(some):
            tally.count("written", problem if place == 0 else "")
    data = load_data("digits", subset=30)
    for name in called[:60]:  # the other two writers: records of a training, and those of ScoreRecorder
        recorder = Recorder(folder, (), 1, data)
        recorder.path.write_text("")
        recorder._append(1, [Score(name, name, -0.5, name)], 0.1)
        recorder._append_failure(1, "shift", name, 0.1)
        hook = ScoreRecorder.__new__(ScoreRecorder)
        hook.path = folder / "hook.csv"
        hook.path.unlink(missing_ok=True)
        hook._append([{"step": 1, "measure": name, "name": name, "value": -0.5, "unit": name, "error": name}])
        problem = _csv_problem(recorder.path.read_bytes().decode())
        problem = problem or _csv_problem(hook.path.read_bytes().decode())
        tally.count("recorded", problem)


@trial(
    "hostile", "escape sequences, line ends and zero bytes in names that are printed",
    "spelt out; one line stays one line", few=60, many=2000,
)  # fmt: skip
def printed_names(tally: Tally, times: int, folder: Path) -> None:
    from command_line import run_cli

    for number, name in enumerate(names(times)):
        problem = ""
        for shown in (visible(name), one_line(name)):
            if set(shown) & set(map(chr, (*range(9), 11, 12, 13, *range(14, 32), *range(127, 160), 0x202E, 0x2028))):
                problem = f"{name!r} is shown as {shown!r}"
        problem = problem or ("" if "\n" not in one_line(name) else "two lines")
        no_formula(name).encode()
        file = name.replace("\0", "").replace("/", "|")
        if (
            number % 10 == 0
            and file not in (".", "..", "")
            and not file.startswith("-")
            and len(os.fsencode(no_surrogates(file))) < 250
        ):
            with contextlib.suppress(UnicodeEncodeError):  # what no file can be called
                path = folder / f"{file}.pt"
                path.write_bytes(_torch_file({**_convnet(), file: torch.ones(3)}))
                for arguments in (("inspect", path), ("inspect", path, "--json"), ("inspect", folder / f"{file}.none")):
                    ended = run_cli(*arguments)
                    spoken = ended.err + ended.out
                    problem = problem or ("" if ended.code in (0, 1) and "Traceback" not in spoken else spoken[-300:])
                    problem = problem or (
                        "" if not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", spoken) else f"{spoken!r:.300}"
                    )
        tally.count("spelt out", problem)


@trial(
    "hostile", "files whose names are no UTF-8, or as long as a file system allows: scored, reported, exported, compared",
    "all of it works, and every output is UTF-8", few=1, many=4,
)  # fmt: skip
def strange_file_names(tally: Tally, times: int, folder: Path) -> None:
    from command_line import run_cli
    from ssa_analysis.reports import html

    called = [b"caf\xe9\xff", b"x" * 250, b"\xff\xfe\x1b[2J", "ü".encode() * 120][:times]
    rng = np.random.default_rng(0)
    for number, name in enumerate(called):
        place = folder / str(number)
        (place / "set").mkdir(parents=True)
        for kind in (b"a\xff", b"<b>"):
            Path(os.fsdecode(os.path.join(os.fsencode(place / "set"), kind))).mkdir()
        from PIL import Image

        for picture in range(40):
            target = os.path.join(os.fsencode(place / "set"), (b"a\xff", b"<b>")[picture % 2], b"\xff%d.png" % picture)
            with open(target, "wb") as stream:
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(stream, "PNG")
        path = Path(os.fsdecode(os.path.join(os.fsencode(place), name + b".pt")))
        path.write_bytes(_torch_file(_convnet()))
        store, problems = place / "s.db", []
        with patch.object(html, "FIGURES", html.FIGURES[:2]):
            for arguments in (
                ("score", path, "--data", place / "set", "--measures", "representation", "--store", store, "--json"),
                ("score", path, "--data", place / "set", "--measures", "representation", "--store", store),
                ("report", store, "--out", place / "report"), ("export", store), ("export", store, "--format", "json"),
                ("compare", path, path, "--store", store), ("inspect", path), ("inspect", path, "--json"),
            ):  # fmt: skip
                ended = run_cli(*arguments)
                problems += [] if ended.code == 0 else [f"{arguments[0]}: {ended.err[-300:]}"]
                if "json" in arguments or "--json" in arguments:
                    json.loads(ended.raw.decode())
                if re.search(r"[\x1b\x9b]", ended.err + ended.out):
                    problems.append(f"{arguments[0]} commands the terminal")
        if (place / "report" / "index.html").is_file():
            (place / "report" / "index.html").read_bytes().decode()
        tally.count("scored, reported, exported", "; ".join(problems)[:900])


@trial(
    "hostile", "stores whose scores are not as a measure writes them, through report, link, compare and export",
    "a clean error or a result each time, no traceback", few=6, many=400,
)  # fmt: skip
def foreign_scores(tally: Tally, times: int, folder: Path) -> None:
    import sqlite3

    from command_line import run_cli
    from scores_by_hand import fill, names_of, scores_of
    from ssa_analysis.reports import html

    seed, figures = folder / "seed.db", html.FIGURES
    with Store(seed) as store:
        for number, (name, method) in enumerate(names_of().items()):
            fill(store, name, method, scores_of(number))
    with contextlib.closing(sqlite3.connect(seed)) as db:
        rows = db.execute("SELECT rowid, settings, arrays, name FROM scores").fetchall()

    def changed(number: int) -> str:
        rng = np.random.default_rng([7, number])
        path = folder / "x.db"
        path.write_bytes(seed.read_bytes())
        with contextlib.closing(sqlite3.connect(path)) as db:
            for at in rng.integers(0, len(rows), int(rng.choice([1, 1, 2, 5, 20]))):
                rowid, settings, arrays, _ = rows[at]
                which, text = ("settings", settings) if rng.random() < 0.6 else ("arrays", arrays)
                value = mutated_json(json.loads(text), rng)
                value = value if isinstance(value, dict) else json.loads(text)
                db.execute(f"UPDATE scores SET {which} = ? WHERE rowid = ?", (json.dumps(value), rowid))
            if rng.random() < 0.3:
                report = mutated_json(
                    {"layout": "x", "parameters": 3, "training": {"settings": {"method": "simclr"}, "epoch": 1}}, rng
                )
                db.execute("UPDATE checkpoints SET report = ?", (json.dumps(report),))
            if rng.random() < 0.3:
                strange = (None, -1.0, 1e308, float("inf"), 0.0)[rng.integers(0, 5)]
                column = str(rng.choice(["value", "stderr", "low", "high"]))
                db.execute(f"UPDATE scores SET {column} = ? WHERE rowid % 3 = 0", (strange,))
            db.commit()
        first = int(rng.integers(0, len(figures)))
        lines = [("report", path, "--out", folder / "report"), ("link", path, "--draws", "10", "--permutations", "19"),
                 ("compare", "simclr-s0", "ssa-clr-s0", "--store", path), ("export", path), ("export", path, "--format", "latex"),
                 ("export", path, "--format", "json")]  # fmt: skip
        arguments = lines[0 if number % 4 == 0 else 1 + number % 5]
        with patch.object(html, "FIGURES", figures[first : first + 1]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ended = run_cli(*arguments)
        assert "Traceback" not in ended.err
        assert ended.code in (0, 1, 2), ended.code
        if ended.code:
            assert len(ended.err.splitlines()) == 1, ended.err
        return f"{arguments[0]}s" if ended.code == 0 else "clean errors"

    try_all(tally, list(range(times)), changed, memory=lambda item: 1024 * MIB, seconds=30, each=25)
