"""What the rungs are evaluated on: embeddings of a checkpoint's images and views, and how they are resampled.

Anchors and views are those of the held-out split; class means, positives and negatives those of the probe split. The
bootstrap draws both splits again, within classes, so that intervals speak of the population and not of these probe images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import MeasureError
from ssa_analysis.measures.base import (
    MeasureSettings,
    loss_parameters,
    practical_embeddings,
    require_images,
    split_embeddings,
)
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.seeding import generator
from ssa_analysis.theory.rungs import LabelledLaw, Population, class_weights, empirical_population

ROWS = 512  # anchors whose similarities to all negatives are held at once
LARGEST = 700.0  # logarithm of what float64 holds, less a little
MOST_NEGATIVES = 2**20  # of each anchor
LEAST_IMAGES = 8  # of fewer, resampling knows so little of the error that R4 was called violated now and then


@dataclass(frozen=True)
class Ideal:
    """The part that needs labels; all float64 with unit rows."""

    law: LabelledLaw  # k held-out images, weighted so that classes have the population's prior
    population: Population  # n probe images
    labels: Tensor  # (n,) of the probe images


@dataclass(frozen=True)
class Evidence:
    """Two views of each of k held-out images, one view of each of n probe images, and the labelled part if there is one."""

    first: Tensor  # (k, d)
    second: Tensor
    bank: Tensor  # (n, d): the law of practical negatives
    weights: Tensor  # (k,) of the held-out images
    tau: float
    beta: float
    negatives: int  # K
    ideal: Ideal | None

    @property
    def view_population(self) -> Population:
        """q_data: the bank as one class."""
        count = len(self.bank)
        uniform = torch.full((1, count), 1 / count, dtype=torch.float64)
        return Population(self.bank, uniform, torch.ones(1, dtype=torch.float64))


def check_range(tau: float, beta: float, negatives: int) -> None:
    """MeasureError where the rungs leave float64, or R4's negatives the memory."""
    if 2 / tau + 2 * math.log(max(beta, 1.0)) > LARGEST:
        raise MeasureError(
            f"tau = {tau:g} with beta = {beta:g}: (beta exp(1/tau))^2 is beyond double precision, and the rungs compare such "
            "numbers; raise tau or lower beta"
        )
    if negatives > MOST_NEGATIVES:
        raise MeasureError(
            f"the rung R4 draws K negatives for each image, and K = {negatives:,} is more than {MOST_NEGATIVES:,}: "
            "lower bounds.negatives"
        )


def gather(encoder: Encoder, data: Data, settings: MeasureSettings, negatives: int) -> Evidence:
    """Embed both splits and their views; without labels, the views alone.

    Args:
        negatives: K where the checkpoint does not say; stands for ``beta`` where the loss is plain NT-Xent.

    Raises:
        MeasureError: no projector, or embeddings that are not finite unit vectors.
        DataError: labels with fewer than two classes, a class missing from a split or with fewer than two images in one.
    """
    if data.labelled:
        data.require_classes(2)
    for split in ("held-out", "probe"):
        require_images(data, split, LEAST_IMAGES, "a bootstrap over images")
    tau, beta = loss_parameters(encoder, settings)
    first, second = (v.double() for v in practical_embeddings(encoder, data, "held-out", settings))
    bank = practical_embeddings(encoder, data, "probe", settings)[0].double()
    count = int(encoder.loss.get("negatives") or negatives)
    check_range(tau, float(count if beta is None else beta), count)
    weights = torch.full((len(first),), 1 / len(first), dtype=torch.float64)
    ideal = _ideal(encoder, data) if data.labelled else None
    if ideal is not None:
        weights = ideal.law.weights
    return Evidence(first, second, bank, weights, tau, float(count if beta is None else beta), count, ideal)


def _ideal(encoder: Encoder, data: Data) -> Ideal:
    z, bank = (split_embeddings(encoder, data, s).double() for s in ("held-out", "probe"))
    y, labels = data.labels_of("held-out"), data.labels_of("probe")
    population = empirical_population(bank, labels, len(data.class_names))
    return Ideal(LabelledLaw(z, y, class_weights(y, population.prior)), population, labels)


@dataclass(frozen=True)
class Resamples:
    """Draws of the bootstrap, the sample itself as number 0: rows of the held-out images, weights of the probe images."""

    rows: list[Tensor]  # each (k,)
    weights: Tensor  # (n, 1 + draws), columns sum to one

    def __len__(self) -> int:
        return len(self.rows)


def resample(evidence: Evidence, draws: int, seed: int) -> Resamples:
    """Draw both splits with replacement, within classes where there are labels."""
    rng = generator(seed, "bounds bootstrap")
    k, n = len(evidence.first), len(evidence.bank)
    ideal = evidence.ideal
    held_out = [torch.arange(k)] if ideal is None else _groups(ideal.law.y)
    probe = [torch.arange(n)] if ideal is None else _groups(ideal.labels)
    rows, weights = [torch.arange(k)], torch.empty(n, draws + 1, dtype=torch.float64)
    weights[:, 0] = 1 / n
    for draw in range(1, draws + 1):
        rows.append(torch.cat([g[torch.randint(len(g), (len(g),), generator=rng)] for g in held_out]))
        chosen = torch.cat([g[torch.randint(len(g), (len(g),), generator=rng)] for g in probe])
        weights[:, draw] = torch.bincount(chosen, minlength=n).double() / n
    return Resamples(rows, weights)


def _groups(labels: Tensor) -> list[Tensor]:
    return [(labels == c).nonzero()[:, 0] for c in torch.unique(labels)]


def uniformities(z: Tensor, bank: Tensor, weights: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """``log E exp(z.z-/tau)`` and the standard deviation of ``exp(z.z-/tau)``, for every weighting of the negatives.

    Args:
        z: ``(k, d)``. bank: ``(n, d)``. weights: ``(n, b)``, columns sum to one.

    Returns:
        Both ``(k, b)``.
    """
    logs, spreads = [], []
    for part in z.split(ROWS):
        logits = part @ bank.T / tau
        top = logits.amax(dim=1, keepdim=True)
        values = logits.sub_(top).exp_()
        mean = values @ weights
        second = values.square_() @ weights
        logs.append(top + mean.clamp_min(1e-300).log())
        spreads.append((second - mean.square()).clamp_min(0).sqrt() * top.exp())
    return torch.cat(logs), torch.cat(spreads)
