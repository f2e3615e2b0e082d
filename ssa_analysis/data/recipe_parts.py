"""The augmentations of a recipe one by one: alone, left out, weaker and stronger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ssa_analysis.data.views import ViewRecipe

NOTHING = ViewRecipe(crop_low=1.0, flip=0.0, jitter=0.0, gray=0.0, blur=0.0, rotate=0.0, fourier=None)
SMALLEST_CROP = 0.05  # share of the image below which a crop is not made smaller


@dataclass(frozen=True)
class RecipePart:
    """One augmentation of a recipe.

    Attributes:
        fields: of the recipe that belong to it. active: whether a recipe has it.
        scaled: the recipe with its strength times a factor; 1 changes nothing.
    """

    fields: tuple[str, ...]
    active: Callable[[ViewRecipe], bool]
    scaled: Callable[[ViewRecipe, float], ViewRecipe]


def _crop(recipe: ViewRecipe, factor: float) -> ViewRecipe:
    return replace(recipe, crop_low=min(1.0, max(SMALLEST_CROP, recipe.crop_low + (1 - factor) * (1 - recipe.crop_low))))


def _colour(recipe: ViewRecipe, factor: float) -> ViewRecipe:
    strengths = {f: getattr(recipe, f) * factor for f in ("brightness", "contrast", "saturation")}
    return replace(recipe, **strengths, hue=min(0.5, recipe.hue * factor))


def _fourier(recipe: ViewRecipe, factor: float) -> ViewRecipe:
    assert recipe.fourier is not None
    return replace(recipe, fourier=replace(recipe.fourier, alpha=min(1.0, recipe.fourier.alpha * factor)))


def _probability(field: str) -> RecipePart:
    return RecipePart(
        (field,), lambda r: getattr(r, field) > 0, lambda r, factor: replace(r, **{field: min(1.0, getattr(r, field) * factor)})
    )


PARTS: dict[str, RecipePart] = {
    "crop": RecipePart(("crop_low",), lambda r: r.crop_low < 1, _crop),
    "colour": RecipePart(
        ("jitter", "brightness", "contrast", "saturation", "hue"),
        lambda r: r.jitter > 0 and r.brightness + r.contrast + r.saturation + r.hue > 0,
        _colour,
    ),
    "flip": _probability("flip"),
    "gray": _probability("gray"),
    "blur": _probability("blur"),
    "rotate": RecipePart(("rotate",), lambda r: r.rotate > 0, lambda r, factor: replace(r, rotate=min(180.0, r.rotate * factor))),
    "fourier": RecipePart(("fourier",), lambda r: r.fourier is not None, _fourier),
}


def parts_of(recipe: ViewRecipe) -> list[str]:
    """Names of the augmentations that a recipe has."""
    return [name for name, part in PARTS.items() if part.active(recipe)]


def only(recipe: ViewRecipe, part: str) -> ViewRecipe:
    """The recipe with one augmentation and no other."""
    return replace(NOTHING, **{field: getattr(recipe, field) for field in PARTS[part].fields})


def without(recipe: ViewRecipe, part: str) -> ViewRecipe:
    """The recipe without one augmentation."""
    return replace(recipe, **{field: getattr(NOTHING, field) for field in PARTS[part].fields})


def scaled(recipe: ViewRecipe, part: str, factor: float) -> ViewRecipe:
    """The recipe with the strength of one augmentation times a factor.

    Strength is the share that a crop may cut off, the range of a change of colour or of an angle, the probability of a
    flip, of grey and of blur, and alpha of the Fourier augmentation; each ends where its range ends.
    """
    return without(recipe, part) if factor == 0 else PARTS[part].scaled(recipe, factor)


def scaled_whole(recipe: ViewRecipe, factor: float) -> ViewRecipe:
    """The recipe with the strength of every augmentation times a factor."""
    for part in parts_of(recipe):
        recipe = scaled(recipe, part, factor)
    return recipe
