"""``--json``: stdout is one JSON document and nothing else, and says what the text says; NaN is null."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ssa_analysis.cli.common import print_json
from ssa_analysis.cli.list_verb import KINDS
from ssa_analysis.cli.main import VERBS

from ssa_analysis.checkpoints.reading import file_hash
from ssa_analysis.scores import JSON_FIELDS, Score

Cli = Callable[..., Any]
DATA = ("--data", "digits", "--subset", "300")
TINY = ("--arch", "convnet", "--width", 4, "--projector", "16,8", "--epochs", 2, "--batch", 64, "--warmup", 0, "--lr", 0.1)
OTHERS = {"completion", "export"}  # a script, --format json


@dataclass(frozen=True)
class Row:
    where: Path
    number: float


def test_values_become_plain_ones(capsys: pytest.CaptureFixture[str]) -> None:
    score = Score("m", "n", math.nan, arrays={"x": object()})
    values = {
        1: (np.float32(0.5), np.int64(3), np.bool_(True)), "row": Row(Path("a/b"), math.inf), "nan": [math.nan, -math.inf],
        "none": None, "score": score,
    }  # fmt: skip
    print_json(values)
    told = json.loads(capsys.readouterr().out)
    assert told.pop("score") == {key: score.to_json()[key] for key in JSON_FIELDS}
    assert told == {"1": [0.5, 3, True], "row": {"where": "a/b", "number": None}, "nan": [None, None], "none": None}
    with pytest.raises(TypeError):  # rather an error than something that nobody can read
        print_json(object())


@pytest.mark.parametrize("verb", sorted(set(VERBS) - OTHERS))
def test_every_verb_that_prints_results_has_it(cli: Cli, verb: str) -> None:
    assert re.search(r"--json +Print .* as\s+JSON on\s+stdout", cli(verb, "--help").out, re.DOTALL)


@pytest.mark.parametrize("kind", KINDS)
def test_list_tells_what_the_text_tells(cli: Cli, kind: str) -> None:
    ended, text = cli("list", kind, "--json"), cli("list", kind).out
    assert (ended.code, ended.err) == (0, "")
    assert [row["name"] for row in ended.json] == [line.split()[0] for line in text.splitlines() if not line.startswith(" ")]
    assert all(row["summary"] in text for row in ended.json)


def test_list_tells_settings_of_measures(cli: Cli) -> None:
    rows = {row["name"]: row for row in cli("list", "measures", "--json").json}
    assert rows["curvature"]["settings"]["pairs"] == 256
    assert (rows["curvature"]["by_default"], rows["views"]["by_default"]) == (True, False)
    assert "slurm_*" in {row["name"]: row for row in cli("list", "executors", "--json").json}["slurm"]["options"]


def test_train_tells_the_checkpoint_and_how_it_ended(cli: Cli) -> None:
    command = ("train", *DATA, *TINY, "--out", "run", "--json")
    plan = cli(*command, "--dry-run")
    assert (plan.code, plan.json["epochs"], plan.json["steps"]) == (0, 2, 2)
    assert not Path("run").exists()
    ended = cli(*command)
    assert ended.code == 0
    assert (ended.json["checkpoint"], ended.json["sha256"]) == ("run/last.pt", file_hash(Path("run/last.pt")))
    assert (ended.json["method"], ended.json["data"], ended.json["epochs"]) == ("simclr", "digits", 2)
    assert (ended.json["last"]["epoch"], ended.json["last"]["step"]) == (2, 2)
    assert f"[2/2] loss {ended.json['last']['loss']:.4f}  kNN {ended.json['last']['knn']:.3f}" in ended.err
    again = cli(*command, "--resume")
    assert again.json == ended.json


def test_corruptions_tell_distances_and_files(cli: Cli) -> None:
    options = ("corruptions", *DATA, "--out", "sheet", "--only", "fog,contrast", "--compared", 10)
    ended, text = cli(*options, "--json"), cli(*options).out
    assert ended.code == 0, ended.err
    rows = {row["corruption"]: row for row in ended.json["rows"]}
    assert set(rows) == {"fog", "contrast"}
    for name, row in rows.items():
        assert next(line for line in text.splitlines() if line.split()[0] == name).split()[1] == f"{row['severity 1']:.1f}"
    assert (ended.json["about"]["origin"], ended.json["about"]["images"]) == ("regenerated", 10)
    assert sorted(Path(path).suffix for path in ended.json["files"]) == [".csv", ".pdf", ".png"]
    assert all(Path(path).is_file() for path in ended.json["files"])
