"""The PAC-Bayes rung of a checkpoint over a grid of scales: prior, blocks, draws, bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.checkpoints.finding import one_checkpoint
from ssa_analysis.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from ssa_analysis.data.datasets import Data
from ssa_analysis.data.pairs import PairBatch
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.base import run_context
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.seeding import generator
from ssa_analysis.theory.blocks import BlocksOfPairs, mixes_images
from ssa_analysis.theory.r9_pac_bayes import Blocks, ScaleBound, bound_at
from ssa_analysis.theory.weight_noise import NoisyLoss, batch_statistics

SAM_BLOCKS, SAM_STEPS, SAM_REPEATS, SAM_TAIL = 8, 5, 4, 0.01


@dataclass(frozen=True)
class Prior:
    """theta0, where it is from, and the split whose blocks it is independent of."""

    weights: Mapping[str, Tensor]
    origin: str
    split: str


def find_prior(encoder: Encoder, data: Data, name: str, split: str) -> Prior | None:
    """The initialisation that the file keeps, or the checkpoint called ``name``; None where there is neither.

    Args:
        split: whose blocks the bound is about; ``auto``: those of training where the prior is the initialisation, which
            has seen no image, held-out ones where it is a checkpoint.

    Raises:
        SettingsError: a prior that was trained on the very images. CheckpointError: it cannot be loaded.
    """
    if not name:
        if encoder.initial is None:
            return None
        return Prior(encoder.initial, "initialisation", "train" if split == "auto" else split)
    loaded = load_checkpoint(one_checkpoint("prior", name), run_context().options)
    split = "held-out" if split == "auto" else split
    if split == "train" and _saw(loaded, data):
        raise SettingsError(
            f"bounds.prior={name} was trained on {data.name}: blocks of training images are not independent of it; "
            "take bounds.blocks=held-out or bounds.blocks=probe"
        )
    return Prior(loaded.encoder.state_dict(), name, split)


def _saw(loaded: LoadedCheckpoint, data: Data) -> bool:
    """Whether a prior was trained on this data set, as far as its file says."""
    training = loaded.report.training
    return bool(training) and training["epoch"] > 0 and training["data"]["name"] == data.name


@dataclass(frozen=True)
class SamForm:
    """``Lhat_s <= (1 - tail) max_{|eps| <= rho} Lhat(theta + eps) + tail b``, on a few blocks; in nats.

    The maximum is the largest loss that ascent found, so that the true right side is no smaller.
    """

    noisy: float  # Lhat_s
    worst: float
    radius: float
    tail: float  # chance that the noise is longer than rho, at most


@dataclass(frozen=True)
class PacBayes:
    """The bounds over the grid; ``best`` is the lowest."""

    bounds: tuple[ScaleBound, ...]
    blocks: Blocks
    prior: Prior
    distance: float  # |theta - theta0|
    weights: int
    loss_as_it_is: float  # of the weights themselves on blocks not used by the bound, with running statistics
    loss_by_blocks: float  # the same with the statistics of each block
    noisy_loss: float  # the same at the best scale
    noisy_stderr: float
    sam: SamForm

    @property
    def best(self) -> ScaleBound:
        """At the scale of the lowest bound."""
        return self.bounds[lowest(self.bounds)]


def lowest(bounds: Sequence[ScaleBound]) -> int:
    """Number of the lowest bound; among equal ones, as where all end at b, that of the least complexity."""
    return min(range(len(bounds)), key=lambda i: (bounds[i].bound, bounds[i].complexity))


def evaluate(
    encoder: Encoder, data: Data, prior: Prior, *, views: str, tau: float, beta: float, size: int,
    scales: np.ndarray, draws: int, delta: float, delta_draws: float, seed: int,
) -> PacBayes:  # fmt: skip
    """Bounds at every scale.

    Args:
        size: images of a block; the blocks are those of the prior's split.
        scales: ``(J,)`` standard deviations of the weight noise, fixed beforehand.

    Raises:
        MeasureError: a prior of another architecture, a loss that is not finite.
    """
    blocks = BlocksOfPairs(encoder, data, prior.split, views, size, seed)
    # whether the noise costs anything is asked of images that neither training nor the bound has seen
    unseen = BlocksOfPairs(encoder, data, other_split(prior.split), views, size, seed)
    noisy = NoisyLoss(encoder, tau, beta)
    squared = noisy.squared_distance(prior.weights)
    mixing = mixes_images(encoder, data, views)
    chosen = torch.randint(len(blocks), (draws,), generator=generator(seed, "drawn blocks")).tolist()
    drawn = [blocks[number] for number in chosen]
    apart = [unseen[number] for number in range(min(len(unseen), max(2, draws // 3)))]
    as_it_is = noisy.clean(apart)
    with batch_statistics(encoder) as normalised:
        about = Blocks(len(blocks), size, tau, beta, delta, delta_draws, len(scales), not (normalised or mixing))
        clean, there = noisy.clean(drawn), noisy.clean(apart)
        rises = [noisy.rises(apart, there, float(s), seed + 1) for s in scales]
        found = [
            bound_at(float(s), squared, clean, noisy.rises(drawn, clean, float(s), seed), elsewhere, about)
            for s, elsewhere in zip(scales, rises, strict=True)
        ]
        best = lowest(found)
        sam = _sam_form(noisy, drawn[:SAM_BLOCKS], found[best].scale, seed, about.high)
        noisy_there = there + rises[best]
    stderr = float(noisy_there.std(ddof=1) / math.sqrt(len(apart))) if len(apart) > 1 else math.nan
    return PacBayes(
        tuple(found), about, prior, math.sqrt(squared), noisy.size, float(as_it_is.mean()), float(there.mean()),
        float(noisy_there.mean()), stderr, sam,
    )  # fmt: skip


def other_split(split: str) -> str:
    """The split that a bound from blocks of ``split`` is checked on."""
    return "probe" if split == "held-out" else "held-out"


def _sam_form(noisy: NoisyLoss, blocks: list[PairBatch], scale: float, seed: int, largest: float) -> SamForm:
    # a Gaussian vector of p entries is longer than sqrt(p) + sqrt(2 log(1/t)) with probability t at most
    radius = scale * (math.sqrt(noisy.size) + math.sqrt(2 * math.log(1 / SAM_TAIL)))
    clean = noisy.clean(blocks)
    rises = [noisy.rises(blocks, clean, scale, seed + 2 + repeat).mean() for repeat in range(SAM_REPEATS)]
    worst = noisy.worst_case(blocks, radius, SAM_STEPS)
    return SamForm(float(clean.mean() + np.mean(rises)), (1 - SAM_TAIL) * worst + SAM_TAIL * largest, radius, SAM_TAIL)
