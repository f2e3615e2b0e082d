"""The statistics of the shift between two samples of pairs, as scores: tests, distances, margins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.data.views import named_recipe
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.base import MeasureSettings
from ssa_analysis.measures.pair_laws import LEAST_GROUPS, SPACES, Pair, PairSamples
from ssa_analysis.numerics.bures import SubsetMoments, extrapolated, gaussian_w2, pair_coordinates
from ssa_analysis.numerics.contrastive import log_mean_exp_similarity
from ssa_analysis.numerics.kernels import LADDER, BlockKernel, GaussianKernel, PairKernel, ladder_kernel, median_bandwidth
from ssa_analysis.numerics.mmd import LEAST_BLOCKS, MMDResult, mmd_test, stratified_mmd
from ssa_analysis.numerics.resampling import Interval, group_jackknife
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.numerics.sinkhorn import sinkhorn_divergence, squared_costs
from ssa_analysis.numerics.sliced import floored_sliced, max_sliced_wasserstein2
from ssa_analysis.numerics.transport import LEAST_ROWS, exact_distance, floored_distance, pair_transport, wasserstein_1d
from ssa_analysis.scores import Score

MAX_MOMENTS = 256  # dimensions of the Gaussian distance; beyond it, principal components of the clean images
SINKHORN_EPS = 0.05  # in units of the median cost
MAX_SLICED_GROUPS = 10  # each takes two ascents
MAX_ARRAY = 500  # values of one histogram that a figure gets


LEAST = {"pairs": 16, "permutations": 19, "projections": 2, "groups": LEAST_GROUPS, "batch": 2, "per_image": 1}


@dataclass(frozen=True)
class ShiftSettings(MeasureSettings):
    """Settings of the shift.

    Attributes:
        pairs: of each kind, at most; one an image. permutations: of the MMD tests.
        projections: of the sliced distance. groups: that the jackknife of the distances leaves out.
        batch: pairs between which exact and entropic distances are computed at a time.
        space: ``embedding``, ``features`` or ``pixels``; the names of the scores of the last two begin with it.
        against: a recipe; then its views are compared with those of ``views``, and nothing else is measured.
        per_image: pairs of views of an image in that comparison; permutations exchange images.
    """

    pairs: int = 5000
    permutations: int = 1000
    projections: int = 200
    groups: int = 20
    batch: int = 256
    space: str = "embedding"
    against: str = ""
    per_image: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space not in SPACES:
            raise SettingsError(f"unknown space {self.space!r}; known: {', '.join(SPACES)}")
        if self.against:
            named_recipe(self.against)
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise SettingsError(f"shift.{name} must be at least {least}, got {getattr(self, name)}")


def for_figure(values: Tensor | np.ndarray) -> list[float]:
    """Some of ``(n,)`` values with five digits: stores stay small."""
    return [float(f"{float(v):.5g}") for v in values[:MAX_ARRAY]]


class ScoreMaker:
    """Makes scores with the names of one space and one comparison."""

    def __init__(self, settings: ShiftSettings, prefix: str = "") -> None:
        self.settings = settings
        self.prefix = ("" if settings.space == "embedding" else f"{settings.space}_") + prefix

    def make(
        self, name: str, found: Interval, unit: str = "", *, about: Mapping[str, Any], converged: bool = True,
        arrays: Mapping[str, Any] | None = None,
    ) -> Score:  # fmt: skip
        """A score with the standard error of its interval; ``about`` goes into its settings."""
        return Score.of_interval(
            "shift", self.prefix + name, found, unit, converged=converged, settings={"error": "standard error", **about},
            arrays=arrays or {},
        )  # fmt: skip

    def mmd(self, name: str, found: MMDResult, about: Mapping[str, Any]) -> Score:
        """A squared MMD with its test."""
        interval = Interval(found.value, found.stderr, found.value - 1.96 * found.stderr, found.value + 1.96 * found.stderr)
        arrays = {} if self.prefix else {"null": for_figure(found.null)}
        tests = {"p_value": found.p_value, "z": found.z, "permutations": len(found.null)}
        return self.make(name, interval, arrays=arrays, about={**tests, **about})

    def seed(self, name: str) -> int:
        """Of one statistic, apart from that of the data."""
        return derive_seed(self.settings.seed, self.prefix, name) % 2**62


def coordinates(pair: Pair) -> dict[str, Tensor]:
    """Coordinates of a pair sample: one marginal, the rotated sum and difference, both together."""
    total, difference = pair_coordinates(*pair)
    return {"marginal": pair[0], "sum": total, "difference": difference, "joint": torch.cat(pair, dim=1)}


def _bandwidth(pooled: Tensor, name: str) -> float | None:
    """The median distance; None where all rows of a coordinate coincide, whatever the law (all differences zero, say)."""
    if name != "marginal" and bool((pooled == pooled[0]).all()):
        return None
    return median_bandwidth(pooled)


def gaussian_test(x: Tensor, y: Tensor, name: str, scores: ScoreMaker, blocks: Tensor | None = None) -> Score:
    """MMD with the median bandwidth; of the joint coordinate with the whole ladder."""
    pooled = torch.cat([x, y])
    width = _bandwidth(pooled, name)
    settings = scores.settings
    about: dict[str, Any] = {"bandwidth": width or 1.0}
    kernel: BlockKernel
    if name == "joint" and width is not None:
        kernel = ladder_kernel(pooled, width)
        about["ladder"] = list(LADDER)
    else:
        kernel = GaussianKernel(pooled, [width or 1.0])
    found = mmd_test(kernel, len(x), permutations=settings.permutations, seed=scores.seed(name), blocks=blocks)
    return scores.mmd(f"mmd2_{name}", found, about)


def mmd_scores(x: Pair, y: Pair, scores: ScoreMaker, blocks: Tensor | None = None) -> Iterator[Score]:
    """The five statistics of two samples of pairs."""
    left, right = coordinates(x), coordinates(y)
    for name in left:
        yield gaussian_test(left[name], right[name], name, scores, blocks)
    kernel = PairKernel(*(torch.cat([a, b]) for a, b in zip(x, y, strict=True)))
    found = mmd_test(
        kernel, len(x[0]), permutations=scores.settings.permutations, seed=scores.seed("cross moment"), blocks=blocks
    )
    yield scores.mmd("mmd2_cross_moment", found, {})


def within_classes(samples: PairSamples, scores: ScoreMaker) -> Iterator[Score]:
    """Difference coordinate, class by class: permutations stay inside a class, whose shares cannot then matter."""
    ideal, practical = (pair_coordinates(*pair)[1] for pair in (samples.ideal, samples.practical))
    width = _bandwidth(torch.cat([ideal, practical]), "difference") or 1.0
    parts, weights, left_out = [], [], 0
    for label in torch.unique(torch.cat([samples.ideal_labels, samples.practical_labels])).tolist():
        x, y = ideal[samples.ideal_labels == label], practical[samples.practical_labels == label]
        if min(len(x), len(y)) < LEAST_BLOCKS:
            left_out += 1
            continue
        kernel = GaussianKernel(torch.cat([x, y]), [width])
        seed = scores.seed(f"class {label}")
        parts.append(mmd_test(kernel, len(x), permutations=scores.settings.permutations, seed=seed))
        weights.append(len(y))
    if parts:
        found = stratified_mmd(parts, np.array(weights) / sum(weights))
        about = {"bandwidth": width, "classes": len(parts), "classes_left_out": left_out}
        yield scores.mmd("mmd2_within_classes", found, about)


def principal_directions(clean: Tensor) -> Tensor | None:
    """``(d, k)`` leading principal directions of the clean images where there are too many dimensions for moments."""
    if clean.shape[1] <= MAX_MOMENTS:
        return None
    centred = (clean - clean.mean(0)).double()
    vectors: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -MAX_MOMENTS:]
    return vectors.to(clean)


def reduced_pair(pair: Pair, basis: Tensor | None) -> Pair:
    return pair if basis is None else (pair[0] @ basis, pair[1] @ basis)


def _parity(index: np.ndarray) -> Tensor:
    """Which half a row belongs to, by its number: leaving out others must not move it."""
    return torch.from_numpy(index % 2 == 0)


def gaussian_scores(x: Pair, y: Pair, scores: ScoreMaker) -> Iterator[Score]:
    """Gaussian distance of the pair laws without its 1/n bias, and its two parts."""
    sides = SubsetMoments(x), SubsetMoments(y)
    found: dict[str, float] = {}

    def parts(index: list[np.ndarray]) -> tuple[float, float]:
        first, second = (side.of(i) for side, i in zip(sides, index, strict=True))
        return first.distances(second)

    def debiased(index: list[np.ndarray]) -> float:
        plug_in = parts(index)
        halves = [parts([i[i % 2 == half] for i in index]) for half in (0, 1)]
        values = extrapolated(plug_in, halves)
        found.setdefault("sum", values[0])
        found.setdefault("difference", values[1])
        found.setdefault("plug_in", sum(plug_in))
        return sum(values)

    sizes = [len(x[0]), len(y[0])]
    interval, _ = group_jackknife(debiased, sizes, scores.settings.groups, scores.seed("gaussian") % 2**32)
    about = {
        "plug_in": found["plug_in"], "bias": found["plug_in"] - interval.value, "of_sums": found["sum"],
        "of_differences": found["difference"], "dimensions": 2 * x[0].shape[1],
    }  # fmt: skip
    yield scores.make("gaussian_w2", interval, about=about)


def marginal_gaussian(x: Tensor, y: Tensor, scores: ScoreMaker) -> Score:
    sides = (x.double(), y.double())

    def plug_in(index: list[np.ndarray]) -> float:
        a, b = (side[torch.from_numpy(i)] for side, i in zip(sides, index, strict=True))
        return gaussian_w2(a, b)

    def debiased(index: list[np.ndarray]) -> float:
        halves = [[plug_in([i[i % 2 == half] for i in index])] for half in (0, 1)]
        return extrapolated([plug_in(index)], halves)[0]

    interval, _ = group_jackknife(debiased, [len(x), len(y)], scores.settings.groups, scores.seed("gaussian") % 2**32)
    return scores.make("gaussian_w2", interval, about={"dimensions": x.shape[1]})


def sliced_scores(x: Tensor, y: Tensor, reduced: tuple[Tensor, Tensor], scores: ScoreMaker) -> Iterator[Score]:
    """Sliced distance of the joint laws, and the largest slice, which is looked for among the principal components."""
    seed = scores.seed("slices")
    found: dict[str, float] = {}

    def chosen(sides: tuple[Tensor, Tensor], index: list[np.ndarray]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        a, b = (side[torch.from_numpy(i)] for side, i in zip(sides, index, strict=True))
        return a, b, (_parity(index[0]), _parity(index[1]))

    def sliced(index: list[np.ndarray]) -> float:
        result = floored_sliced(*chosen((x, y), index), projections=scores.settings.projections, seed=seed)
        found.setdefault("floor", result.floor)
        found.setdefault("directions", result.stderr)
        return result.value

    def max_sliced(index: list[np.ndarray]) -> float:
        result = max_sliced_wasserstein2(*chosen(reduced, index), seed=seed)
        found.setdefault("largest", result.plug_in)
        return result.value

    sizes, groups = [len(x), len(y)], scores.settings.groups
    interval, _ = group_jackknife(sliced, sizes, groups, scores.seed("sliced") % 2**32)
    # the jackknife keeps the directions; their own error comes on top
    stderr = float(np.hypot(interval.stderr, found["directions"]))
    reach = (interval.high - interval.value) * (stderr / interval.stderr if interval.stderr > 0 else 1.0)
    both = Interval(interval.value, stderr, interval.value - reach, interval.value + reach)
    about = {"floor": found["floor"], "plug_in": interval.value + found["floor"], "directions_stderr": found["directions"]}
    yield scores.make("sliced_w2", both, about=about)
    interval, _ = group_jackknife(max_sliced, sizes, min(MAX_SLICED_GROUPS, groups), scores.seed("max sliced") % 2**32)
    yield scores.make("max_sliced_w2", interval, about={"plug_in": found["largest"]})


def transport_scores(x: Pair, y: Pair, tau: float, scores: ScoreMaker) -> Iterator[Score]:
    """Exact and entropic distances of the joint laws between batches, less their floors; ``W_c`` of rung R5 in nats."""
    joint, other = torch.cat(x, dim=1), torch.cat(y, dim=1)
    if min(len(joint), len(other)) < LEAST_ROWS:  # too few to have both a distance and a floor
        return
    batch = scores.settings.batch
    eps = SINKHORN_EPS * float(squared_costs(joint[:batch], other[:batch]).median())
    all_converged = []

    def divergence(a: Tensor, b: Tensor) -> float:
        value, converged = sinkhorn_divergence(a, b, eps)
        all_converged.append(converged)
        return value

    def in_nats(a: Tensor, b: Tensor) -> float:
        return pair_transport(a, b) / tau

    rows: list[tuple[str, Callable[[Tensor, Tensor], float], str]] = [
        ("exact_w1", partial(exact_distance, power=1), ""), ("exact_w2", partial(exact_distance, power=2), ""),
    ]  # fmt: skip
    if eps > 0:
        rows.append(("sinkhorn_divergence", divergence, ""))
    if scores.settings.space == "embedding":
        rows.append(("pair_transport", in_nats, "nats"))
    for name, distance, unit in rows:
        found = floored_distance(joint, other, distance, batch)
        entropic = name == "sinkhorn_divergence"
        about = {"floor": found.floor, "plug_in": found.plug_in, "batch": found.batch, **({"eps": eps} if entropic else {})}
        yield scores.make(name, found.difference, unit, about=about, converged=not entropic or all(all_converged))


def margin_scores(samples: PairSamples, negatives: Tensor, tau: float, beta: float | None, scores: ScoreMaker) -> Iterator[Score]:
    """``W_1`` between the margins u of both laws (rung R6), in nats, less its floor; and what the figures need."""
    weight = np.log(beta) if beta is not None else 0.0
    margins = []
    for z, z_plus in (samples.ideal, samples.practical):
        logs = torch.cat([log_mean_exp_similarity(part.double(), negatives.double(), tau) for part in z.split(1024)])
        margins.append((weight + logs - (z.double() * z_plus.double()).sum(1) / tau).numpy())
    u, v = margins

    floors: list[float] = []

    def distance(index: list[np.ndarray]) -> float:
        a, b = u[index[0]], v[index[1]]
        even = [i % 2 == 0 for i in index]
        halves = [wasserstein_1d(side[one], side[~one]) for side, one in zip((a, b), even, strict=True)]
        # the plug-in of equal laws shrinks like one over the root of the size
        floor = float(np.mean(halves)) / 2**0.5
        floors.append(floor)
        return wasserstein_1d(a, b) - floor

    interval, _ = group_jackknife(distance, [len(u), len(v)], scores.settings.groups, scores.seed("margin") % 2**32)
    arrays = {"ideal": for_figure(u), "practical": for_figure(v)}
    about = {"floor": floors[0], "plug_in": interval.value + floors[0], "tau": tau}
    yield scores.make("margin_w1", interval, "nats", about=about, arrays=arrays)
