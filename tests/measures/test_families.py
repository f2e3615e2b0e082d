"""What every measure family promises: the same seed gives the same numbers, every number has an error, weights stay."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from ssa_analysis import theory as _theory  # noqa: F401  (registers the bounds)
from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import DataError, MeasureError, SettingsError
from ssa_analysis.measures import MEASURES
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.scores import Score

SMALL: dict[str, dict[str, object]] = {
    "curvature": {"pairs": 64, "batch": 32, "top": 2, "density_steps": 5, "trace_probes": 5},
    "flatness": {"pairs": 64, "batch": 32, "draws": 4, "steps": 2},
    "landscape": {"pairs": 64, "batch": 32, "points": 5, "grid": 3},
    "shift": {"permutations": 20, "groups": 4, "projections": 10, "batch": 16},
    "views": {"groups": 4, "strengths": "1.5"},
    "robustness": {"images": 40},
    "representation": {"bootstrap": 5},
    "bounds": {"bootstrap": 20, "scales": 3, "draws": 10},
}
NAMES = list(MEASURES.names())
NEED_PROJECTOR = [n for n in NAMES if n not in ("downstream", "robustness")]
NEED_CLASSES = ["downstream", "robustness", "shift", "views", "bounds"]


def run(name: str, encoder: Encoder, data: Data, **values: object) -> list[Score]:
    row = MEASURES.get(name)
    return row.function(encoder, data, row.make_settings({**SMALL.get(name, {}), **values}))


def numbers(scores: list[Score]) -> list[tuple[str, float, float | None]]:
    return [(s.name, s.value, s.stderr) for s in scores]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_numbers_and_leaves_the_weights(name: str, tiny_checkpoint: object, digits: Data) -> None:
    runs = []
    for _ in range(2):
        encoder = load_checkpoint(str(tiny_checkpoint)).encoder
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        torch.rand(3)
        state = torch.get_rng_state()
        runs.append(run(name, encoder, digits))
        assert torch.equal(torch.get_rng_state(), state), "the global generator was moved"
        assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert numbers(runs[0]) == numbers(runs[1])


@pytest.mark.parametrize("name", NAMES)
def test_every_score_has_an_error_or_says_why_not(name: str, encoder: Encoder, digits: Data) -> None:
    scores = run(name, encoder, digits)
    assert len({s.name for s in scores}) == len(scores)
    for score in scores:
        assert score.measure == name
        assert math.isfinite(score.value), score.name
        assert score.settings["error"], score.name
        if score.settings["error"] in ("standard error", "Wilson interval"):
            assert score.stderr is not None
            assert score.stderr >= 0
            assert score.low is not None
            assert score.high is not None
            assert score.low <= score.value <= score.high, score.name


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("downstream", "robustness")])
def test_another_seed_gives_other_numbers(name: str, encoder: Encoder, digits: Data) -> None:
    assert numbers(run(name, encoder, digits)) != numbers(run(name, encoder, digits, seed=1))


@pytest.mark.parametrize("name", NEED_PROJECTOR)
def test_a_missing_projector_is_said(name: str, encoder: Encoder, digits: Data) -> None:
    encoder.projector = None
    with pytest.raises(MeasureError, match="projector"):
        run(name, encoder, digits)


@pytest.mark.parametrize("name", NEED_CLASSES)
def test_one_class_is_refused(name: str, encoder: Encoder, digits: Data) -> None:
    single = dataclasses.replace(digits, labels=torch.zeros_like(digits.labels), fingerprint="single")
    with pytest.raises(DataError, match="at least two"):
        run(name, encoder, single)


@pytest.mark.parametrize("name", ["curvature", "flatness", "landscape", "representation"])
def test_one_class_is_enough_for_what_needs_no_labels(name: str, encoder: Encoder, digits: Data) -> None:
    single = dataclasses.replace(digits, labels=torch.zeros_like(digits.labels), fingerprint="single")
    assert numbers(run(name, encoder, single)) == numbers(run(name, encoder, digits))


@pytest.mark.parametrize("name", NAMES)
def test_a_collapsed_encoder_gives_numbers_or_a_clear_error(name: str, encoder: Encoder, digits: Data) -> None:
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        encoder.projector[-1].bias.fill_(1.0)  # type: ignore[index,union-attr]
    if name == "shift":
        with pytest.raises(MeasureError, match="collapsed"):
            run(name, encoder, digits)
    else:
        assert all(math.isfinite(s.value) for s in run(name, encoder, digits))


def test_unknown_settings_and_wrong_types_are_named() -> None:
    row = MEASURES.get("curvature")
    with pytest.raises(SettingsError, match="did you mean pairs"):
        row.make_settings({"pair": 3})
    with pytest.raises(SettingsError, match="must be of type int"):
        row.make_settings({"pairs": "many"})
    with pytest.raises(SettingsError, match="must be of type int"):
        row.make_settings({"pairs": "2.5"})
    assert row.make_settings({"pairs": "32", "tau": "0.1", "views": "simclr"}).to_dict()["pairs"] == 32
    assert row.make_settings({"tau": "0.1"}).tau == 0.1
    assert row.make_settings({"tau": "none"}).tau is None
    with pytest.raises(SettingsError, match="did you mean simclr"):
        row.make_settings({"views": "simcrl"})
    with pytest.raises(SettingsError, match="temperature"):
        row.make_settings({"tau": -1.0})
