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
from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.measures.base import (
    MeasureSettings,
    loss_parameters,
    measure,
    practical_embeddings,
    split_embeddings,
)
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.contrastive import softplus
from ssa_analysis.numerics.resampling import bootstrap, mean_interval
from ssa_analysis.numerics.seeding import derive_seed, generator
from ssa_analysis.numerics.transport import DIRECTED, exact_distance, pair_transport, split_floor
from ssa_analysis.score import Score
from ssa_analysis.theory import (
    r1_probe,
    r2_classification,
    r3_decoupled,
    r4_negatives,
    r5_transport,
    r6_margin,
    r7_kernel,
    r8_decomposition,
    r9_certificate,
)
from ssa_analysis.theory.rungs import (
    LabelledLaw,
    Population,
    RungCheck,
    as_numpy,
    class_weights,
    empirical_population,
    weighted_mean,
)

MAX_TRANSPORT_BATCHES = 8  # of rung R5


@dataclass(frozen=True)
class BoundsSettings(MeasureSettings):
    """Settings of the bounds.

    Attributes:
        bootstrap: draws behind the intervals.
        negatives: K of the rung R4, where the checkpoint does not say; stands for ``beta`` where the loss is plain NT-Xent.
        transport: pairs of a batch between which rung R5's distances are computed.
        block: images of a block of the certificate. delta: how often it may fail.
    """

    bootstrap: int = 200
    negatives: int = 510
    transport: int = 500
    block: int = 32
    delta: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.bootstrap, self.transport) < 2 or self.negatives < 1:
            raise SettingsError("bounds.bootstrap and bounds.transport must be at least 2, bounds.negatives at least 1")
        if self.block < 2 or not 0 < self.delta < 1:
            raise SettingsError("bounds.block must be at least 2 and bounds.delta lie in (0, 1)")


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
    negatives: int  # K


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
    count = int(encoder.loss.get("negatives") or settings.negatives)
    return Evidence(law, population, views, bank[drawn], first, second, tau, float(count if beta is None else beta), count)


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
    view_margin: Tensor  # of practical pairs against views as negatives
    drawn_loss: Tensor  # the same pairs' l_K with K drawn negatives of each anchor's own
    negative_slack: Tensor  # what R4 adds to it
    class_alignment: Tensor  # z.mu_y; its mean estimates sum_c pi_c |mu_c|^2 across the splits, without bias
    practical_alignment: Tensor
    probe_converged: bool


def per_image(evidence: Evidence, seed: int = 0) -> PerImage:
    """Evaluate every loss once; the seed is that of R4's negatives."""
    law, population, tau = evidence.law, evidence.population, evidence.tau
    practical = (evidence.first, evidence.second, evidence.view_population, tau, evidence.beta)
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
        view_margin=r6_margin.margins(*practical),
        drawn_loss=r4_negatives.drawn_losses(*practical, evidence.negatives, generator(seed, "negatives")),
        negative_slack=r4_negatives.negative_slacks(*practical, evidence.negatives),
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
    if rung == "R3":
        return r3_decoupled.decoupled_sides(images.view_margin[rows], w, evidence.beta)
    if rung == "R4":
        finite = weighted_mean(images.drawn_loss[rows] + images.negative_slack[rows], w)
        return weighted_mean(softplus(images.view_margin[rows]), w), finite
    if rung == "R7":
        ideal = r7_kernel.cross_moment(evidence.law.z[rows], evidence.population.means[evidence.law.y[rows]], w)
        return r7_kernel.kernel_sides(ideal, r7_kernel.cross_moment(evidence.first[rows], evidence.second[rows], w))
    if rung == "R6":
        return r6_margin.margin_sides(images.ideal_margin[rows], images.practical_margin[rows], w, w)
    parts = decomposition_of(images, weights, evidence.tau, rows)
    return parts.ideal, parts.right_side(evidence.tau)


STATEMENTS = {
    "R1": r1_probe.STATEMENT,
    "R2": r2_classification.STATEMENT,
    "R3": r3_decoupled.STATEMENT,
    "R4": r4_negatives.STATEMENT,
    "R5": r5_transport.STATEMENT,
    "R6": r6_margin.STATEMENT,
    "R7": r7_kernel.STATEMENT,
    "R8": r8_decomposition.STATEMENT,
}


@dataclass(frozen=True)
class TransportCheck:
    """R5 between the laws of batches, with the parts of its right side and what they are between equal laws; in nats."""

    check: RungCheck
    pairs: float  # W_c / tau
    negatives: float  # W_1 / tau
    floor: float  # W_c / tau between two batches of one law, the mean over both laws


