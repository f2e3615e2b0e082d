"""The landscape's error over random directions: 200 intervals, each from as many directions as the default."""

from __future__ import annotations

import numpy as np

from ssa_analysis.data.datasets import Data
from ssa_analysis.measures.landscape import LandscapeSettings, _over, landscape
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.surfaces import rise_at
from ssa_analysis.scores import find_score

INTERVALS = 200
# 95 % are asked for. Below 178 of 200 has a chance of 1e-3 at 95 %; a normal interval of five values would hold 88 %
FEW = 178


def test_rises_over_random_directions(encoder: Encoder, digits: Data) -> None:
    few = LandscapeSettings().directions
    settings = LandscapeSettings(pairs=16, batch=16, points=5, grid=0, tau=0.1, span=0.5, directions=few * INTERVALS)
    curves = np.array(find_score(landscape(encoder, digits, settings), "rise_full").arrays["loss"])
    axis = np.linspace(-0.5, 0.5, 5)
    for distance in (0.25, 0.5):
        rises = np.array([rise_at(axis, curve, curve[2], distance) for curve in curves])
        assert rises.std() > 0.05 * rises.mean() > 0
        scores = [_over(settings, "rise", list(part), "nats", "directions", 0, {}) for part in rises.reshape(-1, few)]
        inside = sum(s.low <= rises.mean() <= s.high for s in scores if s.low is not None and s.high is not None)
        assert inside >= FEW, inside
