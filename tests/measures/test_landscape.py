"""Slices of the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.fixed_loss import fixed_operator
from ssa_analysis.measures.landscape import LandscapeSettings, filter_normalised_direction, landscape
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.score import find_score


def test_filters_of_a_direction_have_the_norms_of_the_weights(encoder: Encoder) -> None:
    parameters = list(encoder.parameters())
    direction = filter_normalised_direction(parameters, seed=0, number=0)
    pieces = direction.split([p.numel() for p in parameters])
    for p, piece in zip(parameters, pieces, strict=True):
        if p.ndim < 2:
            assert (piece == 0).all()
        else:
            torch.testing.assert_close(piece.view(len(p), -1).norm(dim=1), p.detach().reshape(len(p), -1).norm(dim=1))


def test_slices_pass_through_the_loss_at_the_weights(encoder: Encoder, digits: Data) -> None:
    settings = LandscapeSettings(pairs=64, batch=32, points=5, grid=3, span=0.4)
    scores = landscape(encoder, digits, settings)
    operator = fixed_operator(encoder, digits, settings)
    base = operator.loss()
    curve = find_score(scores, "rise_full").arrays
    assert curve["offset"] == pytest.approx([-0.4, -0.2, 0, 0.2, 0.4])
    for losses in curve["loss"]:
        assert losses[2] == pytest.approx(base, abs=1e-6)
    plane = np.array(find_score(scores, "rise_2d").arrays["loss"])
    assert plane[1, 1] == pytest.approx(base, abs=1e-6)
    # the plane's axes are the first two directions of the slices
    assert plane[1, 2] == pytest.approx(curve["loss"][0][4], abs=1e-5)
    assert plane[2, 1] == pytest.approx(curve["loss"][1][4], abs=1e-5)
    half = np.mean([(c[1] + c[3]) / 2 - base for c in curve["loss"]])
    assert find_score(scores, "rise_half").value == pytest.approx(half, abs=1e-6)


@pytest.mark.parametrize("values", [{"points": 4}, {"grid": 4}, {"directions": 1}, {"span": 0.0}])
def test_bad_landscape_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        LandscapeSettings(**values)  # type: ignore[arg-type]
