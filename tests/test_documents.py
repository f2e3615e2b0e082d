"""Every block of code in README.md, CONTRIBUTING.md and docs/ runs, or is checked as far as that takes no hours."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, run_line
from ssa_analysis.cli.common import read_config
from ssa_analysis.cli.main import VERBS

from ssa_analysis.checkpoints.layouts import LAYOUTS
from ssa_analysis.checkpoints.options import load_options
from ssa_analysis.data.datasets import DATASETS
from ssa_analysis.registry import Registry
from ssa_analysis.running.executors import EXECUTORS
from ssa_analysis.running.plan import MEASURES
from ssa_analysis.running.study import read_study
from ssa_analysis.version import __version__

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "sh", "toml", "text", "bibtex", "{toctree}"}
# not run here, with the reason; the study files are read instead
LONG = {
    "ssa-analyze study studies/digits.toml --workers 2": "takes under 45 minutes on two cores",
    "ssa-analyze study studies/cifar10.toml --out DIR": "needs CIFAR-10 and a GPU",
}
REGISTRIES: dict[str, Registry[Any]] = {
    f"ssa_analysis.{table.kind}s": table for table in (MEASURES, DATASETS, LAYOUTS, EXECUTORS)
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    @property
    def name(self) -> str:
        return str(self.page.relative_to(ROOT))

    def lines(self) -> list[str]:
        """Commands without their comments."""
        plain = [shlex.join(shlex.split(line, comments=True)) for line in self.text.replace("\\\n", " ").splitlines()]
        return [line for line in plain if line]


BLOCKS = [
    Block(page, language.strip(), text)
    for page in PAGES
    for language, text in re.findall(r"^```(.*)\n((?:(?!```).*\n)*)```$", page.read_text(), re.MULTILINE)
]


def pages_with(language: str) -> list[str]:
    return list(dict.fromkeys(block.name for block in BLOCKS if block.language == language))


def blocks_of(page: str, language: str) -> list[Block]:
    return [block for block in BLOCKS if (block.name, block.language) == (page, language)]


def test_blocks_are_of_known_languages_and_no_command_hides_from_these_tests() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES
    for page in PAGES:
        fences = len(re.findall(r"^\s*```", page.read_text(), re.MULTILINE))
        assert fences == 2 * sum(block.page == page for block in BLOCKS), page
        outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        hidden = re.findall(r"^(?: {4}|\t)(?:ssa-analyze|python|bash|make|pip|torchrun|\S+\.sh) .*", outside, re.MULTILINE)
        assert hidden == [], page


@pytest.mark.parametrize("page", pages_with("python"))
def test_python(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks_of(page, "python"):
        exec(compile(block.text, page, "exec", dont_inherit=True), names)


_ran: set[str] = set()  # a line that is on two pages runs once


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("sh"))
def test_shell(page: str, workplace: Path, smoke_study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if page == "README.md":
        for path in sorted(workplace.rglob("runs/*/*")):  # its lines begin with nothing
            path.unlink()
        (workplace / "scores.db").unlink()
        # but for the study, which runs from its beginning in test_study_verb and has only its last step to go here
        shutil.copytree(smoke_study.copy, workplace / "runs" / "smoke")
    for block in blocks_of(page, "sh"):
        for line in block.lines():
            if line.startswith("ssa-analyze ") and line not in LONG:
                if line not in _ran:
                    ended = run_line(line)
                    assert ended.code == 0, f"{line}\n{ended.err}"
                    _ran.add(line)
            else:
                check(line, monkeypatch)


def check(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be said of a command that takes long, or needs what is not here; fails for one that is not known."""
    program, *arguments = shlex.split(line)
    if line in LONG:
        assert read_study(ROOT / arguments[1]).runs
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif program.endswith(".sh") or program == "bash":
        script = ROOT / (arguments[0] if program == "bash" else program)
        assert program == "bash" or script.stat().st_mode & 0o100, f"{line}: cannot be executed"
        subprocess.run(["bash", "-n", script], check=True)
    elif program == "python":
        helps(ROOT / arguments[0], monkeypatch)
    elif program == "torchrun":
        assert arguments[2:4] == ["-m", "ssa_analysis"], line
        assert run_line(f"ssa-analyze {arguments[4]} --help").code == 0
    elif program == "pip":
        assert arguments[0] == "install"
        assert all(re.fullmatch(r"[\w.\[\]-]+", name) for name in arguments[1:]), line
    else:
        raise AssertionError(f"{line!r} is no command that this test knows; teach it to run it, or to check it")


def helps(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script with ``--help``; one without options prints its tables."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", [str(script), "--help"])
        patched.syspath_prepend(script.parent)
        code: object = None
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            code = end.code
        assert not code, script


def test_the_citation_is_that_of_the_file() -> None:
    (block,) = [block for block in BLOCKS if block.language == "bibtex"]
    shown = dict(re.findall(r"^ *(\w+) *= \{+(.*?)\}+,$", block.text, re.MULTILINE))
    said = dict(re.findall(r'^ *(?:- )?(\w+): "?(.*?)"?$', (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert shown == {"title": said["title"], "author": said["name"], "version": said["version"], "license": said["license"]}
    assert said["version"] == __version__


def test_what_is_too_long_to_run_is_still_on_a_page() -> None:
    assert set(LONG) <= {line for block in BLOCKS if block.language == "sh" for line in block.lines()}
    assert all(LONG.values())


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=lambda block: block.name)
def test_toml_is_read_by_what_reads_it_in_real_life(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text(block.text)
    tables = set(re.findall(r'^\[+([\w"]+)', block.text, re.MULTILINE))
    if "grid" in tables:
        assert len(read_study(path).runs) > 10
    elif re.search("^names = ", block.text, re.MULTILINE):
        assert load_options(layout=str(path)).row() is not None
    elif "project" in tables:
        offered = re.findall(r'^\[project.entry-points."(.+)"\]\n([\w-]+) = "my_package:(\w+)"', block.text, re.MULTILINE)
        assert len(offered) == block.text.count("entry-points")
        (code,) = {"\n".join(other.text for other in blocks_of(block.name, "python"))}
        for group, _, name in offered:
            assert group in REGISTRIES
            assert f"\n{name} = " in code
    else:
        assert tables
        for verb in tables:
            read_config(str(path), verb, list(VERBS))
