"""The claims that a study tests, and a verdict on each: supported, contradicted or undecided, with the effect.

1. Lower sharpness goes with higher downstream accuracy at equal training loss.
2. A smaller shift between ideal and practical pairs goes with higher downstream accuracy.
3. The Fourier augmentation reduces the shift of a given extractor, sharpness-aware minimisation its sharpness; both
   together (SSA-CLR) give the best accuracy and the best robustness to corruptions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ssa_analysis.errors import SettingsError
from ssa_analysis.linking.links import MINIMUM, target_values
from ssa_analysis.linking.partial import Controls, control_matrix, partial_spearman
from ssa_analysis.linking.rank import weighted_ranks
from ssa_analysis.linking.resampling import configuration_weights, holm, percentile_interval, permutation_p, permutations_of
from ssa_analysis.linking.table import Design, design_of, wide_table
from ssa_analysis.numerics.laws import student_p
from ssa_analysis.numerics.resampling import Interval, mean_interval
from ssa_analysis.training.settings import METHODS

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
LEVEL = 0.05
SSA_CLR = "ssa-clr"
WITH_FOURIER = (("simclr-fourier", "simclr"), (SSA_CLR, "simclr-sam"))
WITH_SAM = (("simclr-sam", "simclr"), (SSA_CLR, "simclr-fourier"))
OTHERS = ("simclr", "simclr-sam", "simclr-fourier")  # whom SSA-CLR must beat


@dataclass(frozen=True)
class HypothesisSettings:
    """What stands for the words of the claims; named before the scores are seen.

    Attributes:
        target: the downstream accuracy. robustness: the error under corruptions.
        sharpness, shift: scores that are lower for a flatter, a less shifted encoder.
        relief: what the Fourier augmentation takes off the shift of a given extractor.
        draws, permutations, seed: of the resampling.
    """

    target: str = "downstream.probe_accuracy"
    robustness: str = "robustness.mean_error"
    sharpness: tuple[str, ...] = ("curvature.lambda_max", "flatness.worst_case", "flatness.adaptive_worst_case")
    shift: tuple[str, ...] = ("shift.gaussian_w2", "shift.mmd2_difference")
    relief: str = "views.fourier_relief"
    draws: int = 2000
    permutations: int = 4999
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (self.target, self.robustness, self.relief, *self.sharpness, *self.shift):
            if not isinstance(name, str) or "." not in name:
                raise SettingsError(f"scores are named measure.name, got {name!r}")
        if self.draws < 10 or self.permutations < 19:
            raise SettingsError("draws must be at least 10 and permutations at least 19")
        if self.draws > 1_000_000 or self.permutations > 10_000_000:
            raise SettingsError("draws must be at most 1,000,000 and permutations at most 10,000,000")


@dataclass(frozen=True)
class Evidence:
    """One number behind a verdict.

    Attributes:
        hypothesis: ``1``, ``2``, ``3a`` (Fourier and shift), ``3b`` (SAM and sharpness), ``3c`` (accuracy of SSA-CLR) or
            ``3d`` (its robustness).
        score: ``measure.name``. claim: what the number would show. effect: what it is. predicted: the sign that the claim
            gives it.
        interval: 95 %. p: two-sided; p_holm: corrected for the number of rows of this hypothesis.
        units: configurations (or seeds, where there is one configuration) behind the interval.
    """

    hypothesis: str
    score: str
    claim: str
    effect: str
    predicted: int
    interval: Interval
    p: float
    units: int
    p_holm: float = float("nan")

    @property
    def verdict(self) -> str:
        """By Holm's p-value and the sign of the effect."""
        if not self.p_holm <= LEVEL:
            return UNDECIDED
        return SUPPORTED if self.interval.value * self.predicted > 0 else CONTRADICTED


@dataclass(frozen=True)
class Verdict:
    """``supported`` or ``contradicted`` where the evidence decides, else ``undecided``; ``reason`` says why in a sentence."""

    hypothesis: str
    claim: str
    verdict: str
    reason: str
    evidence: tuple[Evidence, ...]


CLAIMS = {
    "1": "Lower sharpness goes with higher downstream accuracy at equal training loss",
    "2": "A smaller ideal-practical shift goes with higher downstream accuracy",
    "3a": "The Fourier augmentation reduces the shift",
    "3b": "Sharpness-aware minimisation reduces the sharpness",
    "3c": "SSA-CLR has the best downstream accuracy",
    "3d": "SSA-CLR is the most robust to corruptions",
}
EVERY = ("3c", "3d")  # claims that hold only if every one of their comparisons does


