"""Batched views: SimCLR's augmentations with parameters of their own for every image, and the Fourier one.

Crops and colour are kornia's: the same code on CPU and GPU, batched, drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ssa_analysis.data.fourier import PRESETS, FourierSettings, fourier_augment
from ssa_analysis.errors import SettingsError
from ssa_analysis.numerics.seeding import generator, seeded
from ssa_analysis.registry import check_fields, unknown_name


@dataclass(frozen=True)
class ViewRecipe:
    """Parameters of the augmentations; probabilities in [0, 1], strengths as in SimCLR's appendix A.

    ``fourier`` is applied first, on the whole batch, before crops and colour.
    """

    crop_low: float = 0.2  # smallest area of the random resized crop, as a share of the image
    flip: float = 0.5
    jitter: float = 0.8  # probability of the colour jitter
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    gray: float = 0.2
    blur: float = 0.0
    rotate: float = 0.0  # degrees, both ways
    fourier: FourierSettings | None = None

    def __post_init__(self) -> None:
        if not 0 < self.crop_low <= 1:
            raise SettingsError(f"crop_low must lie in (0, 1], got {self.crop_low}")
        for name in ("flip", "jitter", "gray", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"the probability {name} must lie in [0, 1], got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, readable by :func:`recipe_from_dict`."""
        return asdict(self)


def recipe_from_dict(values: Mapping[str, Any]) -> ViewRecipe:
    """Inverse of ``ViewRecipe.to_dict``; SettingsError for unknown keys or values of the wrong type."""
    fourier = values.get("fourier")
    check_fields("view setting", values, ViewRecipe)
    check_fields("Fourier setting", fourier or {}, FourierSettings)
    try:
        return replace(ViewRecipe(**{**values, "fourier": None}), fourier=FourierSettings(**fourier) if fourier else None)
    except TypeError as error:
        raise SettingsError(f"a view setting has the wrong type: {error}") from error


RECIPES: dict[str, ViewRecipe] = {
    "simclr": ViewRecipe(),  # CIFAR-10 recipe of Chen et al. 2020, appendix B.9: no blur at 32 px
    "simclr-imagenet": ViewRecipe(crop_low=0.08, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5),
    "digits": ViewRecipe(crop_low=0.5, flip=0.0, saturation=0.0, hue=0.0, gray=0.0, rotate=15.0),
    "none": ViewRecipe(crop_low=1.0, flip=0.0, jitter=0.0, gray=0.0),
}


def named_recipe(name: str) -> ViewRecipe:
    """A recipe by name, ``NAME`` or ``NAME+PRESET`` with a Fourier preset; SettingsError with suggestions otherwise."""
    base, plus, extra = name.partition("+")
    if base not in RECIPES or (plus and extra not in PRESETS):
        raise unknown_name("view recipe", name, [*RECIPES, *(f"{r}+{p}" for r in RECIPES for p in PRESETS)])
    return replace(RECIPES[base], fourier=PRESETS[extra]) if extra else RECIPES[base]


def to_float(images: Tensor) -> Tensor:
    """uint8 images become float32 in [0, 1]; floats pass unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


class Views:
    """Random views of a batch, drawn from a seed.

    Example:
        >>> views = Views(RECIPES["simclr"], size=32)
        >>> images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
        >>> first, second = views.pair(images, seed=0)
        >>> tuple(first.shape)
        (4, 3, 32, 32)
    """

    def __init__(self, recipe: ViewRecipe, size: int) -> None:
        from kornia import augmentation as kornia

        self.recipe = recipe
        self.size = size
        stages: list[nn.Module] = []
        if recipe.rotate:
            stages.append(kornia.RandomAffine(recipe.rotate, p=1.0))
        if recipe.crop_low < 1:
            stages.append(
                kornia.RandomResizedCrop(
                    (size, size), scale=(recipe.crop_low, 1.0), ratio=(3 / 4, 4 / 3), cropping_mode="resample"
                )
            )
        if recipe.flip:
            stages.append(kornia.RandomHorizontalFlip(p=recipe.flip))
        if recipe.jitter:
            strengths = (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
            stages.append(kornia.ColorJitter(*strengths, p=recipe.jitter))
        if recipe.gray:
            stages.append(kornia.RandomGrayscale(p=recipe.gray))
        if recipe.blur:
            kernel = max(3, int(0.1 * size) // 2 * 2 + 1)
            stages.append(kornia.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=recipe.blur))
        self._stages = nn.Sequential(*stages)

    @property
    def needs_features(self) -> bool:
        """Whether the Fourier partners are chosen in feature space."""
        return self.recipe.fourier is not None and self.recipe.fourier.partner == "nearest"

    def __call__(self, images: Tensor, seed: int, labels: Tensor | None = None, features: Tensor | None = None) -> Tensor:
        """One view of each image.

        Args:
            images: ``(n, 3, h, w)`` uint8, or floats in [0, 1].
            seed: the views are a function of it, the images and the device.
            labels, features: only for the Fourier partners that need them.

        Returns:
            ``(n, 3, size, size)`` floats in [0, 1].
        """
        pixels = to_float(images)
        with torch.no_grad(), seeded(seed, "views", device=pixels.device):
            if self.recipe.fourier is not None:
                pixels = fourier_augment(pixels, self.recipe.fourier, generator(seed, "fourier"), labels, features)
            if self.recipe.crop_low == 1 and tuple(pixels.shape[-2:]) != (self.size, self.size):  # no crop that would resize
                pixels = nnf.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
            return self._stages(pixels).clamp(0, 1) if len(self._stages) else pixels

    def pair(
        self, images: Tensor, seed: int, labels: Tensor | None = None, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Two independent views of each image."""
        return self(images, 2 * seed, labels, features), self(images, 2 * seed + 1, labels, features)
