"""The rungs on a checkpoint: both sides estimated on held-out images, with bootstrap intervals over images.

Class means, positives and negatives are those of the probe split (the population), anchors and views those of the
held-out split. Every rung here holds for such a pair of laws, so conditioning on the population gives no side an
advantage; the intervals speak of the held-out images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import MeasureError
from ssa_analysis.measures.base import (
    MeasureSettings,
    loss_parameters,
    measure,
    practical_embeddings,
    split_embeddings,
)
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.resampling import bootstrap
from ssa_analysis.numerics.seeding import derive_seed, generator
from ssa_analysis.numerics.transport import split_floor
from ssa_analysis.score import Score
from ssa_analysis.theory import r1_probe, r2_classification, r6_margin, r8_decomposition
from ssa_analysis.theory.rungs import (
    LabelledLaw,
    Population,
    RungCheck,
    as_numpy,
    class_weights,
    empirical_population,
    weighted_mean,
)


@dataclass(frozen=True)
class BoundsSettings(MeasureSettings):
    """Settings of the bounds: bootstrap draws, and the K that stands for ``beta`` where the loss is plain NT-Xent."""

    bootstrap: int = 200
    negatives: int = 510


@dataclass(frozen=True)
class Evidence:
    """Embeddings that the rungs are evaluated on; all float64 with unit rows."""

    law: LabelledLaw  # held-out images, weighted so that classes have the population's prior
    population: Population  # probe images
    view_population: Population  # one view of each probe image, as one class: q_data
    positives: Tensor  # (k, d): for each held-out image, one probe image of its class
    first: Tensor  # (k, d) and second: two views of each held-out image
    second: Tensor
    tau: float
    beta: float


def gather(encoder: Encoder, data: Data, settings: BoundsSettings) -> Evidence:
    """Embed both splits and their views.

    Raises:
        MeasureError: no projector, or embeddings that are not finite unit vectors.
        DataError: fewer than two classes, or a class missing from a split.
    """
    data.require_classes(2)
    tau, beta = loss_parameters(encoder, settings)
    z, bank = (split_embeddings(encoder, data, s).double() for s in ("held-out", "probe"))
    y, bank_y = data.labels_of("held-out"), data.labels_of("probe")
    first, second = (v.double() for v in practical_embeddings(encoder, data, "held-out", settings))
    bank_view = practical_embeddings(encoder, data, "probe", settings)[0].double()
    for part in (z, bank, first, second, bank_view):
        if not torch.isfinite(part).all() or (part.norm(dim=1) - 1).abs().max() > 1e-3:
            raise MeasureError("the embedding is not made of finite unit vectors: the theory does not apply")
    population = empirical_population(bank, bank_y, len(data.class_names))
    count = len(bank_view)
    views = Population(bank_view, torch.full((1, count), 1 / count, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    drawn = torch.multinomial(population.conditionals[y], 1, generator=generator(settings.seed, "ideal positives"))[:, 0]
    law = LabelledLaw(z, y, class_weights(y, population.prior))
    used_beta = beta if beta is not None else float(encoder.loss.get("negatives") or settings.negatives)
    return Evidence(law, population, views, bank[drawn], first, second, tau, used_beta)


@dataclass(frozen=True)
class PerImage:
    """What each held-out image contributes to the rungs; all ``(k,)``, in nats except the two alignments."""

    supervised: Tensor  # loss of the mean classifier
    probe: Tensor  # loss of the trained probe
    ideal: Tensor  # decoupled loss, averaged exactly over ideal positives
    drawn_ideal: Tensor  # the same with one drawn positive: independent of the class means that R8's right side uses
    ideal_margin: Tensor
    practical_margin: Tensor
    ideal_uniformity: Tensor
    practical_uniformity: Tensor
    class_alignment: Tensor  # z.mu_y; its mean estimates sum_c pi_c |mu_c|^2 across the splits, without bias
    practical_alignment: Tensor
    probe_converged: bool


def per_image(evidence: Evidence) -> PerImage:
    """Evaluate every loss once."""
    law, population, tau = evidence.law, evidence.population, evidence.tau
    probe = r1_probe.trained_probe(law, population, tau)
    uniformity = population.uniformity(law.z, tau)
    return PerImage(
        supervised=r1_probe.mean_classifier_losses(law, population, tau),
        probe=probe.losses,
        ideal=r2_classification.ideal_decoupled_losses(law, population, tau),
        drawn_ideal=uniformity - (law.z * evidence.positives).sum(1) / tau,
        ideal_margin=r6_margin.margins(law.z, evidence.positives, population, tau, evidence.beta),
        practical_margin=r6_margin.margins(evidence.first, evidence.second, population, tau, evidence.beta),
        ideal_uniformity=uniformity,
        practical_uniformity=evidence.view_population.uniformity(evidence.first, tau),
        class_alignment=(law.z * population.means[law.y]).sum(1),
        practical_alignment=(evidence.first * evidence.second).sum(1),
        probe_converged=probe.converged,
    )


def decomposition_of(images: PerImage, weights: Tensor, tau: float, rows: Tensor) -> r8_decomposition.Decomposition:
    """R8 on the images ``rows``."""
    w = weights[rows]
    return r8_decomposition.decompose(
        tau=tau,
        ideal=weighted_mean(images.drawn_ideal[rows], w),
        practical_alignment=weighted_mean(images.practical_alignment[rows], w),
        ideal_alignment=weighted_mean(images.class_alignment[rows], w),
        practical_uniformity=weighted_mean(images.practical_uniformity[rows], w),
        ideal_uniformity=weighted_mean(images.ideal_uniformity[rows], w),
    )


def sides_of(rung: str, evidence: Evidence, images: PerImage, rows: Tensor) -> tuple[float, float]:
    """Left and right side of a rung on the images ``rows`` (with repetition, in a bootstrap)."""
    weights = evidence.law.weights
    w = weights[rows]
    supervised = weighted_mean(images.supervised[rows], w)
    if rung == "R1":
        return weighted_mean(images.probe[rows], w), supervised
    if rung == "R2":
        return supervised, evidence.population.entropy + weighted_mean(images.ideal[rows], w)
    if rung == "R6":
        return r6_margin.margin_sides(images.ideal_margin[rows], images.practical_margin[rows], w, w)
    parts = decomposition_of(images, weights, evidence.tau, rows)
    return parts.ideal, parts.right_side(evidence.tau)


STATEMENTS = {
    "R1": r1_probe.STATEMENT,
    "R2": r2_classification.STATEMENT,
    "R6": r6_margin.STATEMENT,
    "R8": r8_decomposition.STATEMENT,
}


def check_rung(rung: str, evidence: Evidence, images: PerImage, draws: int, seed: int) -> RungCheck:
    """A rung with the bootstrap interval of its slack, over held-out images within classes."""

    def slack(index: np.ndarray) -> float:
        left, right = sides_of(rung, evidence, images, torch.from_numpy(index))
        return right - left

    labels = as_numpy(evidence.law.y)
    interval = bootstrap(slack, len(labels), draws=draws, seed=seed, strata=labels)
    left, right = sides_of(rung, evidence, images, torch.arange(len(labels)))
    return RungCheck(rung, STATEMENTS[rung], left, right, interval.stderr, interval.low, interval.high, equality=rung == "R8")


@measure(
    "bounds", "both sides of the rungs R1, R2, R6, R8 of the theory, with verdicts", BoundsSettings, revision=2, by_default=False
)
def bounds(encoder: Encoder, data: Data, settings: BoundsSettings) -> list[Score]:
    """Scores ``R1``, ``R2``, ``R6``, ``R8`` (value: slack, in nats; sides and verdict in the settings) and the parts.

    The interval of a slack is a 95 % bootstrap over held-out images, within classes. ``ideal_bound`` carries the
    waterfall; ``vacuous`` in its settings says whether it is above the chance level ``H(pi)``.
    """
    evidence = gather(encoder, data, settings)
    images = per_image(evidence)
    seed = derive_seed(settings.seed, "bounds") % 2**32
    chance = evidence.population.entropy
    shared = {"tau": evidence.tau, "beta": evidence.beta, "chance": chance}
    scores, checks = [], {}
    for rung in STATEMENTS:
        check = checks[rung] = check_rung(rung, evidence, images, settings.bootstrap, seed)
        about = {
            **shared, "error": "bootstrap interval", "statement": check.statement, "left": check.left,
            "right": check.right, "verdict": check.verdict,
        }  # fmt: skip
        if rung == "R1":
            about["probe_converged"] = images.probe_converged
        if rung == "R6":
            about["sampling_floor"] = split_floor(as_numpy(images.ideal_margin), seed)
        scores.append(Score("bounds", rung, check.slack, "nats", check.stderr, check.low, check.high, True, about))
    whole = decomposition_of(images, evidence.law.weights, evidence.tau, torch.arange(len(evidence.law.y)))
    bound = checks["R2"].right
    values = {
        "probe_loss": checks["R1"].left,
        "mean_classifier_loss": checks["R1"].right,
        "ideal_bound": bound,
        "alignment_cost": whole.alignment_gap / evidence.tau,
        "uniformity_gap": whole.uniformity_gap,
        "practical_loss": chance + whole.practical,
    }
    steps = {
        "trained probe": checks["R1"].left,
        "mean classifier gap (R1)": checks["R1"].slack,
        "class-collapse gap (R2)": checks["R2"].slack,
        "uniformity gap (R8)": -values["uniformity_gap"],
        "alignment gap (R8)": -values["alignment_cost"],
    }
    arrays = {"step": list(steps), "value": list(steps.values())}
    for name, value in values.items():
        is_bound = name == "ideal_bound"
        about = {**shared, "error": "see the rungs", **({"vacuous": bound > chance} if is_bound else {})}
        scores.append(Score("bounds", name, value, "nats", settings=about, arrays=arrays if is_bound else {}))
    return scores
