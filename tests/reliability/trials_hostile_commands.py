"""Trials of the group "hostile": command lines of every verb, and every option in a configuration file."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch
from children import try_all
from mutations import drawn
from trial import Tally, trial
from trials_hostile_fuzz import CLEAN, _convnet, store_of
from trials_hostile_words import LAYOUT, ODD, ROOT, _Raw, to_toml

from ssa_analysis.running.scoring import ScoringSummary


def _command(verb: str) -> click.Command:
    command = importlib.import_module(f"ssa_analysis.cli.{verb}_verb").command
    assert isinstance(command, click.Command)
    return command


def workplace(folder: Path) -> Path:
    """A folder with small things that command lines may name, and an empty one beside it."""
    work = folder / "work"
    for name in ("work/run", "work/group/a", "work/group/b", "beside", "home"):
        (folder / name).mkdir(parents=True)
    torch.save(_convnet(), work / "run" / "last.pt")
    rng = np.random.default_rng(0)
    np.savez(work / "data.npz", x=rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), y=np.arange(60) % 2)
    store_of(work).rename(work / "scores.db")
    (work / "layout.toml").write_text(to_toml(LAYOUT))
    (work / "c.toml").write_text("[score]\nseed = 3\n[list]\n[train]\nlr = 0.1\n")
    (work / "study.toml").write_text((ROOT / "studies" / "smoke.toml").read_text())
    (work / "net.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))\n"
    )
    return work


@contextlib.contextmanager
def without_work(work: Path) -> Any:
    """Nothing that takes long is done: no training, no measuring, no drawing."""
    from ssa_analysis.cli import bounds_verb, demo_verb, main, score_verb, study_verb, train_verb, views_verb
    from ssa_analysis.reports import figure_files, html

    assert main
    nothing = ScoringSummary([], [], 0, 0)
    with contextlib.ExitStack() as stack:
        for module in (score_verb, bounds_verb, views_verb):
            stack.enter_context(patch.object(module, "run_cells", lambda *a, **k: nothing))
        for module in (study_verb, demo_verb):
            stack.enter_context(patch.object(module, "carry_out", lambda *a, **k: None))
        stack.enter_context(patch.object(train_verb, "_plan", lambda *a, **k: None))
        stack.enter_context(patch.object(train_verb, "train", lambda *a, **k: work / "run" / "last.pt"))
        stack.enter_context(patch.object(train_verb, "last_row", lambda folder: {}))
        stack.enter_context(patch.object(html, "FIGURES", []))
        stack.enter_context(patch.object(figure_files, "write_figure", lambda *a, **k: {}))
        stack.enter_context(patch.dict(os.environ, {"HOME": str(work.parent / "home"), "SSA_ANALYZE_TEST": "1"}))
        yield


def _ended(arguments: Sequence[str], folder: Path) -> str:
    """Run a command line; what came of it. AssertionError for a traceback, or something written elsewhere."""
    from ssa_analysis.cli.main import main

    work = folder / "work"
    os.chdir(work)
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True), io.StringIO()
    with patch.object(sys, "argv", ["ssa-analyze", *arguments]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    said = err.getvalue()
    assert "Traceback" not in said or "-v" in " ".join(arguments), said[-500:]
    assert code in (0, 1, 2), code
    spoken = said + out.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert not set(map(chr, (*range(9), *range(11, 32), 127, 0x202E))) & set(spoken), "a control character was printed"
    if code:
        assert spoken.strip(), "an error without a word"
        assert len(said.splitlines()) < 30, said
    there = sorted(path.name for path in folder.iterdir())
    assert there == ["beside", "home", "work"], there
    assert not any((folder / "beside").iterdir()), "something was written beside the folder"
    return {0: "done", 1: "clean errors", 2: "usage errors"}[code]  # type: ignore[index]


def _command_lines() -> Any:
    from hypothesis import strategies as st
    from ssa_analysis.cli.main import VERBS

    def inside(text: str) -> bool:
        return "\0" not in text and ".." not in text and not text.startswith(("/", "~"))

    word = st.one_of(st.sampled_from(ODD), st.text(max_size=10)).filter(inside)
    number = st.one_of(st.integers(-2, 40), st.sampled_from([10**4, 2**31, 2**63, 10**25])).map(str)
    real = st.one_of(st.floats().map(str), number)
    right = {"--data": "data.npz", "--store": "scores.db", "--layout": "layout.toml", "--config": "c.toml",
             "--model": "net.py:build",
             "--measures": "downstream", "--out": "out", "--device": "cpu", "--executor": "local"}  # fmt: skip

    def option(parameter: click.Option) -> Any:
        name = next((text for text in parameter.opts if text.startswith("--")), parameter.opts[0])
        if parameter.is_flag:
            return st.just([name])
        kind = parameter.type
        value = word
        if isinstance(kind, click.Choice):
            value = st.one_of(st.sampled_from([str(choice) for choice in kind.choices]), word)
        elif isinstance(kind, click.types.IntParamType):
            value = st.one_of(number, number, word)
        elif isinstance(kind, click.types.FloatParamType):
            value = st.one_of(real, real, word)
        good = right.get(name)
        value = value if good is None else st.one_of(st.just(good), st.just(good), value)
        return value.map(lambda text: [name, text])

    def line(verb: str) -> Any:
        command = _command(verb)
        options = [
            p for p in command.params if isinstance(p, click.Option) and p.name not in ("help", "verbose", "device", "executor")
        ]
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        file = {"score": "run/last.pt", "bounds": "run/last.pt", "views": "run/last.pt", "doctor": "run/last.pt",
                "inspect": "run/last.pt",
                "study": "study.toml", "list": "measures", "completion": "bash"}.get(verb, "scores.db")  # fmt: skip
        file = "0" if verb == "compare" else file
        first = [st.one_of(st.just([file]), st.just([file]), word.map(lambda text: [text])) for _ in arguments]
        needed = [option(p) for p in options if p.required or p.name == "store_path"]
        some = st.lists(st.one_of([option(p) for p in options]), max_size=5) if options else st.just([])
        strange = st.one_of(st.just([]), st.just([]), st.just([]), st.lists(word, max_size=2))
        offline = ["--no-download"] if any(p.name == "no_download" for p in options) else []
        return st.tuples(*first, *needed, some.map(lambda parts: [text for part in parts for text in part]), strange).map(
            lambda parts: [verb, *(text for part in parts for text in part), *offline]
        )

    lines = [line(verb) for verb in VERBS]
    return st.one_of(*lines, st.lists(word, max_size=4))


@trial("hostile", "command lines of every verb", CLEAN + "; nothing is written outside of the folder", few=90, many=3000)
def fuzzed_command_lines(tally: Tally, times: int, folder: Path) -> None:
    work = workplace(folder)
    inputs = drawn(_command_lines(), times)
    with without_work(work):
        try_all(tally, inputs, lambda arguments: _ended(arguments, folder), seconds=20, each=100)


@trial(
    "hostile", "every option of every verb, given each kind of value in the table of a --config file", CLEAN, few=100, many=1500
)
def config_tables(tally: Tally, times: int, folder: Path) -> None:
    work = workplace(folder)
    values: tuple[Any, ...] = (
        1, -1, 10**30, 0.5, float("nan"), float("inf"), True, "", "x", "a\0b", "\x1b[2J", [], [1, "x"], [[1]], {}, {"a": 1},
        {"a": {"b": 1}}, {"curvature": {"top": [1]}}, [{"a": 1}], _Raw("1979-05-27"),
    )  # fmt: skip
    base = {"score": ["run/last.pt"], "bounds": ["run/last.pt"], "views": ["run/last.pt"], "compare": ["0", "1"]}
    inputs = []
    for verb in ("score", "bounds", "views", "train", "corruptions", "link", "compare", "report", "export"):
        options = [p for p in _command(verb).params if isinstance(p, click.Option) and p.name not in ("help", "config")]
        for parameter in options:
            name = next((text for text in parameter.opts if text.startswith("--")), parameter.opts[0]).removeprefix("--")
            table = {"data": "data.npz", "store": "s.db", "out": "out", "no-download": True}
            known = {text.removeprefix("--") for p in options for text in p.opts}
            for value in values:
                content = to_toml({verb: {**{k: v for k, v in table.items() if k in known}, name: value}})
                inputs.append((content, [verb, *base.get(verb, [] if verb in ("train", "corruptions") else ["scores.db"])]))
    order = np.random.default_rng(0).permutation(len(inputs))

    def run(item: tuple[str, list[str]]) -> str:
        (work / "x.toml").write_text(item[0])
        return _ended([*item[1], "--config", "x.toml"], folder)

    with without_work(work):
        try_all(tally, [inputs[order[number % len(order)]] for number in range(times)], run, seconds=20, each=100)
