"""The augmentation adviser: what each augmentation does to the shift between practical and ideal pairs.

Every variant of a recipe is measured with the same images, the same ideal pairs and the same seeds, so that a
difference between two variants is mostly known better than either shift. Shifts are Gaussian distances of the pair laws
without their 1/n bias: unlike a plug-in distance they may be ranked. What each costs in loss stands beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.data.fourier import PRESETS, FourierSettings, clipped_share
from ssa_analysis.data.pairs import disjoint_ideal_pairs
from ssa_analysis.data.recipe_parts import NOTHING, only, parts_of, scaled, scaled_whole, without
from ssa_analysis.data.views import ViewRecipe, Views, to_float
from ssa_analysis.errors import DataError, SettingsError
from ssa_analysis.measures.base import (
    MeasureSettings,
    loss_parameters,
    measure,
    resolve_recipe,
    run_context,
    split_embeddings,
    split_features,
    unit_embeddings,
)
from ssa_analysis.measures.pair_laws import LEAST_GROUPS, LEAST_PAIRS, SPLIT, Pair
from ssa_analysis.models.encoder import Encoder, in_batches
from ssa_analysis.numerics.bures import SubsetMoments, extrapolated
from ssa_analysis.numerics.decomposition import Influenced, ideal_alignment, mean_of, uniformity
from ssa_analysis.numerics.laws import normal_quantile
from ssa_analysis.numerics.resampling import Interval, group_jackknife, jackknife_stderr
from ssa_analysis.numerics.seeding import derive_seed, generator
from ssa_analysis.progress import LoggedProgress
from ssa_analysis.scores import Score

CHUNK = 256  # images augmented together; Fourier partners come from among them
NEGLIGIBLE = 0.05  # a relief below this share of the shift is none
ORACLE = "class_oracle"


@dataclass(frozen=True)
class ViewsSettings(MeasureSettings):
    """Settings of the adviser.

    Attributes:
        images: that make practical pairs, at most; the other held-out images make ideal pairs.
        strengths: factors of each augmentation and of the whole recipe, separated by commas; 1 is there anyway.
        groups: that the jackknife leaves out.
    """

    images: int = 2000
    strengths: str = "0.5,1.5"
    groups: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self.factors()
        if self.images < 2 * LEAST_PAIRS or self.groups < LEAST_GROUPS:
            raise SettingsError(f"views.images must be at least {2 * LEAST_PAIRS} and views.groups at least {LEAST_GROUPS}")

    def factors(self) -> list[float]:
        """The strengths as numbers; SettingsError where they are none."""
        try:
            values = [float(item) for item in str(self.strengths).split(",") if item.strip()]
        except ValueError as error:
            raise SettingsError(f"views.strengths must be numbers separated by commas, got {self.strengths!r}") from error
        if any(not 0 < v <= 10 for v in values):
            raise SettingsError(f"views.strengths must lie in (0, 10], got {self.strengths!r}")
        return sorted({v for v in values if v != 1})


@dataclass(frozen=True)
class Variant:
    """One recipe of the adviser. ``part`` and ``strength`` place it on a curve of the figure, where it has a place."""

    name: str
    group: str  # recipe, alone, left out, strength, fourier
    recipe: ViewRecipe
    part: str = ""
    strength: float | None = None


def variants(recipe: ViewRecipe, factors: list[float], labelled: bool) -> list[Variant]:
    """The recipe, its parts alone, left out and scaled, and the Fourier augmentation on top; each recipe once.

    The Fourier variants stand on the recipe without its own Fourier augmentation, which is the variant ``plain``.
    """
    plain = replace(recipe, fourier=None)
    found = [Variant("recipe", "recipe", recipe, "all", 1.0), Variant("none", "recipe", NOTHING, "all", 0.0)]
    for part in parts_of(recipe):
        found.append(Variant(f"only_{part}", "alone", only(recipe, part), part))
        found.append(Variant(f"without_{part}", "left out", without(recipe, part), part, 0.0))
        found += [Variant(f"{part}_x{f:g}", "strength", scaled(recipe, part, f), part, f) for f in factors]
    found += [Variant(f"all_x{f:g}", "strength", scaled_whole(recipe, f), "all", f) for f in factors]
    found.append(Variant("plain", "fourier", plain, "fourier alpha", 0.0))
    rows: list[tuple[str, FourierSettings, float | None]] = [
        *((f"fourier_alpha{a:g}", FourierSettings(alpha=a), a) for a in (1.0, 0.25, 0.5)),
        *((f"fourier_window{b}", FourierSettings(window=b), None) for b in (1, 2, 4)),
        *((f"fourier_{name}", PRESETS[name], None) for name in ("fda", "apr")),
        ("fourier_nearest", FourierSettings(partner="nearest"), None),
    ]
    if labelled:
        rows.append(("fourier_class", FourierSettings(partner="class"), None))
    found += [Variant(n, "fourier", replace(plain, fourier=f), "fourier alpha" if a else "", a) for n, f, a in rows]
    kept: list[Variant] = []
    for variant in found:
        same = next((v for v in kept if v.recipe == variant.recipe), None)
        if same is None or variant.name in ("plain", "fourier_alpha1"):  # what the verdict needs has its own name
            kept.append(variant)
    return kept


@dataclass(frozen=True)
class _Images:
    """What all variants share: ideal pairs on some images, and the images whose views are drawn."""

    ideal: Pair
    viewed: Tensor
    viewed_clean: Tensor
    labels: Tensor
    features: Tensor
    ideal_dots: Influenced


@dataclass(frozen=True)
class _Measured:
    shift: Interval
    without: list[np.ndarray]
    parts: tuple[float, float]
    alignment: Influenced
    uniformity: Influenced
    clipped: float | None


def _images(encoder: Encoder, data: Data, settings: ViewsSettings) -> _Images:
    data.require_classes(2)
    labels, clean = data.labels_of(SPLIT), split_embeddings(encoder, data, SPLIT)
    order = torch.randperm(len(labels), generator=generator(settings.seed, "views split"))
    cut = max(2 * len(order) // 3, len(order) - settings.images)
    rest, viewed = order[:cut], order[cut:]
    matched = rest[disjoint_ideal_pairs(labels[rest], settings.seed)]
    if min(len(matched), len(viewed)) < 2 * LEAST_PAIRS:
        raise DataError(f"{data.name}: the held-out split is too small for the adviser: {len(labels)} images")
    return _Images(
        ideal=(clean[matched[:, 0]], clean[matched[:, 1]]),
        viewed=data.images_of(SPLIT)[viewed],
        viewed_clean=clean[viewed],
        labels=labels[viewed],
        features=split_features(encoder, data, SPLIT)[viewed],
        ideal_dots=ideal_alignment(clean[rest], labels[rest]),
    )


def _embedded_views(encoder: Encoder, data: Data, images: _Images, recipe: ViewRecipe, seed: int) -> Pair:
    """Embeddings of two views of each image; the same seeds for every recipe."""
    views = Views(recipe, data.image_size)
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number, index in enumerate(torch.arange(len(images.viewed)).split(CHUNK)):
        near = images.features[index] if views.needs_features else None
        pair = views.pair(images.viewed[index], derive_seed(seed, "adviser", number), images.labels[index], near)
        for side, view in zip(sides, pair, strict=True):
            side.append(unit_embeddings(in_batches(encoder.embed, view, encoder.device), "held-out views"))
    return torch.cat(sides[0]), torch.cat(sides[1])


def _clipped(images: _Images, recipe: ViewRecipe, seed: int) -> float | None:
    """Share of values that the Fourier augmentation clips, on the first chunk."""
    if recipe.fourier is None:
        return None
    chunk = slice(0, CHUNK)
    rng = generator(seed, "clipped")
    return clipped_share(to_float(images.viewed[chunk]), recipe.fourier, rng, images.labels[chunk], images.features[chunk])


def _shift(
    ideal: SubsetMoments, practical: Pair, groups: int, seed: int
) -> tuple[Interval, list[np.ndarray], tuple[float, float]]:
    """Debiased Gaussian distance of pair laws, its values without each group, and its two parts."""
    sides = ideal, SubsetMoments(practical)
    first: list[tuple[float, float]] = []

    def parts(index: list[np.ndarray]) -> tuple[float, float]:
        one, other = (side.of(i) for side, i in zip(sides, index, strict=True))
        return one.distances(other)

    def debiased(index: list[np.ndarray]) -> float:
        values = extrapolated(parts(index), [parts([i[i % 2 == half] for i in index]) for half in (0, 1)])
        first.append((values[0], values[1]))
        return sum(values)

    sizes = [len(side.pair[0]) for side in sides]
    interval, left_out = group_jackknife(debiased, sizes, groups, seed % 2**32)
    return interval, left_out, first[0]


def _difference(one: _Measured, other: _Measured, level: float = 0.95) -> Interval:
    """``one - other``, both of the same images: the jackknife leaves out the same groups of both."""
    value = one.shift.value - other.shift.value
    pieces = [jackknife_stderr(a - b) for a, b in zip(one.without, other.without, strict=True)]
    stderr = float(np.sqrt(np.square(pieces).sum()))
    reach = normal_quantile((1 + level) / 2) * stderr
    return Interval(value, stderr, value - reach, value + reach)


def fourier_verdict(reliefs: dict[str, Interval], shift: float, images: int) -> tuple[str, str]:
    """``yes``, ``no`` or ``not enough data``, and a sentence.

    Args:
        reliefs: how much each Fourier variant takes off the shift, with intervals that hold together (Bonferroni).
        shift: without the augmentation. images: behind the practical pairs.
    """
    margin = NEGLIGIBLE * max(shift, 0.0)
    best = max(reliefs, key=lambda name: reliefs[name].value)
    top = reliefs[best]
    bounds = f"{top.value:+.4g} [{top.low:+.4g}, {top.high:+.4g}] of {shift:.4g}"
    surest = max(reliefs, key=lambda name: reliefs[name].low)
    if reliefs[surest].low > 0:
        sure = reliefs[surest]
        return "yes", f"{surest} takes {sure.value:.4g} [{sure.low:.4g}, {sure.high:.4g}] off a shift of {shift:.4g}"
    if all(r.high <= margin for r in reliefs.values()):  # of no shift at all nothing can be taken off
        return "no", f"no variant takes off more than {NEGLIGIBLE:.0%} of the shift; the best, {best}: {bounds}"
    reach = (top.high - top.low) / 2
    needed = round(images * (reach / max(abs(top.value), margin, 1e-12)) ** 2, -2)
    more = f"; about {needed:.0f} images would decide" if needed > images else ""
    return "not enough data", f"the best variant, {best}, takes off {bounds}, with {images} images{more}"


def _about(variant: Variant, measured: _Measured, reference: _Measured, images: _Images, tau: float) -> dict[str, Any]:
    """What the table and the figures say of a variant, besides its shift."""
    gap = measured.alignment.value - images.ideal_dots.value
    # clean and viewed are the same images, the ideal pairs are others
    own = measured.alignment / tau + measured.uniformity
    stderr = float(np.hypot(own.stderr, images.ideal_dots.stderr / tau))
    change = _difference(measured, reference)
    return {
        "error": "standard error",
        "group": variant.group, "part": variant.part, "strength": variant.strength, "recipe": variant.recipe.to_dict(),
        "of_sums": measured.parts[0], "of_differences": measured.parts[1],
        "alignment_gap": gap, "uniformity_gap": measured.uniformity.value,
        "loss_gap": gap / tau + measured.uniformity.value, "loss_gap_stderr": stderr,
        "change": change.value, "change_low": change.low, "change_high": change.high, "clipped": measured.clipped,
    }  # fmt: skip


@measure("views", "the adviser: shift under each augmentation alone, left out, varied, and Fourier on top", ViewsSettings,
         by_default=False)  # fmt: skip
def views(encoder: Encoder, data: Data, settings: ViewsSettings) -> list[Score]:
    """The shift (``gaussian_w2`` between ideal and practical pairs) under every variant of the recipe.

    One score a variant: ``recipe``, ``none``, ``only_*``, ``without_*``, ``*_x<factor>``, ``plain`` (no Fourier),
    ``fourier_*`` (on top of ``plain``), and ``class_oracle``: views of two different images of a class, the floor that
    no augmentation of single images gets below but by changing what images look like. The settings of a score hold what
    the shift costs in loss (nats), and the change against the recipe with its interval. ``fourier_relief``: what the
    Fourier augmentation (alpha 1, whole band) takes off the shift; its settings hold the verdict over all Fourier
    variants that need no labels, at 95 % together.

    Raises:
        DataError: no labels, or too few images. MeasureError: no projector.
    """
    images = _images(encoder, data, settings)
    recipe = resolve_recipe(encoder, data, settings.views)
    tau, _ = loss_parameters(encoder, settings)
    rows = variants(recipe, settings.factors(), data.labelled)
    progress = LoggedProgress(f"adviser on {run_context().label}", len(rows), unit="recipes")
    clean_uniformity = uniformity(images.viewed_clean, tau)
    seed = derive_seed(settings.seed, "views jackknife")
    ideal = SubsetMoments(images.ideal)
    found: dict[str, _Measured] = {}
    oracle: Score | None = None
    for row in rows:
        pair = _embedded_views(encoder, data, images, row.recipe, settings.seed)
        shift, left_out, parts = _shift(ideal, pair, settings.groups, seed)
        found[row.name] = _Measured(
            shift, left_out, parts, mean_of((pair[0].double() * pair[1].double()).sum(1)),
            clean_uniformity - uniformity(pair[0], tau), _clipped(images, row.recipe, settings.seed),
        )  # fmt: skip
        if row.name == "recipe":
            oracle = _oracle(images, ideal, pair, settings, seed)
        progress.step()
    scores = [
        Score.of_interval(
            "views", row.name, found[row.name].shift, settings=_about(row, found[row.name], found["recipe"], images, tau)
        )
        for row in rows
    ]
    assert oracle is not None
    return [*scores, oracle, _relief(found, len(images.viewed))]


def _oracle(images: _Images, ideal: SubsetMoments, pair: Pair, settings: ViewsSettings, seed: int) -> Score:
    """Shift of augmented ideal pairs: views of one image are given views of another image of its class."""
    matched = disjoint_ideal_pairs(images.labels, settings.seed)
    augmented = (pair[0][matched[:, 0]], pair[1][matched[:, 1]])
    shift, _, parts = _shift(ideal, augmented, settings.groups, seed)
    about = {"error": "standard error", "group": "floor", "part": "", "of_sums": parts[0], "of_differences": parts[1]}
    return Score.of_interval("views", ORACLE, shift, settings=about)


def _relief(found: dict[str, _Measured], images: int) -> Score:
    names = [n for n in found if n.startswith("fourier_") and n != "fourier_class"]
    level = 1 - 0.05 / len(names)
    together = {n: _difference(found["plain"], found[n], level) for n in names}
    verdict, sentence = fourier_verdict(together, found["plain"].shift.value, images)
    main = _difference(found["plain"], found["fourier_alpha1"])
    about = {
        "error": "standard error", "group": "verdict", "verdict": verdict, "sentence": sentence, "images": images,
        "reliefs": {n: [r.value, r.low, r.high] for n, r in together.items()},
    }  # fmt: skip
    return Score.of_interval("views", "fourier_relief", main, settings=about)
