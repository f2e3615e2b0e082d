"""Scores from Python: of files, modules and encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ssa_analysis
from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.running.executors import InProcessExecutor
from ssa_analysis.running.plan import DataSpec, make_cells
from ssa_analysis.running.scoring import run_cells
from ssa_analysis.running.store import SCORE_COLUMNS, Store


class Net(nn.Module):
    """A network of somebody else's: a trunk and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_a_file_s_scores_are_those_of_the_command_line(tiny_checkpoint: Path, digits: Data, tmp_path: Path) -> None:
    frame = ssa_analysis.score(tiny_checkpoint, digits, ["representation", "downstream"])
    cells = make_cells([tiny_checkpoint], digits, ["representation", "downstream"], 0, {}, {})
    with Store(tmp_path / "s.db") as store:
        run_cells(cells, DataSpec("digits", subset=600), executor=InProcessExecutor(), store=store)
        kept = store.frame()
    assert list(frame.columns) == list(SCORE_COLUMNS)
    assert frame[["measure", "name", "value", "stderr", "low", "high", "unit"]].equals(
        kept[["measure", "name", "value", "stderr", "low", "high", "unit"]]
    )
    assert list(frame["sha256"].unique()) == list(kept["sha256"].unique())


def test_any_module_in_two_lines_and_it_is_left_as_it_was(digits: Data) -> None:
    torch.manual_seed(0)
    net = Net().train()
    net.conv.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    frame = ssa_analysis.score(net, digits, ["downstream", "curvature"], normalise="half", loss="supervised",
                               settings={"curvature": {"pairs": 64, "top": 1}})  # fmt: skip
    assert {"probe_accuracy", "lambda_max"} <= set(frame["name"])
    assert set(frame["checkpoint"]) == {"Net"}
    assert net.training
    assert isinstance(net.fc, nn.Linear)
    assert not net.conv.weight.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_several_and_named_ones(encoder: Encoder, tiny_checkpoint: Path, digits: Data) -> None:
    several = ssa_analysis.score([encoder, encoder, tiny_checkpoint], digits, ["downstream"])
    assert list(several["checkpoint"].unique()) == ["Encoder", "Encoder 2", str(tiny_checkpoint)]
    named = ssa_analysis.score({"before": encoder, "after": nn.DataParallel(encoder)}, digits, ["downstream"])
    assert list(named["checkpoint"].unique()) == ["before", "after"]
    values = [frame.groupby("checkpoint")["value"].apply(list).tolist() for frame in (several, named)]
    assert all(value == values[0][0] for part in values for value in part)


def test_it_prints_shortly_and_keeps_all(tiny_checkpoint: Path, digits: Data) -> None:
    frame = ssa_analysis.score(tiny_checkpoint, digits, ["downstream"])
    assert " ± " in repr(frame)
    assert "fingerprint" not in repr(frame)
    assert "<th>score</th>" in frame._repr_html_()
    assert "probe_accuracy" in repr(frame[frame["name"] == "probe_accuracy"])
    assert repr(frame[["name", "value"]]).startswith(" ")  # other columns print as usual


def test_what_a_measure_cannot_do_is_raised_or_kept(digits: Data) -> None:
    net = Net()
    with pytest.raises(MeasureError, match="no projector"):
        ssa_analysis.score(net, digits, ["representation"], normalise="half")
    frame = ssa_analysis.score(net, digits, ["representation", "downstream"], normalise="half", keep_failures=True)
    assert [text.partition(": ")[0] for text in frame.attrs["failures"]] == ["Net representation"]
    assert frame["value"].isna().sum() == 1
    assert "alignment" in set(ssa_analysis.score(net, digits, ["representation"], normalise="half", embedding="features")["name"])


@pytest.mark.parametrize(
    ("target", "more", "message"),
    [
        (Net(), {}, "pass normalise='imagenet'"),
        (3, {"normalise": "half"}, "cannot measure a int"),
        ([3], {"normalise": "half"}, "cannot measure a int"),
        (Net(), {"normalise": "half", "measures": "downstream"}, r"measures is a list of names; write \['downstream'\]"),
        (Net(), {"normalise": "half", "measures": ["downsteam"]}, "did you mean downstream"),
        (Net(), {"normalise": "half", "settings": {"downstream": {"neighbour": 3}}}, "neighbour"),
    ],
)
def test_what_cannot_be_is_told(target: Any, more: dict[str, Any], message: str, digits: Data) -> None:
    with pytest.raises(SettingsError, match=message):
        ssa_analysis.score(target, digits, **{"measures": ["downstream"], **more})
