"""Two checkpoints side by side: differences, their intervals, and who is meant."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from ssa_analysis.errors import DataError, SettingsError
from ssa_analysis.linking.comparison import COLUMNS, compare, find_checkpoint

NAN = math.nan


def row(
    checkpoint: str, name: str, value: float, stderr: float = NAN, low: float = NAN, high: float = NAN, **about: Any
) -> dict[str, Any]:
    usual = {
        "path": f"/runs/{checkpoint}/last.pt",
        "sha256": f"{checkpoint}123456",
        "data": "digits",
        "measure": "m",
        "unit": "nats",
    }
    return {"checkpoint": checkpoint, "name": name, "value": value, "stderr": stderr, "low": low, "high": high,
            "settings": about.pop("settings", {}), **usual, **about}  # fmt: skip


EXACT = {"settings": {"error": "exact"}}
FRAME = pd.DataFrame(
    [
        row("a", "stderr", 1.0, 0.3, 0.4, 1.6), row("b", "stderr", 2.0, 0.4, 1.2, 2.8),
        row("a", "far", 1.0, 0.1, 0.8, 1.2), row("b", "far", 2.0, 0.1, 1.8, 2.2),
        row("a", "bounds", 1.0, NAN, 0.9, 1.1), row("b", "bounds", 1.5, NAN, 1.2, 1.6),
        row("a", "exact", 3.0, **EXACT), row("b", "exact", 2.0, **EXACT),
        row("a", "mixed", 3.0, **EXACT), row("b", "mixed", 2.0, 0.25, 1.5, 2.5),
        row("a", "unknown", 3.0), row("b", "unknown", 2.0, 0.25, 1.5, 2.5),
        row("a", "alone", 3.0, 0.1, 2.8, 3.2), row("b", "nan", NAN, 0.1), row("a", "nan", 1.0, 0.1),
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "difference", "low", "high", "separable", "error"),
    [
        ("stderr", 1.0, 1 - 1.96 * 0.5, 1 + 1.96 * 0.5, True, "standard errors"),
        ("far", 1.0, 1 - 1.96 * math.sqrt(0.02), 1 + 1.96 * math.sqrt(0.02), True, "standard errors"),
        ("bounds", 0.5, 0.1, 0.7, True, "bounds"),
        ("exact", -1.0, -1.0, -1.0, True, "exact"),
        ("mixed", -1.0, -1.49, -0.51, True, "standard errors"),
        ("unknown", -1.0, NAN, NAN, False, "unknown"),
        ("nan", NAN, NAN, NAN, False, "unknown"),
    ],
)
def test_differences(name: str, difference: float, low: float, high: float, separable: bool, error: str) -> None:
    table = compare(FRAME, "a", "b").set_index("score")
    found = table.loc[f"m.{name}"]
    assert [found["difference"], found["low"], found["high"]] == pytest.approx([difference, low, high], nan_ok=True)
    assert (found["separable"], found["error"]) == (separable, error)
    assert "m.alone" not in table.index


def test_equal_ones_cannot_be_told_apart_and_the_other_way_round_turns_the_sign() -> None:
    assert not compare(FRAME, "a", "a")["separable"].any()
    there, back = compare(FRAME, "a", "b"), compare(FRAME, "b", "a")
    assert there["difference"].tolist() == pytest.approx((-back["difference"]).tolist(), nan_ok=True)
    assert there["low"].tolist() == pytest.approx((-back["high"]).tolist(), nan_ok=True)
    assert tuple(there.columns) == COLUMNS


def test_who_is_meant() -> None:
    assert [find_checkpoint(FRAME, text) for text in ("a", "/runs/a/last.pt", "a12345")] == ["a", "a", "a"]
    with pytest.raises(SettingsError, match="unknown checkpoint 'c'"):
        find_checkpoint(FRAME, "c")
    twins = FRAME.assign(sha256="same-beginning")
    with pytest.raises(DataError, match="stands for 2 checkpoints: a, b"):
        find_checkpoint(twins, "same-beg")
    apart = FRAME[(FRAME["checkpoint"] == "a") | (FRAME["name"] == "nothing")]
    with pytest.raises(DataError, match="share no score"):
        compare(pd.concat([apart, pd.DataFrame([row("b", "else", 1.0)])]), "a", "b")


def test_scores_on_several_data_sets_are_told_apart() -> None:
    more = FRAME.assign(data="cifar10", value=FRAME["value"] + 5)
    table = compare(pd.concat([FRAME, more]), "a", "b")
    assert {"m.far (digits)", "m.far (cifar10)"} <= set(table["score"])