def judge(frame: pd.DataFrame, settings: HypothesisSettings | None = None) -> list[Verdict]:
    """A verdict on every claim that the store's long table (of one data set) has anything to say of.

    Raises:
        DataError: as of :func:`link_scores`, for the target.
    """
    settings = settings or HypothesisSettings()
    target = target_values(frame, settings.target)
    table, whole = wide_table(frame), design_of(frame)
    evidence = [
        *_relations("1", table, target, whole, settings.sharpness, settings, with_loss=True),
        *_relations("2", table, target, whole, settings.shift, settings, with_loss=False),
        *_reliefs(table, whole, settings),
    ]
    for score in settings.shift:
        evidence += _contrast("3a", table, whole, score, "the Fourier augmentation", "without", WITH_FOURIER, -1)
    for score in settings.sharpness:
        evidence += _contrast("3b", table, whole, score, "sharpness-aware minimisation", "without", WITH_SAM, -1)
    for hypothesis, score, sign in (("3c", settings.target, 1), ("3d", settings.robustness, -1)):
        for other in OTHERS:
            than = f"with {METHODS[other].label}"
            evidence += _contrast(hypothesis, table, whole, score, METHODS[SSA_CLR].label, than, ((SSA_CLR, other),), sign)
    verdicts = []
    for hypothesis, claim in CLAIMS.items():
        rows = [row for row in evidence if row.hypothesis == hypothesis]
        if rows:
            adjusted = holm(np.array([row.p for row in rows]))
            rows = [replace(row, p_holm=float(p)) for row, p in zip(rows, adjusted, strict=True)]
            verdicts.append(Verdict(hypothesis, claim, *_conclude(hypothesis, rows), tuple(rows)))
    return verdicts


def _conclude(hypothesis: str, rows: Sequence[Evidence]) -> tuple[str, str]:
    """The verdict on a claim from those on its rows, and why."""
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in (SUPPORTED, CONTRADICTED, UNDECIDED)}
    for_it, against = counts[SUPPORTED], counts[CONTRADICTED]
    said = f"of {len(rows)} comparisons {for_it} support it, {against} contradict it, {counts[UNDECIDED]} decide nothing"
    if hypothesis in EVERY:
        # to be best it must win everywhere; to have lost once is enough not to be
        verdict = CONTRADICTED if against else SUPPORTED if for_it == len(rows) == len(OTHERS) else UNDECIDED
    else:
        verdict = UNDECIDED if bool(for_it) == bool(against) else SUPPORTED if for_it else CONTRADICTED
    return verdict, said


def _relations(
    hypothesis: str, table: pd.DataFrame, target: pd.Series, whole: Design, scores: Sequence[str],
    settings: HypothesisSettings, with_loss: bool,
) -> list[Evidence]:  # fmt: skip
    """Partial Spearman of scores with the target: at equal nuisance settings, and at equal training loss if asked for."""
    found = []
    for score in scores:
        if score not in table:
            continue
        both = pd.concat([table[score], target], axis=1, keys=["x", "y"], join="inner").dropna()
        if len(both) < MINIMUM or both["x"].nunique() < 2 or both["y"].nunique() < 2:
            continue
        design = whole.of(list(both.index))
        losses = [design.loss] if with_loss and np.isfinite(design.loss).all() else []
        controls = control_matrix(design.settings[design.nuisance], *losses)
        x, y = both["x"].to_numpy(float), both["y"].to_numpy(float)
        ones, weights = np.ones((1, len(x))), configuration_weights(design, settings.draws, settings.seed)
        value = float(partial_spearman(x, y, controls, ones)[0])
        rank = int(np.linalg.matrix_rank(controls)) - 1
        interval = percentile_interval(value, partial_spearman(x, y, controls, weights), design.configurations, rank)
        orders = permutations_of(design, settings.permutations, settings.seed, design.groups(design.nuisance))
        equal = [*(["training loss"] if losses else []), *design.nuisance]
        found.append(
            Evidence(
                hypothesis, score, f"{score} falls as {settings.target} rises",
                "Spearman correlation" + (f" at equal {', '.join(equal)}" if equal else ""), -1, interval,
                _partial_p(x, y, controls, orders, value), design.configurations,
            )
        )  # fmt: skip
    return found


def _partial_p(x: np.ndarray, y: np.ndarray, controls: np.ndarray, orders: np.ndarray, value: float) -> float:
    """Permutation p-value: what the controls leave of the ranks of y is exchanged where the settings are equal."""
    if (orders == np.arange(len(x))).all():
        return float("nan")
    ones = np.ones((1, len(x)))
    fit = Controls(controls, ones)
    rx, ry = (fit.residuals(weighted_ranks(v, ones))[0] for v in (x, y))
    # exchanged rests are no longer free of the controls (Freedman and Lane 1983): they are fitted again
    basis = np.linalg.svd(controls, full_matrices=False)
    span = basis.U[:, 1e-10 * basis.S[0] < basis.S]
    exchanged = ry[orders] - (ry[orders] @ span) @ span.T
    with np.errstate(divide="ignore", invalid="ignore"):
        null = (exchanged @ rx) / np.sqrt((exchanged**2).sum(1) * (rx**2).sum())
    return permutation_p(value, null)


