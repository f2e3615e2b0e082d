"""The adviser on encoders for which the answer is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.fourier import FourierSettings
from ssa_analysis.data.views import RECIPES, named_recipe
from ssa_analysis.errors import DataError, SettingsError
from ssa_analysis.measures.views import ViewsSettings, fourier_verdict, variants, views
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.resampling import Interval
from ssa_analysis.scores import Score, find_score

FAST = ViewsSettings(groups=8, strengths="0.5")


class Brightness(nn.Module):
    """Sees the mean of an image and nothing else: views of one image agree in it, images of a class do not."""

    def __init__(self, sensitivity: float) -> None:
        super().__init__()
        self.sensitivity = nn.Parameter(torch.tensor(sensitivity))

    def forward(self, x: Tensor) -> Tensor:
        angle = self.sensitivity * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def sees_brightness(sensitivity: float = 6.0) -> Encoder:
    return Encoder(Brightness(sensitivity), nn.Identity(), (0.0,) * 3, (1.0,) * 3).eval()


@pytest.fixture(scope="module")
def bright(digits: Data) -> Data:
    """Images of random brightness, whatever their class."""
    rng = torch.Generator().manual_seed(0)
    offset = torch.randint(0, 200, (len(digits.images), 1, 1, 1), generator=rng)
    images = (digits.images // 8 + offset).to(torch.uint8)
    return dataclasses.replace(digits, images=images, recipe="none", fingerprint="bright")


def value(scores: list[Score], name: str) -> float:
    return find_score(scores, name).value


@pytest.fixture(scope="module")
def advised(bright: Data) -> list[Score]:
    return views(sees_brightness(), bright, FAST)


def test_swapping_amplitudes_takes_away_what_views_share_and_classes_do_not(advised: list[Score]) -> None:
    relief = find_score(advised, "fourier_relief")
    assert relief.settings["verdict"] == "yes", relief.settings["sentence"]
    assert relief.low > 0  # type: ignore[operator]
    shift = value(advised, "recipe")
    assert shift > 0.1
    assert value(advised, "fourier_apr") < 0.3 * shift  # the partner's brightness: views are as independent as the class
    assert value(advised, "fourier_window1") == pytest.approx(value(advised, "fourier_alpha1"), abs=0.05 * shift)
    assert value(advised, "fourier_alpha0.25") > value(advised, "fourier_alpha1")
    oracle = find_score(advised, "class_oracle")
    assert oracle.value < 0.3 * shift
    assert oracle.low < 0  # type: ignore[operator]


def test_the_change_of_a_variant_is_its_difference_to_the_recipe(advised: list[Score]) -> None:
    base = value(advised, "recipe")
    for score in advised:
        if score.settings["group"] in ("floor", "verdict"):
            continue
        about = score.settings
        assert about["change"] == pytest.approx(score.value - base, abs=1e-12)
        assert about["change_low"] <= about["change"] <= about["change_high"]
        assert about["loss_gap"] == pytest.approx(about["alignment_gap"] / 0.5 + about["uniformity_gap"])
    plain = find_score(advised, "plain").settings  # the recipe has no Fourier part: the same views, drawn from the same seed
    assert (plain["change"], plain["change_low"], plain["change_high"]) == (0, 0, 0)


def test_an_encoder_that_does_not_see_the_amplitude_gets_no_relief(bright: Data) -> None:
    scores = views(sees_brightness(0.0), bright, FAST)
    relief = find_score(scores, "fourier_relief")
    assert relief.value == pytest.approx(0, abs=1e-9)
    assert relief.settings["verdict"] != "yes"


@pytest.mark.parametrize(
    ("reliefs", "verdict", "words"),
    [
        ({"a": (0.3, 0.1), "b": (-0.2, 0.1)}, "yes", "a takes 0.3"),
        ({"a": (0.01, 0.02), "b": (-0.2, 0.1)}, "no", "no variant takes off more than 5%"),
        ({"a": (0.01, 0.2), "b": (-0.2, 0.1)}, "not enough data", "about 16000 images would decide"),
        ({"a": (0.2, 0.3)}, "not enough data", "about 200 images would decide"),
    ],
)
def test_the_verdict(reliefs: dict[str, tuple[float, float]], verdict: str, words: str) -> None:
    intervals = {name: Interval(v, reach / 2, v - reach, v + reach) for name, (v, reach) in reliefs.items()}
    found, sentence = fourier_verdict(intervals, 1.0, images=100 if verdict != "yes" else 1000)
    assert found == verdict
    assert words.replace("16000", "1600") in sentence


def test_every_recipe_stands_once_and_has_its_place() -> None:
    rows = variants(RECIPES["simclr"], [0.5, 1.5], labelled=True)
    names = [row.name for row in rows]
    assert len(names) == len(set(names))
    parts = {"crop", "colour", "flip", "gray"}
    assert {n.removeprefix("only_") for n in names if n.startswith("only_")} == parts
    assert {n.removeprefix("without_") for n in names if n.startswith("without_")} == parts
    assert {"crop_x0.5", "colour_x1.5", "all_x0.5", "all_x1.5", "fourier_fda", "fourier_apr", "fourier_class"} <= set(names)
    recipes = [row.recipe for row in rows if row.name != "plain"]
    assert all(recipes.count(r) == 1 for r in recipes)
    assert "fourier_class" not in {row.name for row in variants(RECIPES["simclr"], [], labelled=False)}


def test_a_recipe_with_the_fourier_augmentation_is_compared_with_itself_without() -> None:
    recipe = named_recipe("simclr+fourier")
    by_name = {row.name: row.recipe for row in variants(recipe, [], labelled=False)}
    assert by_name["recipe"] == recipe
    assert by_name["plain"].fourier is None
    assert by_name["fourier_alpha1"] == recipe
    assert by_name["only_fourier"].fourier == FourierSettings()


def test_the_error_of_a_change_is_what_other_images_would_show(bright: Data) -> None:
    """Many draws of the images: the spread of the change is about what its interval says, far less than the shift's."""
    changes, errors, shifts = [], [], []
    for seed in range(12):
        scores = views(sees_brightness(), bright, ViewsSettings(groups=8, strengths="", seed=seed))
        about = find_score(scores, "fourier_alpha0.25").settings
        changes.append(about["change"])
        errors.append((about["change_high"] - about["change_low"]) / (2 * 1.96))
        shifts.append(find_score(scores, "fourier_alpha0.25").stderr)
    # the held-out images are the same, only their roles differ: the spread over seeds is at most that over images
    assert np.std(changes) < 2 * np.mean(errors)
    assert np.mean(errors) < np.mean(shifts)  # type: ignore[arg-type]


def test_the_adviser_needs_labels_and_images(encoder: Encoder, digits: Data) -> None:
    bare = dataclasses.replace(digits, labels=torch.zeros_like(digits.labels), class_names=())
    with pytest.raises(DataError, match="no labels"):
        views(encoder, bare, FAST)
    few = dataclasses.replace(digits, splits={**digits.splits, "held-out": digits.splits["held-out"][:24]}, fingerprint="few")
    with pytest.raises(DataError, match=r"too small for the adviser|fewer than 2|only one of"):
        views(encoder, few, FAST)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strengths": "weak"}, "numbers separated by commas"),
        ({"strengths": "-1"}, r"must lie in \(0, 10\]"),
        ({"images": 2}, "images"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ViewsSettings(**settings)  # type: ignore[arg-type]


def test_clipping_is_told_for_fourier_variants_only(advised: list[Score]) -> None:
    for score in advised:
        clipped = score.settings.get("clipped")
        if score.name.startswith("fourier_") and score.settings["group"] == "fourier":
            assert 0 <= clipped <= 1
            assert math.isfinite(clipped)
        else:
            assert clipped is None