def check_transport(evidence: Evidence, batch: int, seed: int) -> TransportCheck:
    """R5 on disjoint batches of held-out images, with as many probe images as negatives.

    For the laws of a batch and of its negatives the rung is a theorem, with nothing estimated (the batch's law is not
    symmetric, so the ground cost is that of the loss in one direction); what is estimated is their mean over batches. In
    many dimensions the right side is mostly what sampling adds: see ``floor``.
    """
    rng = generator(seed, "transport")
    rows, bank = (torch.randperm(len(z), generator=rng) for z in (evidence.first, evidence.population.z))
    batch = min(batch, len(rows) // 2)
    negatives = bank[:batch]
    uniform = torch.full((1, len(negatives)), 1 / len(negatives), dtype=torch.float64)
    clean, viewed = (
        Population(z[negatives], uniform, torch.ones(1, dtype=torch.float64))
        for z in (evidence.population.z, evidence.view_population.z)
    )
    ideal, practical = (evidence.law.z, evidence.positives), (evidence.first, evidence.second)
    joint = [torch.cat(pair, dim=1) for pair in (ideal, practical)]
    parts = rows[: len(rows) // batch * batch].split(batch)[:MAX_TRANSPORT_BATCHES]
    lefts, costs = [], []
    of_negatives = exact_distance(clean.z, viewed.z)
    for part in parts:
        losses = [
            softplus(r6_margin.margins(z[part], plus[part], population, evidence.tau, evidence.beta)).mean()
            for (z, plus), population in ((ideal, clean), (practical, viewed))
        ]
        lefts.append(abs(float(losses[0] - losses[1])))
        costs.append(pair_transport(joint[0][part], joint[1][part], [DIRECTED]) / evidence.tau)
    floors = [pair_transport(law[parts[0]], law[parts[1]], [DIRECTED]) / evidence.tau for law in joint]
    one = of_negatives / evidence.tau
    slack = mean_interval(np.array(costs) + one - np.array(lefts))
    check = RungCheck(
        "R5", STATEMENTS["R5"], float(np.mean(lefts)), float(np.mean(costs)) + one, slack.stderr, slack.low, slack.high
    )
    return TransportCheck(check, float(np.mean(costs)), one, float(np.mean(floors)))


def check_rung(rung: str, evidence: Evidence, images: PerImage, draws: int, seed: int) -> RungCheck:
    """A rung with the bootstrap interval of its slack, over held-out images within classes."""

    def slack(index: np.ndarray) -> float:
        left, right = sides_of(rung, evidence, images, torch.from_numpy(index))
        return right - left

    labels = as_numpy(evidence.law.y)
    interval = bootstrap(slack, len(labels), draws=draws, seed=seed, strata=labels)
    left, right = sides_of(rung, evidence, images, torch.arange(len(labels)))
    return RungCheck(rung, STATEMENTS[rung], left, right, interval.stderr, interval.low, interval.high, equality=rung == "R8")


def held_out_certificate(evidence: Evidence, settings: BoundsSettings) -> Score | None:
    """The certificate of the practical pairs' loss from held-out blocks; None where there is not one whole block.

    A constant embedding has the loss ``log(1 + beta)``: a certificate above it says nothing.
    """
    order = torch.randperm(len(evidence.first), generator=generator(settings.seed, "blocks"))
    first, second = evidence.first[order], evidence.second[order]
    if len(first) < settings.block:
        return None
    losses = r9_certificate.block_losses(first, second, settings.block, evidence.tau, evidence.beta)
    largest = r9_certificate.largest_loss(evidence.tau, evidence.beta)
    found = r9_certificate.certify(losses, settings.block, largest, settings.delta)
    constant = float(np.log1p(evidence.beta))
    about = {
        "error": "holds with probability 1 - delta", "statement": r9_certificate.STATEMENT, "tau": evidence.tau,
        "beta": evidence.beta, "n": found.blocks, "m": found.size, "negatives": 2 * found.size - 2, "delta": found.delta,
        "b": found.largest, "kl": 0.0, "mean": found.mean, "constant": constant, "vacuous": found.bound > constant,
    }  # fmt: skip
    return Score("bounds", "certificate", found.bound, "nats", None, found.mean, found.bound, True, about)


def routes(checks: dict[str, RungCheck], transport: TransportCheck, images: PerImage, evidence: Evidence) -> dict[str, float]:
    """Upper bounds of the classification loss from the practical pairs' loss, one for each way to account for the shift.

    ``R8``: exactly. ``R6``: InfoNCE of practical pairs against clean negatives, plus ``W_1(u)``, decoupled by R3. ``R7``:
    the cross moments, plus ``2 W_1 / tau`` for the negatives. ``R5``: transport of pairs and negatives.
    """
    w, chance = evidence.law.weights, evidence.population.entropy
    parts = decomposition_of(images, w, evidence.tau, torch.arange(len(w)))
    clean = weighted_mean(softplus(images.practical_margin), w)
    kernel = checks["R7"].right / evidence.tau + 2 * transport.negatives
    return {
        "R8": chance + parts.right_side(evidence.tau),
        "R6": chance + r3_decoupled.decoupled_bound(clean + checks["R6"].right, evidence.beta),
        "R7": chance + parts.practical + kernel,
        "R5": chance + parts.practical + transport.pairs + transport.negatives,
    }


def _values(checks: dict[str, RungCheck], parts: r8_decomposition.Decomposition, chance: float, tau: float) -> dict[str, float]:
    return {
        "probe_loss": checks["R1"].left,
        "mean_classifier_loss": checks["R1"].right,
        "ideal_bound": checks["R2"].right,
        "alignment_cost": parts.alignment_gap / tau,
        "uniformity_gap": parts.uniformity_gap,
        "practical_loss": chance + parts.practical,
    }


@measure("bounds", "both sides of the rungs R1 to R8 of the theory, with verdicts", BoundsSettings, revision=3, by_default=False)
def bounds(encoder: Encoder, data: Data, settings: BoundsSettings) -> list[Score]:
    """Scores ``R1`` .. ``R8`` (value: slack, in nats, R7 in cosine; sides and verdict in the settings) and the parts.

    The interval of a slack is a 95 % bootstrap over held-out images, within classes; that of R5 is Student's, over batches.
    ``ideal_bound`` carries the waterfall; ``vacuous`` in its settings says whether it is above the chance level
    ``H(pi)``. ``route_*``: bounds of the classification loss from practical pairs, by the rung that accounts for the
    shift; ``tightest_route`` is the smallest of those that only bound it.
    """
    evidence = gather(encoder, data, settings)
    images = per_image(evidence, settings.seed)
    seed = derive_seed(settings.seed, "bounds") % 2**32
    chance = evidence.population.entropy
    shared = {"tau": evidence.tau, "beta": evidence.beta, "negatives": evidence.negatives, "chance": chance}
    transport = check_transport(evidence, settings.transport, settings.seed)
    checks = {r: transport.check if r == "R5" else check_rung(r, evidence, images, settings.bootstrap, seed) for r in STATEMENTS}
    weights = evidence.law.weights
    extra: dict[str, dict[str, object]] = {
        "R1": {"probe_converged": images.probe_converged},
        "R4": {"finite_loss": weighted_mean(images.drawn_loss, weights)},
        "R5": {"pairs": transport.pairs, "negatives_part": transport.negatives, "sampling_floor": transport.floor},
        "R6": {"sampling_floor": split_floor(as_numpy(images.ideal_margin), seed)},
    }
    scores = []
    for rung, check in checks.items():
        about = {
            **shared, "error": "bootstrap interval" if rung != "R5" else "standard error", "statement": check.statement,
            "left": check.left, "right": check.right, "verdict": check.verdict, **extra.get(rung, {}),
        }  # fmt: skip
        unit = "cosine" if rung == "R7" else "nats"
        scores.append(Score("bounds", rung, check.slack, unit, check.stderr, check.low, check.high, True, about))
    values = _values(checks, decomposition_of(images, weights, evidence.tau, torch.arange(len(weights))), chance, evidence.tau)
    steps = {
        "trained probe": checks["R1"].left,
        "mean classifier gap (R1)": checks["R1"].slack,
        "class-collapse gap (R2)": checks["R2"].slack,
        "uniformity gap (R8)": -values["uniformity_gap"],
        "alignment gap (R8)": -values["alignment_cost"],
    }
    arrays = {"step": list(steps), "value": list(steps.values())}
    ways = routes(checks, transport, images, evidence)
    values.update({f"route_{name}": value for name, value in ways.items()})
    tightest = min((r for r in ways if r != "R8"), key=lambda r: ways[r])
    values["tightest_route"] = ways[tightest]
    certificate = held_out_certificate(evidence, settings)
    if certificate is not None:
        scores.append(certificate)
    for name, value in values.items():
        about = {**shared, "error": "see the rungs"}
        if name == "ideal_bound" or "route" in name:
            about["vacuous"] = value > chance
        if name == "tightest_route":
            about["route"] = tightest
        scores.append(Score("bounds", name, value, "nats", settings=about, arrays=arrays if name == "ideal_bound" else {}))
    return scores
