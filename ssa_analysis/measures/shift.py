"""Shift between ideal pairs (two images of one class) and practical pairs (two views of one image).

No single number can carry it: a joint kernel with the usual bandwidth is blind to a change of dependence, and the
ideal pairs of clean images differ from the practical ones in their marginals too. So several statistics stand side
by side, for ideal against practical pairs and for the two parts of that: what augmenting does to single images, and
what pairing a view with another view of the same image does. See :mod:`ssa_analysis.measures.pair_laws`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.views import named_recipe
from ssa_analysis.measures.base import loss_parameters, measure, resolve_recipe, split_embeddings
from ssa_analysis.measures.pair_laws import SPLIT, Pair, PairSamples, divide, pair_samples, recipe_views, space_of, views_in
from ssa_analysis.measures.pair_map import map_of_pairs
from ssa_analysis.measures.shift_scores import (
    ScoreMaker,
    ShiftSettings,
    for_figure,
    gaussian_scores,
    gaussian_test,
    margin_scores,
    marginal_gaussian,
    mmd_scores,
    principal_directions,
    reduced_pair,
    sliced_scores,
    transport_scores,
    within_classes,
)
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.decomposition import Influenced, ideal_alignment, mean_of, uniformity
from ssa_analysis.numerics.kernels import spread_rows
from ssa_analysis.numerics.resampling import Interval
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.scores import Score

__all__ = ["ShiftSettings", "shift"]


def _of(found: Influenced) -> Interval:
    return Interval(found.value, found.stderr, found.value - 1.96 * found.stderr, found.value + 1.96 * found.stderr)


def _decomposition(
    clean: Tensor, views: Pair, labels: Tensor, samples: PairSamples, tau: float, scores: ScoreMaker
) -> Iterator[Score]:
    """What the shift costs in loss (rung R8): alignment gap over tau, plus uniformity gap. Errors over images."""
    alignment = mean_of((views[0].double() * views[1].double()).sum(1)) - ideal_alignment(clean, labels)
    gap = uniformity(clean, tau) - uniformity(views[0], tau)
    arrays: dict[str, Any] = {}
    for name, (first, second) in (("practical", samples.practical), ("ideal", samples.ideal)):
        arrays[name] = for_figure((first * second).sum(1))
        arrays[f"{name}_difference"] = for_figure((first - second).norm(dim=1) / 2**0.5)
    arrays.update(map_of_pairs(samples.ideal, samples.practical))
    yield scores.make("alignment_gap", _of(alignment), "cosine", about={}, arrays=arrays)
    yield scores.make("uniformity_gap", _of(gap), "nats", about={"tau": tau})
    yield scores.make("loss_gap", _of(alignment / tau + gap), "nats", about={"tau": tau})


def _recipes(encoder: Encoder, data: Data, settings: ShiftSettings) -> list[Score]:
    """The pairs of one recipe against those of another; images are halved between them."""
    space, _ = space_of(encoder, data, settings.space)
    division = divide(data, settings.seed, settings.pairs)
    scores = ScoreMaker(settings, "recipes_")
    sides: list[Pair] = []
    recipes = (resolve_recipe(encoder, data, settings.views), named_recipe(settings.against))
    for number, (recipe, images) in enumerate(zip(recipes, (division.clean, division.viewed), strict=True)):
        seed = derive_seed(settings.seed, "recipes", number) % 2**60
        drawn = recipe_views(encoder, data, space, recipe, seed, settings.per_image)
        sides.append((torch.cat([a[images] for a, _ in drawn]), torch.cat([b[images] for _, b in drawn])))
    blocks = None
    if settings.per_image > 1:
        blocks = torch.cat([images.repeat(settings.per_image) for images in (division.clean, division.viewed)])
    one, other = sides
    first = [(side[0][: len(i)], side[1][: len(i)]) for side, i in zip(sides, (division.clean, division.viewed), strict=True)]
    return [*mmd_scores(one, other, scores, blocks), *gaussian_scores(first[0], first[1], scores)]


@measure(
    "shift", "MMD, Wasserstein distances and loss between ideal and practical positive pairs", ShiftSettings, revision=2,
    apart=("space", "against"),
)  # fmt: skip
def shift(encoder: Encoder, data: Data, settings: ShiftSettings) -> list[Score]:
    """How far the practical pairs are from the ideal ones, whether it is chance, and what it costs.

    Scores of ideal against practical pairs: ``mmd2_{marginal,sum,difference,joint,cross_moment,within_classes}``,
    ``gaussian_w2``, ``sliced_w2``, ``max_sliced_w2``, ``exact_w1``, ``exact_w2``, ``sinkhorn_divergence``,
    ``pair_transport`` and ``margin_w1`` (nats; rungs R5, R6), ``alignment_gap``, ``uniformity_gap`` and ``loss_gap``
    (nats; rung R8). ``dependence_*``: augmented ideal against practical pairs. ``augmentation_*``: clean images against
    views, which needs no labels. ``recipes_*``: one recipe against another (``against``), no labels either.

    MMDs are squared and unbiased, with a jackknife error and a permutation p-value in the settings; distances but for
    ``exact_w1``, ``pair_transport`` and ``margin_w1`` are squared. All have their sampling bias or floor taken out, so
    that they can be slightly negative; ``plug_in`` in the settings is what they would be without that.

    Raises:
        DataError: too few images. MeasureError: collapsed embeddings.
    """
    if settings.against:
        return _recipes(encoder, data, settings)
    space, clean = space_of(encoder, data, settings.space)
    division = divide(data, settings.seed, settings.pairs)
    views = views_in(encoder, data, space, settings)
    scores = ScoreMaker(settings, "augmentation_")
    viewed, kept = views[0][division.viewed], clean[division.clean]
    by_augmentation = [gaussian_test(kept, viewed, "marginal", scores)]
    basis = principal_directions(clean)
    by_augmentation.append(marginal_gaussian(*reduced_pair((kept, viewed), basis), scores))
    if not data.labelled:
        return by_augmentation
    samples = pair_samples(data, clean, views, division)
    tau, beta = loss_parameters(encoder, settings)
    total, dependence = ScoreMaker(settings), ScoreMaker(settings, "dependence_")
    found: list[Score] = []
    found += mmd_scores(samples.ideal, samples.practical, total)
    found += within_classes(samples, total)
    ideal, augmented, practical = (reduced_pair(p, basis) for p in (samples.ideal, samples.augmented, samples.practical))
    found += gaussian_scores(ideal, practical, total)
    joint = [torch.cat(pair, dim=1) for pair in (samples.ideal, samples.practical)]
    found += sliced_scores(joint[0], joint[1], (torch.cat(ideal, dim=1), torch.cat(practical, dim=1)), total)
    found += transport_scores(samples.ideal, samples.practical, tau, total)
    if settings.space == "embedding":
        found += margin_scores(samples, spread_rows(split_embeddings(encoder, data, "probe"), settings.pairs), tau, beta, total)
        found += _decomposition(clean, views, data.labels_of(SPLIT), samples, tau, total)
    found += mmd_scores(samples.augmented, samples.practical, dependence)
    found += gaussian_scores(augmented, practical, dependence)
    return found + by_augmentation
