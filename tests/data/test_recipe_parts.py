"""Augmentations of a recipe one by one."""

from __future__ import annotations

import pytest

from ssa_analysis.data.recipe_parts import NOTHING, PARTS, only, parts_of, scaled, scaled_whole, without
from ssa_analysis.data.views import RECIPES, named_recipe

NAMES = [*RECIPES, "simclr+fourier", "digits+fda"]


def test_the_parts_of_the_recipes() -> None:
    assert parts_of(RECIPES["simclr"]) == ["crop", "colour", "flip", "gray"]
    assert parts_of(RECIPES["simclr-imagenet"]) == ["crop", "colour", "flip", "gray", "blur"]
    assert parts_of(named_recipe("digits+fda")) == ["crop", "colour", "rotate", "fourier"]
    assert parts_of(RECIPES["none"]) == parts_of(NOTHING) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_part_alone_and_left_out_make_up_the_recipe(name: str) -> None:
    recipe = named_recipe(name)
    for part in parts_of(recipe):
        assert parts_of(only(recipe, part)) == [part]
        assert parts_of(without(recipe, part)) == [p for p in parts_of(recipe) if p != part]
        for field in PARTS[part].fields:
            assert getattr(only(recipe, part), field) == getattr(recipe, field)
        assert scaled(recipe, part, 1.0) == recipe
        assert scaled(recipe, part, 0.0) == without(recipe, part)


def test_strengths() -> None:
    recipe = named_recipe("simclr+fourier")
    assert scaled(recipe, "crop", 0.5).crop_low == pytest.approx(0.6)
    assert scaled(recipe, "crop", 3).crop_low == 0.05
    assert scaled(recipe, "colour", 2).brightness == pytest.approx(0.8)
    assert scaled(recipe, "colour", 9).hue == 0.5
    assert scaled(recipe, "gray", 0.5).gray == pytest.approx(0.1)
    assert scaled(recipe, "flip", 3).flip == 1
    fourier = scaled(recipe, "fourier", 0.5).fourier
    assert fourier is not None
    assert fourier.alpha == 0.5
    half = scaled_whole(recipe, 0.5)
    assert (half.crop_low, half.gray, half.flip) == pytest.approx((0.6, 0.1, 0.25))
    assert parts_of(scaled_whole(recipe, 0)) == []