def _reliefs(table: pd.DataFrame, whole: Design, settings: HypothesisSettings) -> list[Evidence]:
    """What the augmentation takes off the shift of extractors that were trained without it."""
    if settings.relief not in table:
        return []
    values = table[settings.relief].dropna()
    design = whole.of(list(values.index))
    plain = np.isin(design.method, [name for name, row in METHODS.items() if not row.fourier])
    if plain.sum() < 2:
        return []
    kept = design.take(plain)
    return [_mean_evidence(
        "3a", settings.relief, "Fourier takes something off the shift of an extractor trained without it",
        f"mean of {settings.relief}", 1, values.to_numpy(float)[plain], kept.configuration,
    )]  # fmt: skip


def _contrast(
    hypothesis: str, table: pd.DataFrame, whole: Design, score: str, this: str, than: str, pairs: Sequence[tuple[str, str]],
    sign: int,
) -> list[Evidence]:  # fmt: skip
    """The mean difference of a score between the methods of each pair, at equal nuisance settings and seed.

    With several pairs it is a main effect: the units are the configurations of all of them.
    """
    if score not in table:
        return []
    values = table[score].dropna()
    design, effect = whole.of(list(values.index)), f"difference of {score}"
    # a sharpness is positive and goes with the square of 1/tau: methods change it by a factor
    if hypothesis == "3b" and (values > 0).all():
        values, effect = np.log(values), f"logarithm of the ratio of {score}"
    differences, cells = [], []
    for number, (method, other) in enumerate(pairs):
        found, where = matched_differences(values.to_numpy(float), design, method, other)
        differences.append(found)
        cells.append(where * len(pairs) + number)
    if sum(map(len, differences)) < 2:
        return []
    claim = f"{score} is {'lower' if sign < 0 else 'higher'} with {this} than {than}"
    return [_mean_evidence(hypothesis, score, claim, effect, sign, np.concatenate(differences), np.concatenate(cells))]


def matched_differences(values: np.ndarray, design: Design, method: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    """Values of ``method`` less those of ``other`` at the same seed and the same settings but the methods' own.

    Returns:
        Differences, and the number of the cell (the shared settings) of each. Where a method has several checkpoints in a
        cell and seed (several radii, say), each is compared with the mean of the other's.
    """
    cells = design.groups(design.nuisance)
    mine, theirs = (np.flatnonzero(design.method == m) for m in (method, other))
    differences, found = [], []
    for row in mine:
        partners = theirs[(cells[theirs] == cells[row]) & (design.seed[theirs] == design.seed[row])]
        if len(partners):
            differences.append(values[row] - values[partners].mean())
            found.append(cells[row])
    return np.array(differences), np.array(found, dtype=int)


def _mean_evidence(
    hypothesis: str, score: str, claim: str, effect: str, sign: int, values: np.ndarray, cells: np.ndarray
) -> Evidence:
    interval, over_cells = mean_over_cells(values, cells)
    what = effect if over_cells else f"{effect} (over the seeds of one configuration)"
    count = len(np.unique(cells)) if over_cells else len(values)
    ratio = abs(interval.value) / interval.stderr if interval.stderr > 0 else math.inf if interval.value else 0.0
    return Evidence(hypothesis, score, claim, what, sign, interval, student_p(ratio, count - 1), count)


def mean_over_cells(values: np.ndarray, cells: np.ndarray) -> tuple[Interval, bool]:
    """Mean over cells of the mean in each, with Student's 95 % interval over the cells.

    Returns:
        The interval, and True; over the values, and False, where all are of one cell.
    """
    means = np.array([values[cells == c].mean() for c in np.unique(cells)])
    return mean_interval(means if len(means) > 1 else values), len(means) > 1


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a number behind a verdict."""
    rows: list[Mapping[str, object]] = []
    for verdict in verdicts:
        for row in verdict.evidence:
            found = {"hypothesis": row.hypothesis, "score": row.score, "verdict": row.verdict, "value": row.interval.value}
            sure = {"low": row.interval.low, "high": row.interval.high, "p": row.p, "p_holm": row.p_holm, "units": row.units}
            words = {"claim": row.claim, "effect": row.effect, "on the whole": verdict.verdict}
            rows.append({**found, **sure, **words})
    return pd.DataFrame(rows)
