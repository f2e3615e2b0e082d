"""PyHessian as a back end, and against our own eigenvalues."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.data.datasets import Data
from ssa_analysis.measures import MEASURES
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.score import Score, find_score
from ssa_analysis.training.loop import train
from ssa_analysis.training.settings import TrainSettings

SETTINGS = {"pairs": 64, "batch": 32, "top": 2}


@pytest.fixture
def both(digits: Data, tmp_path: Path) -> tuple[list[Score], list[Score]]:
    """Both back ends on a net trained long enough that its largest eigenvalues are its largest in magnitude too."""
    settings = TrainSettings(arch="convnet", width=4, projector=(16, 8), epochs=20, batch=64, lr=0.1, knn_every=0)
    encoder = load_checkpoint(train(settings, digits, tmp_path)).encoder
    row = MEASURES.get("curvature")
    ours = row.function(encoder, digits, row.make_settings({**SETTINGS, "trace_tolerance": 0.02, "trace_probes": 200}))
    return ours, row.function(encoder, digits, row.make_settings({**SETTINGS, "backend": "pyhessian"}))


def test_the_back_ends_agree_within_their_errors(both: tuple[list[Score], list[Score]]) -> None:
    ours, theirs = both
    for name in ("lambda_max", "lambda_1", "lambda_2"):
        a, b = find_score(ours, name), find_score(theirs, name)
        assert a.low is not None
        assert b.low is not None
        assert a.high is not None
        assert b.high is not None
        assert a.low <= b.high, name
        assert b.low <= a.high, name
        assert b.settings["backend"] == "pyhessian"
    a, b = find_score(ours, "trace"), find_score(theirs, "trace")
    assert a.stderr is not None
    assert b.stderr is not None
    assert abs(a.value - b.value) <= 3 * (a.stderr**2 + b.stderr**2) ** 0.5


def test_the_weights_and_gradients_are_left_as_they_were(encoder: Encoder, digits: Data) -> None:
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    row = MEASURES.get("curvature")
    row.function(encoder, digits, row.make_settings({**SETTINGS, "backend": "pyhessian", "top": 1}))
    assert all(v.equal(before[k]) for k, v in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())
