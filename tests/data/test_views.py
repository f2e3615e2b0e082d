"""Views: drawn from the seed alone, per image, valid images, and the global generators left as they were."""

from __future__ import annotations

import random
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor

from ssa_analysis.data.fourier import FourierSettings
from ssa_analysis.data.views import RECIPES, ViewRecipe, Views, named_recipe, recipe_from_dict, to_float
from ssa_analysis.errors import SettingsError

NOTHING = RECIPES["none"]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


def only(**changes: float) -> ViewRecipe:
    """The recipe that does nothing, with some operations switched on."""
    return ViewRecipe(**{"crop_low": 1.0, "flip": 0.0, "jitter": 0.0, "gray": 0.0, **changes})  # type: ignore[arg-type]


def colour_images(count: int, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [*RECIPES, *(f"{r}+fourier" for r in RECIPES)])
def test_views_are_images_of_the_size_asked_for(name: str, device: str) -> None:
    for size in (16, 12):
        view = Views(named_recipe(name), size)(colour_images(9).to(device), seed=3)
        assert tuple(view.shape) == (9, 3, size, size)
        assert view.dtype == torch.float32
        assert view.device.type == device
        assert 0 <= float(view.min()) <= float(view.max()) <= 1
        assert float(view.std()) > 0.05  # an image, not a grey plane


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["simclr", "simclr-imagenet", "digits", "simclr+fourier"])
def test_views_are_a_function_of_the_seed(name: str, device: str) -> None:
    images = colour_images(8).to(device)
    views = Views(named_recipe(name), 16)
    first = views(images, seed=11)
    torch.manual_seed(99)  # whatever was drawn before does not matter
    assert torch.equal(views(images, seed=11), first)
    assert torch.equal(Views(named_recipe(name), 16)(images, seed=11), first)
    changed = (views(images, seed=12) != first).flatten(1).any(1)
    assert changed.all()


def test_bytes_and_floats_give_the_same_views() -> None:
    images = colour_images(4)
    views = Views(RECIPES["simclr"], 16)
    assert torch.equal(views(images, seed=0), views(images.float() / 255, seed=0))
    assert torch.equal(to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)), torch.tensor([0.0, 0.2, 1.0]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "recipe",
    [
        RECIPES["simclr"],
        only(crop_low=0.2),
        only(jitter=1.0),
        only(rotate=30.0),
        only(blur=1.0),
    ],
    ids=["simclr", "crop", "jitter", "rotate", "blur"],
)
def test_every_image_of_a_batch_gets_parameters_of_its_own(recipe: ViewRecipe, device: str) -> None:
    same = colour_images(1).expand(12, -1, -1, -1).to(device)
    views = Views(recipe, 16)(same, seed=2)
    assert len({view.cpu().numpy().tobytes() for view in views}) == 12


def test_flip_mirrors_about_half_of_the_images_and_nothing_else() -> None:
    images = colour_images(200, size=6)
    view, plain = Views(only(flip=0.5), 6)(images, seed=0), to_float(images)
    kept = (view == plain).flatten(1).all(1)
    mirrored = (view == plain.flip(-1)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 70 <= int(mirrored.sum()) <= 130  # mean 100, standard deviation 7


def test_gray_makes_the_channels_equal_for_its_share_of_the_images() -> None:
    view = Views(only(gray=0.2), 6)(colour_images(200, size=6), seed=0)
    grey = (view - view[:, :1]).abs().flatten(1).max(1).values < 1e-6
    assert 18 <= int(grey.sum()) <= 62  # mean 40, standard deviation 5.7


def test_a_crop_of_a_ramp_shows_a_part_of_it() -> None:
    """Area at least ``crop_low``: on an image that rises from left to right the view spans that much of the ramp."""
    ramp = torch.linspace(0, 1, 32).expand(50, 3, 32, 32)
    view = Views(only(crop_low=0.3), 32)(ramp, seed=4)
    span = view[:, 0, 16, -1] - view[:, 0, 16, 0]
    assert float(span.min()) > 0.4  # width >= sqrt(0.3 * 3/4) = 0.47 of the image, less interpolation at the ends
    assert float(span.min()) < 0.7
    assert float(span.max()) > 0.85


def test_the_empty_recipe_changes_nothing() -> None:
    images = colour_images(5)
    assert torch.equal(Views(NOTHING, 16)(images, seed=8), images.float() / 255)


def test_the_two_views_of_a_pair_differ_and_no_seed_shares_a_view() -> None:
    images, views = colour_images(4), Views(RECIPES["simclr"], 16)
    drawn = [view for seed in range(5) for view in views.pair(images, seed)]
    assert len({view.numpy().tobytes() for view in drawn}) == 10
    assert torch.equal(views.pair(images, 3)[1], drawn[7])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["simclr-imagenet", "digits+fourier"])
def test_global_generators_are_left_as_they_were(name: str, device: str) -> None:
    states = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002
    if device == "cuda":
        cuda = torch.cuda.get_rng_state()
    Views(named_recipe(name), 16).pair(colour_images(6).to(device), seed=1)
    assert torch.equal(torch.get_rng_state(), states[0])  # type: ignore[arg-type]
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
    if device == "cuda":
        assert torch.equal(torch.cuda.get_rng_state(), cuda)


@pytest.mark.parametrize("name", [*RECIPES, "simclr+fourier"])
def test_recipes_survive_the_way_into_a_checkpoint_and_back(name: str) -> None:
    recipe = named_recipe(name)
    assert recipe_from_dict(recipe.to_dict()) == recipe
    window = ViewRecipe(rotate=3.0, fourier=FourierSettings(0.5, 2, "class"))
    assert recipe_from_dict(window.to_dict()) == window


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"brightnes": 0.4}, "unknown view setting 'brightnes'; did you mean brightness"),
        ({"fourier": {"alfa": 1.0}}, "unknown Fourier setting 'alfa'; did you mean alpha"),
        ({"crop_low": "half"}, "wrong type"),
        ({"crop_low": 0.0}, r"crop_low must lie in \(0, 1\], got 0.0"),
        ({"flip": 1.5}, r"probability flip must lie in \[0, 1\], got 1.5"),
        ({"fourier": {"window": 0}}, "window must be at least 1"),
    ],
)
def test_wrong_recipes_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        recipe_from_dict(values)


def test_plus_fourier_adds_only_the_fourier_part() -> None:
    recipe = named_recipe("digits+fourier")
    assert recipe.to_dict() == {**RECIPES["digits"].to_dict(), "fourier": asdict(FourierSettings())}
    assert named_recipe("digits") is RECIPES["digits"]


@pytest.mark.parametrize(("typo", "meant"), [("simcrl", "simclr"), ("simclr+furier", r"simclr\+fourier"), ("digts", "digits")])
def test_a_mistyped_recipe_gets_a_suggestion(typo: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"unknown view recipe .*did you mean.*{meant}"):
        named_recipe(typo)


def test_nearest_partners_ask_for_features() -> None:
    recipe = ViewRecipe(fourier=FourierSettings(partner="nearest"))
    assert Views(recipe, 16).needs_features
    assert not Views(named_recipe("simclr+fourier"), 16).needs_features
    with pytest.raises(SettingsError, match="needs features"):
        Views(recipe, 16)(colour_images(4), seed=0)
