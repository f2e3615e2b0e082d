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
from ssa_analysis.numerics.resampling import Interval, bootstrap
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

RUNGS = ("R1", "R2", "R6", "R8")


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


def check_rungs(evidence: Evidence, draws: int, seed: int) -> tuple[list[RungCheck], dict[str, float], bool]:
    """All rungs with intervals; the quantities of the waterfall; whether the probe converged."""
    law, population, tau = evidence.law, evidence.population, evidence.tau
    labels = as_numpy(law.y).astype(int)

    def over_images(statistic: object) -> Interval:
        def resampled(index: np.ndarray) -> float:
            rows = torch.from_numpy(index)
            return statistic(rows, law.weights[rows])  # type: ignore[operator,no-any-return]

        return bootstrap(resampled, len(labels), draws=draws, seed=seed, strata=labels)

    supervised = r1_probe.mean_classifier_losses(law, population, tau)
    probe = r1_probe.trained_probe(law, population, tau)
    ideal = r2_classification.ideal_decoupled_losses(law, population, tau)
    u_ideal = r6_margin.margins(law.z, evidence.positives, population, tau, evidence.beta)
    u_practical = r6_margin.margins(evidence.first, evidence.second, population, tau, evidence.beta)
    # R8 from its parts, each an array over held-out images; the drawn positives make the left side independent
    drawn_ideal = population.uniformity(law.z, tau) - (law.z * evidence.positives).sum(1) / tau
    dots = (evidence.first * evidence.second).sum(1)
    view_uniformity = evidence.view_population.uniformity(evidence.first, tau)
    ideal_uniformity = population.uniformity(law.z, tau)
    class_alignment = (law.z * population.means[law.y]).sum(1)  # its mean estimates sum_c pi_c |mu_c|^2 across splits

    def parts(rows: Tensor, w: Tensor) -> r8_decomposition.Decomposition:
        return r8_decomposition.decompose(
            tau=tau,
            ideal=weighted_mean(drawn_ideal[rows], w),
            practical_alignment=weighted_mean(dots[rows], w),
            ideal_alignment=weighted_mean(class_alignment[rows], w),
            practical_uniformity=weighted_mean(view_uniformity[rows], w),
            ideal_uniformity=weighted_mean(ideal_uniformity[rows], w),
        )

    def r6_slack(rows: Tensor, w: Tensor) -> float:
        left, right = r6_margin.margin_sides(u_ideal[rows], u_practical[rows], w, w)
        return right - left

    everything = torch.arange(len(labels))
    l_probe, l_supervised = weighted_mean(probe.losses, law.weights), weighted_mean(supervised, law.weights)
    bound = population.entropy + weighted_mean(ideal, law.weights)
    left6, right6 = r6_margin.margin_sides(u_ideal, u_practical, law.weights, law.weights)
    whole = parts(everything, law.weights)
    sides = {
        "R1": (r1_probe.STATEMENT, l_probe, l_supervised, over_images(lambda r, w: weighted_mean((supervised - probe.losses)[r], w))),
        "R2": (
            r2_classification.STATEMENT, l_supervised, bound,
            over_images(lambda r, w: population.entropy + weighted_mean((ideal - supervised)[r], w)),
        ),
        "R6": (r6_margin.STATEMENT, left6, right6, over_images(r6_slack)),
        "R8": (
            r8_decomposition.STATEMENT, whole.ideal, whole.right_side(tau),
            over_images(lambda r, w: parts(r, w).right_side(tau) - parts(r, w).ideal),
        ),
    }  # fmt: skip
    checks = [
        RungCheck(rung, statement, left, right, interval.low, interval.high, equality=rung == "R8")
        for rung, (statement, left, right, interval) in sides.items()
    ]
    quantities = {
        "probe_loss": l_probe,
        "mean_classifier_loss": l_supervised,
        "ideal_bound": bound,
        "alignment_cost": whole.alignment_gap / tau,
        "uniformity_gap": whole.uniformity_gap,
        "practical_loss": population.entropy + whole.practical,
        "chance": population.entropy,
        "margin_floor": split_floor(as_numpy(u_ideal), seed % 2**32),
    }
    return checks, quantities, probe.converged


@measure("bounds", "both sides of the rungs R1, R2, R6, R8 of the theory, with verdicts", BoundsSettings, by_default=False)
def bounds(encoder: Encoder, data: Data, settings: BoundsSettings) -> list[Score]:
    """Scores ``R1``, ``R2``, ``R6``, ``R8`` (value: slack, in nats; sides and verdict in the settings) and the parts.

    The interval of a slack is a 95 % bootstrap over held-out images, within classes. ``ideal_bound`` carries the
    waterfall; ``vacuous`` in its settings says whether it is above the chance level ``H(pi)``.
    """
    evidence = gather(encoder, data, settings)
    seed = derive_seed(settings.seed, "bounds") % 2**32
    checks, values, converged = check_rungs(evidence, settings.bootstrap, seed)
    shared = {"tau": evidence.tau, "beta": evidence.beta, "chance": values["chance"]}
    scores = []
    for check in checks:
        about = {
            **shared, "error": "bootstrap interval", "statement": check.statement, "left": check.left,
            "right": check.right, "verdict": check.verdict,
        }  # fmt: skip
        if check.rung == "R1":
            about["probe_converged"] = converged
        if check.rung == "R6":
            about["sampling_floor"] = values["margin_floor"]
        scores.append(Score("bounds", check.rung, check.slack, "nats", None, check.low, check.high, True, about))
    steps = {
        "trained probe": values["probe_loss"],
        "mean classifier gap (R1)": values["mean_classifier_loss"] - values["probe_loss"],
        "class-collapse gap (R2)": values["ideal_bound"] - values["mean_classifier_loss"],
        "uniformity gap (R8)": -values["uniformity_gap"],
        "alignment gap (R8)": -values["alignment_cost"],
    }
    arrays = {"step": list(steps), "value": list(steps.values())}
    for name in ("probe_loss", "mean_classifier_loss", "ideal_bound", "alignment_cost", "uniformity_gap", "practical_loss"):
        about = {**shared, "error": "see the rungs"}
        if name == "ideal_bound":
            about["vacuous"] = values[name] > values["chance"]
        scores.append(
            Score("bounds", name, values[name], "nats", settings=about, arrays=arrays if name == "ideal_bound" else {})
        )
    return scores
