"""The measure ``bounds``: every rung on a checkpoint, the routes and the chain, the certificates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssa_analysis.checkpoints.finding import pinned_hash
from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.base import MeasureSettings, measure, resolve_recipe
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.numerics.seeding import derive_seed
from ssa_analysis.numerics.transport import split_floor
from ssa_analysis.registry import unknown_name
from ssa_analysis.scores import Score
from ssa_analysis.theory import r5_transport, r9_certificate, r9_pac_bayes
from ssa_analysis.theory.blocks import BlocksOfPairs, batch_dependent, embedded_blocks, mixes_images
from ssa_analysis.theory.chain import BOUNDING, CAUSES, ROUTES, Ceiling, Chain, build, tightest, uncertified
from ssa_analysis.theory.estimates import LABELLED, PRACTICAL, Bootstrapped, estimate, interval_of
from ssa_analysis.theory.evidence import Evidence, gather, resample
from ssa_analysis.theory.pac_bayes_run import PacBayes, evaluate, find_prior, other_split
from ssa_analysis.theory.rungs import RungCheck
from ssa_analysis.theory.transport_check import TransportCheck, check_transport

STATEMENTS = dict(
    sorted({**PRACTICAL, **LABELLED, "R5": r5_transport.STATEMENT, "R9": r9_certificate.STATEMENT}.items())
)  # fmt: skip
NEED_LABELS = ("R1", "R2", "R5", "R6", "R7", "R8")
BLOCKS_OF = ("auto", "train", "probe", "held-out")


@dataclass(frozen=True)
class BoundsSettings(MeasureSettings):
    """Settings of the bounds.

    Attributes:
        bootstrap: draws behind the intervals.
        negatives: K of the rung R4, where the checkpoint does not say; stands for ``beta`` where the loss is plain NT-Xent.
            0: that of a batch of ``block`` pairs, ``2 block - 2``.
        transport: pairs of a batch between which rung R5's distances are computed.
        block: images of a block of the certificates; 0: see :func:`automatic_block`. delta: how often they may fail.
        noise_block: images of a block of the PAC-Bayes bound.
        prior: checkpoint that the PAC-Bayes bound starts from; empty: the initialisation, where the file keeps it.
        prior_sha256: of its content, filled in.
        blocks: split of the PAC-Bayes blocks: ``auto`` (train; held-out with a prior), ``train``, ``probe``, ``held-out``.
        scales: standard deviations of the weight noise, spaced evenly in their logarithm from scale_min to scale_max; 0
            leaves the PAC-Bayes bound out.
        draws: of noise and block, at each scale. delta_draws: how often their bounds may fail, all scales together.
    """

    bootstrap: int = 200
    negatives: int = 0
    transport: int = 500
    block: int = 0
    noise_block: int = 32
    delta: float = 0.05
    prior: str = ""
    prior_sha256: str = ""
    blocks: str = "auto"
    scales: int = 8
    scale_min: float = 1e-3
    scale_max: float = 1.0
    draws: int = 100
    delta_draws: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.bootstrap, self.transport) < 2 or self.negatives < 0:
            raise SettingsError("bounds.bootstrap and bounds.transport must be at least 2, bounds.negatives at least 0")
        if self.block < 0 or self.block == 1 or self.noise_block < 2 or not 0 < self.delta < 1 or not 0 < self.delta_draws < 1:
            raise SettingsError(
                "bounds.block and noise_block must be at least 2, bounds.delta and bounds.delta_draws lie in (0, 1)"
            )
        if self.blocks not in BLOCKS_OF:
            raise unknown_name("split of blocks", self.blocks, list(BLOCKS_OF))
        if self.scales < 0 or self.draws < 2 or not 0 < self.scale_min <= self.scale_max < math.inf:
            raise SettingsError("bounds.scales must be at least 0, bounds.draws at least 2, 0 < bounds.scale_min <= scale_max")
        if self.prior:
            object.__setattr__(self, "prior_sha256", pinned_hash("prior", self.prior, self.prior_sha256))
        elif self.prior_sha256:
            raise SettingsError("bounds.prior_sha256 belongs to bounds.prior")

    @property
    def grid(self) -> np.ndarray:
        """``(J,)`` scales."""
        return np.geomspace(self.scale_min, self.scale_max, self.scales)


def automatic_block(images: int) -> int:
    """The largest power of two up to the root of the number of images: few blocks make a certificate loose, small ones R4."""
    return int(2 ** max(1, math.floor(math.log2(max(images, 4)) / 2)))


@measure(
    "bounds",
    "both sides of the rungs R1 to R9 of the theory, with verdicts, routes, certificates",
    BoundsSettings,
    revision=4,
    by_default=False,
)
def bounds(encoder: Encoder, data: Data, settings: BoundsSettings) -> list[Score]:
    """Scores ``R1`` .. ``R9`` (value: slack, in nats, R7 in cosine; sides and verdict in the settings) and the parts.

    Intervals are 95 % bootstraps over held-out and probe images, within classes; that of R5 is Student's, over batches.
    ``route_*``: bounds of the classification loss from practical pairs, by the rung that accounts for the shift;
    ``tightest_route`` is the smallest of those that only bound it. ``chain`` goes on to the certificate, ``share_*`` says who
    loses how much on the way. ``certificate*`` and ``pac_bayes`` bound the contrastive loss of new images. What could not be
    evaluated is named in every score's setting ``skipped``.
    """
    if not settings.block:
        settings = replace(settings, block=automatic_block(len(data.splits["held-out"])))
    evidence = gather(encoder, data, settings, settings.negatives or 2 * settings.block - 2)
    seed = derive_seed(settings.seed, "bounds") % 2**32
    found = estimate(evidence, resample(evidence, settings.bootstrap, seed), seed, settings.block, settings.noise_block)
    blocks = BlocksOfPairs(encoder, data, "held-out", settings.views, settings.block, settings.seed)
    certificates, losses = _certificates(encoder, data, evidence, blocks, settings)
    pac, skipped = _pac_bayes(encoder, data, evidence, settings)
    if evidence.ideal is None:
        skipped[", ".join(NEED_LABELS)] = "the images have no labels"
    if certificates is None:
        skipped["R9"] = f"the held-out split has fewer images than a block of {settings.block}"
    if evidence.ideal is not None and mixes_images(encoder, data, settings.views):
        skipped["the chain's certificate"] = "views mix images, so that R4 does not lead to the loss of a batch"
    if pac is not None and not math.isfinite(pac.noisy_stderr):
        skipped["R9 PAC-Bayes against another split"] = "one block alone has no error"
    shared: dict[str, Any] = {
        "tau": evidence.tau, "beta": evidence.beta, "negatives": evidence.negatives,
        "skipped": [f"{rungs}: {why}" for rungs, why in skipped.items()],
    }  # fmt: skip
    transport = None
    if evidence.ideal is not None:
        shared["chance"] = evidence.ideal.population.entropy
        transport = check_transport(evidence, evidence.ideal, settings.transport, settings.seed)
    scores = _rungs(found, transport, losses, pac, shared, settings)
    if transport is not None:
        # a batch whose views mix images has negatives that depend on the pair, so that R4 does not lead to its loss
        of_pairs = mixes_images(encoder, data, settings.views)
        scores += _values(found, transport, evidence, None if of_pairs else certificates, None if of_pairs else pac, shared)
    else:
        for name in ("practical_infonce", "practical_decoupled"):
            scores.append(_value(name, found.values[name], shared))
    if certificates is not None:
        scores += _certificate_scores(certificates, shared)
    if pac is not None:
        scores.append(_pac_bayes_score(pac, shared))
    return scores


def _certificates(
    encoder: Encoder, data: Data, evidence: Evidence, blocks: BlocksOfPairs, settings: BoundsSettings
) -> tuple[r9_certificate.Certificate | None, np.ndarray]:
    """The held-out certificates and the block losses; None where there is not one whole block."""
    if not blocks:
        return None, np.zeros(0)
    first, second = embedded_blocks(encoder, blocks)
    losses = r9_certificate.block_losses(first, second, settings.block, evidence.tau, evidence.beta)
    found = r9_certificate.certify(losses, settings.block, evidence.tau, evidence.beta, settings.delta)
    if mixes_images(encoder, data, settings.views) or batch_dependent(encoder):
        found = r9_certificate.without_differences(found)
    return found, losses


def _pac_bayes(
    encoder: Encoder, data: Data, evidence: Evidence, settings: BoundsSettings
) -> tuple[PacBayes | None, dict[str, str]]:
    """The PAC-Bayes bounds, or why there are none."""
    name = "R9 PAC-Bayes"
    if not settings.scales:
        return None, {name: "left out (bounds.scales=0)"}
    recipe = resolve_recipe(encoder, data, settings.views)
    if recipe.fourier is not None and recipe.fourier.partner == "nearest":
        return None, {name: "the trained features choose the views' partners, which no divergence accounts for"}
    prior = find_prior(encoder, data, settings.prior, settings.blocks)
    if prior is None:
        return None, {name: "the file keeps no initialisation; name a prior checkpoint"}
    if min(len(data.splits[split]) for split in (prior.split, other_split(prior.split))) < settings.noise_block:
        return None, {name: f"a split has fewer images than a block of {settings.noise_block}"}
    pac = evaluate(
        encoder, data, prior, views=settings.views, tau=evidence.tau, beta=evidence.beta, size=settings.noise_block,
        scales=settings.grid, draws=settings.draws, delta=settings.delta, delta_draws=settings.delta_draws, seed=settings.seed,
    )  # fmt: skip
    return pac, {}


def _rungs(
    found: Bootstrapped, transport: TransportCheck | None, losses: np.ndarray, pac: PacBayes | None, shared: Mapping[str, Any],
    settings: BoundsSettings,
) -> list[Score]:  # fmt: skip
    checks = {rung: found.check(rung) for rung in (*PRACTICAL, *(LABELLED if transport is not None else ()))}
    extra: dict[str, dict[str, Any]] = {"R4": {"finite_loss": float(found.values["finite_loss"][0])}}
    if transport is not None:
        checks["R5"] = transport.check
        parts = {"pairs": transport.pairs, "negatives_part": transport.negatives, "sampling_floor": transport.floor}
        extra |= {"R1": {"probe_converged": found.probe_converged}, "R5": parts}
        if found.ideal_margins is not None:
            extra["R6"] = {"sampling_floor": split_floor(found.ideal_margins, settings.seed)}
    if len(losses) >= 4:  # two halves with an error each
        checks["R9"] = _halves(losses, settings.block, shared["tau"], shared["beta"], settings.delta)
        extra["R9"] = {"n": len(losses) // 2, "m": settings.block, "delta": settings.delta}
    if pac is not None and math.isfinite(pac.noisy_stderr):
        checks["R9_pac_bayes"] = _held_out_check(pac)
    scores = []
    for rung, check in sorted(checks.items()):
        error = {"R5": "standard error over batches", "R9": "standard error over blocks", "R9_pac_bayes": "standard error"}
        about = {
            **shared, "error": error.get(rung, "bootstrap interval"), "statement": check.statement, "left": check.left,
            "right": check.right, "verdict": check.verdict, **extra.get(rung, {}),
        }  # fmt: skip
        unit = "cosine" if rung == "R7" else "nats"
        scores.append(Score("bounds", rung, check.slack, unit, check.stderr, check.low, check.high, True, about))
    return scores


def _halves(losses: np.ndarray, size: int, tau: float, beta: float, delta: float) -> RungCheck:
    """A certificate from half of the blocks against the mean of the other half."""
    half = len(losses) // 2
    bound = r9_certificate.certify(losses[:half], size, tau, beta, delta).betting
    rest = losses[half:]
    stderr = float(rest.std(ddof=1) / math.sqrt(len(rest)))
    return _normal_check("R9", r9_certificate.STATEMENT, float(rest.mean()), bound, stderr)


def _held_out_check(pac: PacBayes) -> RungCheck:
    """The lowest PAC-Bayes bound against ``L_s`` on blocks of another split."""
    return _normal_check("R9_pac_bayes", r9_pac_bayes.STATEMENT, pac.noisy_loss, pac.best.bound, pac.noisy_stderr)


def _normal_check(rung: str, statement: str, left: float, right: float, stderr: float) -> RungCheck:
    slack = right - left
    return RungCheck(rung, statement, left, right, stderr, slack - 1.96 * stderr, slack + 1.96 * stderr)


def _value(
    name: str, values: np.ndarray, shared: Mapping[str, Any], arrays: Mapping[str, Any] | None = None, **more: Any
) -> Score:
    interval = interval_of(values)
    unit = "share of the slack" if name.startswith("share_") else "nats"
    known = len(values) > 1
    about = {**shared, "error": "bootstrap interval" if known else "not estimated", **more}
    stderr, low, high = (interval.stderr, interval.low, interval.high) if known else (None, None, None)
    return Score("bounds", name, interval.value, unit, stderr, low, high, True, about, arrays=arrays or {})


def _values(
    found: Bootstrapped, transport: TransportCheck, evidence: Evidence, certificate: r9_certificate.Certificate | None,
    pac: PacBayes | None, shared: Mapping[str, Any],
) -> list[Score]:  # fmt: skip
    """Losses, gaps, routes, the chain and its shares."""
    chance, beta = float(shared["chance"]), evidence.beta
    costs = transport.pairs, transport.negatives
    draws = [{name: float(values[i]) for name, values in found.values.items()} for i in range(len(found.values["chance"]))]
    names = ("probe_loss", "mean_classifier_loss", "alignment_cost", "uniformity_gap", "practical_loss")
    scores = [_value(name, found.values[name], shared) for name in names]
    scores.append(
        _value("ideal_bound", found.values["ideal_bound"], shared, _waterfall(draws[0]), vacuous=draws[0]["ideal_bound"] > chance)
    )
    ways = {route: np.array([uncertified(route, d, costs, beta) for d in draws]) for route in ROUTES}
    for route, values in ways.items():
        scores.append(_value(f"route_{route}", values, shared, vacuous=bool(values[0] > chance)))
    best = min(BOUNDING, key=lambda route: ways[route][0])
    scores.append(_value("tightest_route", ways[best], shared, vacuous=bool(ways[best][0] > chance), route=best))

    batch = certificate is not None
    ceiling = None if certificate is None else Ceiling(certificate.mean, 0.0, 0.0, 0.0, certificate.betting - certificate.mean)
    chain = tightest(draws[0], costs, beta, ceiling, batch)
    chains = [chain] + [
        build(chain.route, d, costs, beta, _moved(ceiling, d["practical_infonce"] - draws[0]["practical_infonce"]), batch)
        for d in draws[1:]
    ]
    confidence = None if certificate is None else 1 - certificate.delta
    about: dict[str, Any] = {"route": chain.route, "vacuous": chain.end > chance, "confidence": confidence}
    scores.append(_value("chain", np.array([c.end for c in chains]), shared, _chain_arrays(chain), **about))
    for cause in CAUSES:
        if any(name == cause for name, _ in chain.steps) and cause not in ("BatchNorm", "sharpness", "Monte Carlo"):
            shares = np.array([c.share(cause) for c in chains])
            about = {"route": chain.route, "slack": chain.slack(cause), "total_slack": chain.total}
            scores.append(_value(f"share_{cause.replace(' ', '_').lower()}", shares, shared, **about))
    if pac is not None:
        noise, base = pac.best, pac.loss_as_it_is
        norm = pac.loss_by_blocks - base
        # what the bound exceeds the loss other_split by, less its other parts, is put down to complexity
        rest = noise.bound - pac.loss_by_blocks - noise.sharpness - noise.monte_carlo
        noisy = {**draws[0], "batch_slack": draws[0]["noise_slack"]}
        whole = tightest(noisy, costs, beta, Ceiling(base, norm, noise.sharpness, noise.monte_carlo, rest), True)
        covers = {"covers_theta": noise.covers_theta, "batch_norm": norm}
        more = {"route": whole.route, "vacuous": whole.end > chance, **covers, "bound": norm >= 0 and noise.covers_theta == "yes"}
        scores.append(_value("chain_pac_bayes", np.array([whole.end]), shared, _chain_arrays(whole), **more))
    return scores


def _moved(ceiling: Ceiling | None, by: float) -> Ceiling | None:
    """The ceiling of other images: the loss of blocks moves as that of pairs does."""
    if ceiling is None:
        return None
    return Ceiling(ceiling.loss + by, ceiling.batch_norm, ceiling.sharpness, ceiling.monte_carlo, ceiling.complexity)


def _chain_arrays(chain: Chain) -> dict[str, list[Any]]:
    steps = [("trained probe", chain.start), *chain.steps]
    shares = [0.0, *(chain.share(name) for name, _ in chain.steps)]
    return {"step": [name for name, _ in steps], "value": [value for _, value in steps], "share": shares}


def _waterfall(draw: Mapping[str, float]) -> dict[str, list[Any]]:
    """From the probe's loss to R2, and by R8 to practical pairs."""
    steps = {
        "trained probe": draw["probe_loss"],
        "mean classifier gap (R1)": draw["mean_classifier_loss"] - draw["probe_loss"],
        "class-collapse gap (R2)": draw["ideal_bound"] - draw["mean_classifier_loss"],
        "uniformity gap (R8)": -draw["uniformity_gap"],
        "alignment gap (R8)": -draw["alignment_cost"],
    }
    return {"step": list(steps), "value": list(steps.values())}


