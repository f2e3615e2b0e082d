"""``--model`` and ``--normalise`` of inspect, score and bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import FEW

from ssa_analysis.checkpoints.options import LoadOptions
from ssa_analysis.checkpoints.own_model import parse_model
from ssa_analysis.numerics.seeding import seeded
from ssa_analysis.running.plan import DataSpec, loaded_data, make_cells
from ssa_analysis.running.store import Store

Cli = Callable[..., Any]
DATA = ("--data", "digits", "--subset", "300")
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.projector = nn.Sequential(nn.Linear(16, 4))

def build():
    return Net()
"""


@pytest.fixture
def mine(tmp_path: Path) -> list[Path]:
    """Two checkpoints of an architecture that no layout knows; ``net.py`` in the working folder builds it."""
    Path("net.py").write_text(NET)
    names: dict[str, Any] = {}
    exec(NET, names)
    for seed in (0, 1):
        with seeded(seed, "net"):
            torch.save({"state_dict": names["build"]().state_dict()}, tmp_path / f"{seed}.pt")
    return [tmp_path / "0.pt", tmp_path / "1.pt"]


MODEL = ("--model", "net.py:build", "--normalise", "half")


def test_without_the_option_the_way_out_is_shown(cli: Cli, mine: list[Path]) -> None:
    ended = cli("inspect", mine[0])
    assert ended.code == 1
    assert "or bring the architecture with --model path/to/file.py:function" in ended.complaint()


def test_inspect(cli: Cli, mine: list[Path]) -> None:
    text = cli("inspect", mine[0], *MODEL)
    assert text.code == 0
    for line in (
        "layout       own model",
        "encoder      build of net.py",
        "projector    yes",
        "assumed      features: the output of",
    ):
        assert line in text.out
    report = cli("inspect", mine[0], *MODEL, "--json").json
    assert (report["layout"], report["has_projector"], report["has_classifier"]) == ("own model", True, False)


@pytest.mark.usefixtures("forked_workers")
def test_score_in_workers_and_from_the_store(cli: Cli, mine: list[Path]) -> None:
    score = ("score", *mine, *DATA, *MODEL, "--measures", "representation", "--json")
    ended = cli(*score, "--workers", 2)
    assert ended.code == 0, ended.err
    assert {s["checkpoint"] for s in ended.json} == {str(path) for path in mine}
    assert {s["settings"]["model"] for s in ended.json} == {"net.py:build"}
    again = cli(*score)
    assert "0 cells computed, 2 taken from the store" in again.err
    assert [s["value"] for s in again.json] == [s["value"] for s in ended.json]
    here = cli(*score, "--store", "other.db")  # in this process: the very numbers of the workers
    assert [s["value"] for s in here.json] == pytest.approx([s["value"] for s in ended.json], rel=1e-5)
    with Store("scores.db") as store:
        assert list(store.checkpoints()["method"]) == ["build of net.py"] * 2
        model = parse_model("net.py:build", "half")
        cells = make_cells(
            mine, loaded_data(DataSpec("digits", subset=300)), ["representation"], 0, {"views": "own"}, {}, LoadOptions(model)
        )
        assert all(store.has(cell) for cell in cells)


@pytest.mark.parametrize("change", ["content", "function", "normalisation"])
def test_a_change_of_the_architecture_is_computed_again(cli: Cli, mine: list[Path], change: str) -> None:
    score = ("score", mine[0], *DATA, "--measures", "representation")
    assert cli(*score, *MODEL).code == 0
    if change != "normalisation":
        Path("net.py").write_text(NET + "\n# another version\nother = build\n")
        if change == "function":
            assert "1 cells computed" in cli(*score, *MODEL).err
    other = {
        "content": MODEL,
        "function": ("--model", "net.py:other", "--normalise", "half"),
        "normalisation": ("--model", "net.py:build", "--normalise", "imagenet"),
    }[change]
    assert "1 cells computed, 0 taken from the store" in cli(*score, *other).err
    assert "0 cells computed, 1 taken from the store" in cli(*score, *other).err


def test_bounds(cli: Cli, mine: list[Path]) -> None:
    ended = cli("bounds", mine[0], *DATA, *MODEL, *FEW, "--json")
    assert ended.code == 0, ended.err
    assert {s["measure"] for s in ended.json} == {"bounds"}


def test_options_from_a_file(cli: Cli, mine: list[Path]) -> None:
    Path("c.toml").write_text('[score]\nmodel = "net.py:build"\nnormalise = "half"\nmeasures = "representation"\n')
    assert cli("score", mine[0], *DATA, "--config", "c.toml").code == 0


@pytest.mark.parametrize("verb", ["inspect", "score", "bounds"])
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--normalise", "hlaf"), 2, "did you mean half"),
        (("--layout", "mocco"), 2, "did you mean moco"),
        (("--layout", "gone.toml"), 2, "gone.toml: cannot be read"),
        (("--recipe", "stem_padding"), 2, "write it as NAME=VALUE"),
        (("--recipe", "stem_pading=2"), 2, "unknown recipe setting 'stem_pading'; did you mean stem_padding"),
        (("--recipe", "max_pool=perhaps"), 2, "the recipe's max_pool is yes or no, got 'perhaps'"),
        (("--model", "net.py:build", "--layout", "moco"), 2, "--layout and --recipe do not go with it"),
        (("--model", "net.py"), 2, "write it as path/to/file.py:function"),
        (("--model", "gone.py:build"), 2, "there is no file gone.py"),
        (("--model", "net.py:build", "--normalise", "imagnet"), 2, "did you mean imagenet"),
    ],
)
def test_options_that_cannot_be(cli: Cli, mine: list[Path], verb: str, options: tuple[str, ...], code: int, message: str) -> None:
    ended = cli(verb, mine[0], *(DATA if verb != "inspect" else ()), *options)
    assert ended.code == code
    assert message in ended.complaint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "net.py:buidl", "--normalise", "half"), "did you mean build?"),
        (("--model", "net.py:build"), "say how its images are normalised with --normalise"),
        (("--model", "broken.py:build", "--normalise", "half"), "broken.py cannot be run: SystemExit"),
    ],
)
def test_what_only_loading_finds(cli: Cli, mine: list[Path], options: tuple[str, ...], message: str) -> None:
    Path("broken.py").write_text("import sys\nsys.exit(0)\n")
    inspected = cli("inspect", mine[0], *options)
    assert inspected.code in (1, 2)
    assert message in inspected.complaint()
    scored = cli("score", mine[0], *DATA, *options, "--measures", "representation", "--json")
    assert scored.code == 1
    assert message in scored.err
    assert scored.json == []
    assert "Traceback" not in scored.err
