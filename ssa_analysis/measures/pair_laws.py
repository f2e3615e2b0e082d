"""The laws whose distance is the shift, as samples of disjoint images: what the shift and the adviser share.

* *ideal* (p): two different clean images of one class; *augmented ideal* (r): the same pairs, one random view of each;
  *practical* (q): two random views of one image. r and q have the same marginals, so that their distance is one of
  dependence alone; p and r have the same dependence, so that theirs comes from augmenting alone.
* *clean* and *views*: single images and single views of other images, for which no labels are needed.

Every image is in one pair only, and no image is in two samples that are compared: rows are then independent, and a
permutation test exchanges what is exchangeable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.pairs import disjoint_ideal_pairs
from ssa_analysis.data.views import ViewRecipe, to_float
from ssa_analysis.errors import DataError, SettingsError
from ssa_analysis.measures.base import (
    MeasureSettings,
    finite_features,
    on_views,
    practical_embeddings,
    practical_features,
    remembered,
    resolve_recipe,
    split_embeddings,
    split_features,
    unit_embeddings,
)
from ssa_analysis.models.encoder import Encoder, in_batches
from ssa_analysis.numerics.seeding import derive_seed, generator

SPLIT = "held-out"
SPACES = ("embedding", "features", "pixels")
LEAST_PAIRS = 12  # of each kind: what the jackknife leaves of their halves must have a covariance
LEAST_GROUPS = 4
PIXEL_SIDE = 32  # larger images are averaged down for distances between pixels

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Space:
    """Where distances are measured. ``map`` takes images to rows; a distance does not change when they are scaled.

    *embedding*: unit rows z. *features*: h less the mean of the clean images, over the root of the trace of their
    covariance, so that checkpoints compare whatever the scale of their features. *pixels*: the same of the images.
    """

    name: str
    centre: Tensor | float
    scale: float

    def rows(self, raw: Tensor) -> Tensor:
        """Rows of the space from embeddings, features or flattened pixels ``(n, d)``."""
        return raw if self.name == "embedding" else (raw - self.centre) / self.scale


def flat_pixels(images: Tensor) -> Tensor:
    """``(n, d)`` floats from images; those above 32 pixels are averaged over cells of equal size first."""
    pixels = to_float(images)
    cell = -(-pixels.shape[-1] // PIXEL_SIDE)
    return (avg_pool2d(pixels, cell) if cell > 1 else pixels).flatten(1)


def _standardising(name: str, clean: Tensor) -> Space:
    centre = clean.mean(0)
    scale = float((clean - centre).square().sum(1).mean().sqrt())
    if not scale > 0:
        raise DataError(f"the {name} of all images are the same: there is no distance to measure")
    return Space(name, centre, scale)


def space_of(encoder: Encoder, data: Data, name: str) -> tuple[Space, Tensor]:
    """A space and the clean images of the held-out split in it ``(n, d)``.

    Raises:
        SettingsError: an unknown space.
    """
    if name == "embedding":
        return Space(name, 0.0, 1.0), split_embeddings(encoder, data, SPLIT)
    if name == "features":
        raw = split_features(encoder, data, SPLIT)
    elif name == "pixels":
        raw = in_batches(flat_pixels, data.images_of(SPLIT), torch.device("cpu"))
    else:
        raise SettingsError(f"unknown space {name!r}; known: {', '.join(SPACES)}")
    space = _standardising(name, raw)
    return space, space.rows(raw)


def views_in(encoder: Encoder, data: Data, space: Space, settings: MeasureSettings) -> Pair:
    """Two views of every held-out image in a space, ``(n, d)`` each."""
    if space.name == "embedding":
        return practical_embeddings(encoder, data, SPLIT, settings)
    if space.name == "features":
        first, second = practical_features(encoder, data, SPLIT, settings)
    else:
        recipe = resolve_recipe(encoder, data, settings.views)
        key = ("pixels of views", data.fingerprint, repr(recipe), settings.seed)
        first, second = remembered(encoder, key, partial(on_views, encoder, data, SPLIT, recipe, settings.seed, flat_pixels))
    return space.rows(first), space.rows(second)


def recipe_views(encoder: Encoder, data: Data, space: Space, recipe: ViewRecipe, seed: int, per_image: int) -> list[Pair]:
    """``per_image`` pairs of views of every held-out image, drawn from a seed of their own."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "embedding": lambda images: unit_embeddings(encoder.embed(images), "held-out views"),
        "features": lambda images: finite_features(encoder.features(images), "held-out views"),
        "pixels": flat_pixels,
    }
    drawn = [
        on_views(encoder, data, SPLIT, recipe, derive_seed(seed, "recipe", repeat) % 2**60, functions[space.name])
        for repeat in range(per_image)
    ]
    return [(space.rows(first), space.rows(second)) for first, second in drawn]


@dataclass(frozen=True)
class Division:
    """Held-out images by number: ``ideal (k, 2)`` pairs of a class, ``practical (l,)``; halves for the marginals."""

    ideal: Tensor
    practical: Tensor
    clean: Tensor
    viewed: Tensor


def divide(data: Data, seed: int, pairs: int) -> Division:
    """Two thirds of the held-out images make ideal pairs (two images each), one third practical pairs (one each).

    The halves for the marginals are another cut of the same images. Without labels there are no ideal pairs.

    Raises:
        DataError: too few images.
    """
    labels = data.labels_of(SPLIT)
    order = torch.randperm(len(labels), generator=generator(seed, "shift split"))
    half = len(order) // 2
    clean, viewed = order[:half][:pairs], order[half:][:pairs]
    if not data.labelled:
        if len(clean) < LEAST_PAIRS:
            raise DataError(f"{data.name}: the held-out split is too small for the shift: {len(labels)} images")
        return Division(torch.empty(0, 2, dtype=torch.long), torch.empty(0, dtype=torch.long), clean, viewed)
    data.require_classes(2)
    cut = 2 * len(order) // 3
    for_ideal, for_practical = order[:cut], order[cut:][:pairs]
    matched = for_ideal[disjoint_ideal_pairs(labels[for_ideal], seed)][:pairs]
    if min(len(matched), len(for_practical)) < LEAST_PAIRS:
        raise DataError(f"{data.name}: the held-out split is too small for the shift: {len(labels)} images")
    return Division(matched, for_practical, clean, viewed)


@dataclass(frozen=True)
class PairSamples:
    """Samples of the laws in one space; rows ``(k, d)``. ``ideal`` and ``augmented`` are the same images."""

    ideal: Pair
    augmented: Pair
    practical: Pair
    ideal_labels: Tensor
    practical_labels: Tensor


def pair_samples(data: Data, clean: Tensor, views: Pair, division: Division) -> PairSamples:
    """The samples of a division from the rows of all held-out images, clean and twice viewed."""
    labels = data.labels_of(SPLIT)
    one, other = division.ideal.T
    return PairSamples(
        ideal=(clean[one], clean[other]),
        augmented=(views[0][one], views[1][other]),
        practical=(views[0][division.practical], views[1][division.practical]),
        ideal_labels=labels[one],
        practical_labels=labels[division.practical],
    )