def _certificate_scores(found: r9_certificate.Certificate, shared: Mapping[str, Any]) -> list[Score]:
    """One score for each bound; ``certificate`` is the one by betting, chosen beforehand.

    A constant embedding has the loss ``log(1 + beta)``: a certificate above it says nothing.
    """
    constant = float(np.log1p(shared["beta"]))
    about = {
        **shared, "error": "holds with probability 1 - delta", "statement": r9_certificate.STATEMENT, "n": found.blocks,
        "m": found.size, "negatives": 2 * found.size - 2, "delta": found.delta, "a": found.smallest, "b": found.largest,
        "kl": 0.0, "mean": found.mean, "constant": constant,
    }  # fmt: skip
    values = {"": found.betting, "_kl": found.kl, "_bounded_differences": found.bounded_differences}
    return [
        Score(
            "bounds", f"certificate{suffix}", value, "nats", None, found.mean, value, True, {**about, "vacuous": value > constant}
        )
        for suffix, value in values.items()
        if math.isfinite(value)
    ]


GRID = (
    "scale", "kl", "loss", "sharpness", "sharpness_stderr", "monte_carlo", "complexity", "classic_complexity", "bound", "by_kl",
    "by_differences", "held_out_rise", "held_out_stderr",
)  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pac_bayes_score(pac: PacBayes, shared: Mapping[str, Any]) -> Score:
    """The lowest bound over the grid, with its parts; the grid is in the arrays."""
    best, blocks = pac.best, pac.blocks
    constant = float(np.log1p(shared["beta"]))
    rise, stderr = best.held_out_rise, best.held_out_stderr
    about = {
        **shared, "error": "holds with probability 1 - delta - delta_draws", "statement": r9_pac_bayes.STATEMENT,
        "n": blocks.count, "m": blocks.size, "delta": blocks.delta, "delta_draws": blocks.delta_draws, "a": blocks.low,
        "b": blocks.high, "kl": best.kl, "scale": best.scale, "grid": blocks.scales, "bound_by": best.route, "loss": best.loss,
        "sharpness": best.sharpness, "sharpness_stderr": best.sharpness_stderr, "monte_carlo": best.monte_carlo,
        "complexity": best.complexity, "constant": constant, "vacuous": best.bound >= min(constant, blocks.high),
        "prior": pac.prior.origin, "split": pac.prior.split, "distance": pac.distance, "weights": pac.weights,
        "held_out_rise": rise, "held_out_rise_stderr": stderr, "covers_theta": best.covers_theta,
        "sam_noisy": pac.sam.noisy, "sam_bound": pac.sam.worst, "sam_radius": pac.sam.radius,
    }  # fmt: skip
    arrays = {name: [_finite(getattr(bound, name)) for bound in pac.bounds] for name in GRID}
    return Score("bounds", "pac_bayes", best.bound, "nats", None, best.loss, best.bound, True, about, arrays=arrays)
