"""``ssa-analyze views``: the table, the answer, the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ssa_analysis.running.store import Store

Cli = Callable[..., Any]
FEW = ("--data", "digits", "--subset", "400", "--set", "views.groups=4", "--set", "views.strengths=1.5")


def test_the_table_is_ranked_and_the_question_answered(cli: Cli, good: Path, tmp_path: Path) -> None:
    ended = cli("views", good, *FEW, "--out", tmp_path / "advice", "--store", "scores.db")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].endswith("shift between ideal and practical pairs, smallest first")
    assert lines[-1].startswith("Does the Fourier augmentation relieve the shift? ")
    assert lines[-1].split("? ")[1].split(":")[0] in ("Yes", "No", "Not enough data")
    table = pd.read_csv(tmp_path / "advice" / "views.csv")
    assert list(table["shift"]) == sorted(table["shift"])
    assert {"recipe", "none", "only_crop", "without_crop", "crop_x1.5", "fourier_fda", "class_oracle"} <= set(table["variant"])
    assert len(lines) == len(table) + 3
    for name in ("ranking", "strength"):
        assert (tmp_path / "advice" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "advice" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    with Store("scores.db") as store:
        frame = store.frame()
    assert set(frame["measure"]) == {"views"}
    again = cli("views", good, *FEW, "--store", "scores.db")
    assert again.out == ended.out  # from the store


def test_scores_as_json(cli: Cli, good: Path) -> None:
    rows = cli("views", good, *FEW, "--json").json
    assert {row["measure"] for row in rows} == {"views"}
    relief = next(row for row in rows if row["name"] == "fourier_relief")
    assert relief["settings"]["verdict"] in ("yes", "no", "not enough data")


def test_images_without_labels_are_told(cli: Cli, good: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "bare.npz", x=rng.integers(0, 256, (90, 16, 16, 3), dtype=np.uint8))
    ended = cli("views", good, "--data", "bare.npz")
    assert ended.code == 1
    assert "no labels" in ended.err
    assert "Traceback" not in ended.err
    scored = cli("score", good, "--data", "bare.npz", "--measures", "shift", "--set", "shift.groups=4", "--json")
    assert scored.code == 0, scored.err
    assert {row["name"] for row in scored.json} == {"augmentation_mmd2_marginal", "augmentation_gaussian_w2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "views.image=10"), "did you mean images"),
        (("--set", "views.strengths=strong"), "numbers separated by commas"),
        (("--views", "simcrl"), "did you mean simclr"),
    ],
)
def test_wrong_options_are_usage_errors(cli: Cli, good: Path, options: tuple[str, ...], message: str) -> None:
    ended = cli("views", good, "--data", "digits", *options)
    assert ended.code == 2
    assert message in ended.complaint()
