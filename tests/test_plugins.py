"""The package of docs/extending.md, installed as a user does: all four kinds are listed and work; broken ones are named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ssa_analysis.models.backbones import build_backbone

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
pytest.importorskip("setuptools", minversion="70.1", reason="installing a package offline needs a setuptools that builds wheels")

BROKEN = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "broken-package"
version = "1.0"

[tool.setuptools]
py-modules = ["broken_package"]

[project.entry-points."ssa_analysis.measures"]
gone = "package_that_is_not_there:MEASURE"
function = "broken_package:function"
shift = "broken_package:SHIFT"

[project.entry-points."ssa_analysis.executors"]
ends = "broken_package:NOTHING"
"""
BROKEN_MODULE = """
from ssa_analysis.measures import Measure, MeasureSettings

def function(encoder, data, settings):
    return []

SHIFT = Measure("shift", "another shift", MeasureSettings, function)
"""
LISTS = [f"ssa-analyze list {kind}" for kind in ("measures", "datasets", "layouts", "executors")]
SCORE = (
    "ssa-analyze score net.pth --data stripes --measures feature-norm --set feature-norm.power=1"
    " --executor noted --executor-option file=noted.log --json"
)
INSPECT = "ssa-analyze inspect net.pth --json"
MISSING = "ssa-analyze score net.pth --data stripes --measures gone"
# a new process, which finds what is installed; one for all commands, since each would import torch
DRIVER = """
import json, sys
from command_line import run_line
ended = {line: run_line(line) for line in json.loads(sys.argv[1])}
print(json.dumps({line: [e.code, e.out, e.err] for line, e in ended.items()}))
"""


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL))


def network() -> dict[str, Any]:
    """A small ResNet under the names of the layout."""
    torch.manual_seed(0)
    state = {f"online.{key}": value for key, value in build_backbone("resnet18", 4).state_dict().items()}
    state |= {"online.head.0.weight": torch.randn(8, 32), "online.head.0.bias": torch.zeros(8)}
    return {"state_dict": {**state, "target.conv1.weight": torch.zeros(1)}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plugins")


@pytest.fixture(scope="module")
def ended(folder: Path) -> dict[str, Ended]:
    packages = {"mine": (blocks("toml"), "my_package", blocks("python")), "broken": (BROKEN, "broken_package", BROKEN_MODULE)}
    for name, (project, module, code) in packages.items():
        (folder / name).mkdir()
        (folder / name / "pyproject.toml").write_text(project)
        (folder / name / f"{module}.py").write_text(code)
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", site]
    done = subprocess.run([*pip, *(folder / name for name in packages)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.save(network(), folder / "net.pth")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "tests")])}
    command = [sys.executable, "-c", DRIVER, json.dumps([*LISTS, INSPECT, SCORE, MISSING])]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return {line: Ended(*parts) for line, parts in json.loads(process.stdout).items()}


@pytest.mark.parametrize(
    ("kind", "name", "summary", "built_in"),
    [
        ("measures", "feature-norm", "mean norm of the features", "curvature"),
        ("datasets", "stripes", "stripes in two directions, 16 px", "digits"),
        ("layouts", "our-group", "our group's SimCLR", "torchvision-resnet"),
        ("executors", "noted", "one job after the other, noted in a file", "slurm"),
    ],
)
def test_each_kind_is_listed_beside_ours(ended: dict[str, Ended], kind: str, name: str, summary: str, built_in: str) -> None:
    listed = ended[f"ssa-analyze list {kind}"]
    assert listed.code == 0
    assert re.search(rf"^{name} +{re.escape(summary)}$", listed.out, re.M)
    assert re.search(rf"^{built_in} ", listed.out, re.M)


def test_the_layout_recognises_its_files(ended: dict[str, Ended]) -> None:
    report = json.loads(ended[INSPECT].out)
    assert (report["layout"], report["has_projector"]) == ("our-group", True)
    assert report["left_over"] == {"target.conv1.weight": "momentum network"}


def test_all_four_work_together(ended: dict[str, Ended], folder: Path) -> None:
    scored = ended[SCORE]
    assert scored.code == 0, scored.err
    (score,) = json.loads(scored.out)
    assert (score["measure"], score["name"], score["settings"]["data"]) == ("feature-norm", "norm", "stripes")
    assert score["settings"]["power"] == 1.0
    assert score["low"] < score["value"] < score["high"]
    assert (folder / "noted.log").read_text().splitlines() == ["value net.pth", "done net.pth"]


def test_broken_entries_are_named_in_a_line_each_and_take_nothing_down(ended: dict[str, Ended]) -> None:
    said = dict(line.split(" of the package 'broken-package' is left out: ") for line in ended[LISTS[0]].err.splitlines())
    assert said == {
        "the measure 'gone'": "ModuleNotFoundError: No module named 'package_that_is_not_there'",
        "the measure 'function'": "broken_package:function must be a Measure, it is a function",
        "the measure 'shift'": "another one has that name",
    }
    assert "another shift" not in ended[LISTS[0]].out
    (line,) = ended[LISTS[3]].err.splitlines()
    assert line.startswith("the executor 'ends' of the package 'broken-package' is left out: AttributeError: ")
    assert ended[LISTS[1]].err == ended[LISTS[2]].err == ""
    asked = ended[MISSING]
    assert (asked.code, len(asked.err.splitlines())) == (2, 1)
    assert asked.err.startswith("ssa-analyze: the measure 'gone' of the package 'broken-package' is left out: ")
