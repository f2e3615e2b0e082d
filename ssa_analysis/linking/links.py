"""Every score of a store against downstream accuracy: how they go together, at equal settings too, and how sure that is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ssa_analysis.errors import DataError
from ssa_analysis.linking.granulated import ConditionalInformation, Granulated, conditional_information, granulated_kendall
from ssa_analysis.linking.invariance import invariance_of
from ssa_analysis.linking.partial import Controls, control_matrix, pooled_correlation, ranks_within
from ssa_analysis.linking.power import checkpoints_needed
from ssa_analysis.linking.rank import COEFFICIENTS, weighted_kendall, weighted_pearson, weighted_ranks
from ssa_analysis.linking.resampling import (
    configuration_weights,
    exchanges,
    holm,
    percentile_interval,
    permutation_p,
    permutations_of,
)
from ssa_analysis.linking.table import Design, design_of, note_of, wide_table
from ssa_analysis.numerics.resampling import Interval
from ssa_analysis.registry import unknown_name

MINIMUM = 4  # checkpoints; with three, every rank correlation but +-1 is +-0.5
PERMUTATIONS = 4999
DESIGN_DRAWS = 300  # for the variance that independent checkpoints would have
NOTHING = Interval(float("nan"), float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Link:
    """One score against the target over n checkpoints.

    Attributes:
        configurations: how many different ones the checkpoints have; the units of intervals and tests.
        pearson, spearman, kendall: with 95 % percentile intervals of a bootstrap over configurations within methods.
        p: of Spearman's coefficient, by exchanging configurations; p_holm: corrected for the number of scores.
        partial: Spearman with the settings that are no part of the method as categories in a linear model;
            within: Spearman within groups in which these settings are equal, with a permutation p-value in those groups.
            NaN where no setting differs.
        granulated, information: criteria of Jiang et al. (2020); None where no setting differs.
        needed: checkpoints at which a test would find a correlation as large as this one with a power of 80 %.
        invariance: see :mod:`ssa_analysis.linking.invariance`.
        note: what must be said of the score's values, such as ``regenerated``.
    """

    score: str
    n: int
    configurations: int
    pearson: Interval
    spearman: Interval
    kendall: Interval
    p: float = float("nan")
    p_holm: float = float("nan")
    partial: Interval = NOTHING
    within: Interval = NOTHING
    p_within: float = float("nan")
    p_within_holm: float = float("nan")
    granulated: Granulated | None = None
    information: ConditionalInformation | None = None
    needed: float = float("inf")
    invariance: str = ""
    note: str = ""


def target_values(frame: pd.DataFrame, target: str) -> pd.Series:
    """The target by checkpoint; DataError where there is none to explain."""
    if frame.empty:
        raise DataError("there are no scores to link; run ssa-analyze score first")
    if frame["data"].nunique() > 1:
        names = ", ".join(sorted(frame["data"].unique()))
        raise DataError(f"the store holds scores on several data sets ({names}); name one with --data")
    table = wide_table(frame)
    if target not in table:
        raise DataError(str(unknown_name("target", target, list(table.columns))))
    values = table[target].dropna()
    if len(values) < MINIMUM:
        raise DataError(f"{len(values)} checkpoints have {target}; correlations need at least {MINIMUM}")
    if values.nunique() < 2:
        raise DataError(f"all {len(values)} checkpoints have the same {target}: there is nothing to explain")
    return values


def link_scores(
    frame: pd.DataFrame,
    target: str,
    *,
    target_frame: pd.DataFrame | None = None,
    scores: Sequence[str] | None = None,
    draws: int = 1000,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    deep: Collection[str] = (),
) -> list[Link]:
    """Link every score to ``target`` over the checkpoints that have both, strongest Spearman first.

    Other scores of the target's own measure family are left out, as are scores that are constant.

    Args:
        frame: a store's long table of one data set. target: ``measure.name``.
        target_frame: the table that has the target, of another data set (a transfer target); default ``frame``.
        scores: only these, ``measure.name``; they alone count in Holm's correction.
        deep: scores that also get the criteria of Jiang et al., which take longer.

    Raises:
        DataError: a table is empty or of several data sets, the target or a named score is not in it, or fewer than
            ``MINIMUM`` checkpoints have the target.
    """
    values = target_values(frame if target_frame is None else target_frame, target)
    if target_frame is not None and (frame.empty or frame["data"].nunique() > 1):
        raise DataError("the scores to link must be those of one data set; name it with --data")
    table = wide_table(frame)
    for score in scores or ():
        if score not in table:
            raise DataError(str(unknown_name("score", score, list(table.columns))))
    family = target.split(".")[0] + "."
    names = [n for n in (table.columns if scores is None else scores) if not (target_frame is None and str(n).startswith(family))]
    links = []
    whole = design_of(frame)
    shared: dict[tuple[str, ...], _Shared] = {}
    for name in names:
        both = pd.concat([table[name], values], axis=1, keys=["x", "y"], join="inner").dropna()
        if len(both) < MINIMUM or both["x"].nunique() < 2 or both["y"].nunique() < 2:
            continue
        key = tuple(both.index)
        if key not in shared:
            shared[key] = _Shared(whole.of(key), both["y"].to_numpy(float), draws, permutations, seed)
        link = shared[key].link(str(name), both["x"].to_numpy(float), name in deep)
        links.append(replace(link, invariance=invariance_of(str(name)), note=note_of(frame, str(name))))
    adjusted = [holm(np.array([getattr(link, which) for link in links])) for which in ("p", "p_within")]
    links = [
        replace(link, p_holm=float(raw), p_within_holm=float(within)) for link, raw, within in zip(links, *adjusted, strict=True)
    ]
    return sorted(links, key=lambda link: -abs(np.nan_to_num(link.spearman.value)))


class _Shared:
    """What all scores of the same checkpoints share: design, resamples, permutations, and the target's side of everything.

    Row 0 of the weights are the checkpoints themselves, the others are resamples.
    """

    def __init__(self, design: Design, y: np.ndarray, draws: int, permutations: int, seed: int) -> None:
        self.design, self.y, self.seed = design, y - y.mean(), seed
        n = len(y)
        self.weights = np.concatenate([np.ones((1, n)), configuration_weights(design, draws, seed)])
        self.independent = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DESIGN_DRAWS).astype(float)
        self.ranks, self.independent_ranks = (weighted_ranks(self.y, w) for w in (self.weights, self.independent))
        whole = np.zeros(n, dtype=int)
        self.null = self._null(permutations_of(design, permutations, seed), whole) if exchanges(design) else None
        self.controls: Controls | None = None
        if design.nuisance:
            self.controls = Controls(control_matrix(design.settings[design.nuisance]), self.weights)
            self.rest = self.controls.residuals(self.ranks)
            self.groups = design.groups(design.nuisance)
            self.inner = ranks_within(self.y, self.groups, self.weights)
            self.inner_null = None
            if exchanges(design, self.groups):
                self.inner_null = self._null(permutations_of(design, permutations, seed, self.groups), self.groups)

    def _null(self, orders: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """``(permutations, n)`` exchanged ranks of the target, to unit length."""
        centred = ranks_within(self.y, groups, self.weights[:1])[0]
        return np.asarray(centred[orders] / max(np.linalg.norm(centred), 1e-300))

    def link(self, name: str, x: np.ndarray, deep: bool) -> Link:
        x, design = x - x.mean(), self.design
        ranks = weighted_ranks(x, self.weights)
        pearson, spearman, kendall = (
            self._interval(values)
            for values in (
                weighted_pearson(x, self.y, self.weights),
                weighted_pearson(ranks, self.ranks, self.weights),
                weighted_kendall(x, self.y, self.weights),
            )
        )
        effect = self._design_effect(x, spearman)
        link = Link(
            name, len(x), design.configurations, pearson, spearman, kendall,
            p=self._p(x, np.zeros(len(x), dtype=int), spearman.value, self.null),
            needed=checkpoints_needed(spearman.value, design_effect=effect),
        )  # fmt: skip
        if self.controls is not None:
            within = self._interval(pooled_correlation(ranks_within(x, self.groups, self.weights), self.inner, self.weights))
            link = replace(
                link,
                partial=self._interval(
                    self.controls.correlation(self.controls.residuals(ranks), self.rest), self.controls.rank - 1
                ),
                within=within,
                p_within=self._p(x, self.groups, within.value, self.inner_null),
            )
        if deep and len(design.settings.columns):
            information = conditional_information(x, self.y, design, seed=self.seed)
            link = replace(link, granulated=granulated_kendall(x, self.y, design), information=information)
        return link

    def _interval(self, values: np.ndarray, controls: int = 0) -> Interval:
        return percentile_interval(float(values[0]), values[1:], self.design.configurations, controls)

    def _p(self, x: np.ndarray, groups: np.ndarray, value: float, null: np.ndarray | None) -> float:
        if null is None:
            return float("nan")
        centred = ranks_within(x, groups, self.weights[:1])[0]
        length = float(np.linalg.norm(centred))
        return permutation_p(value, null @ centred / length) if length > 0 else float("nan")

    def _design_effect(self, x: np.ndarray, spearman: Interval) -> float:
        """Variance over that of a bootstrap which takes checkpoints for independent; at least 1."""
        ranks = weighted_ranks(x, self.independent)
        plain = np.nanstd(weighted_pearson(ranks, self.independent_ranks, self.independent))
        ratio = (spearman.stderr / plain) ** 2 if plain > 0 else 1.0
        return float(ratio) if np.isfinite(ratio) and ratio > 1 else 1.0


def link_table(links: list[Link]) -> pd.DataFrame:
    """One row a score, one column a number: coefficients with low and high, p-values, criteria, and what must be said."""
    rows = []
    for link in links:
        row: dict[str, object] = {"score": link.score, "n": link.n, "configurations": link.configurations}
        for kind in COEFFICIENTS:
            row |= _columns(kind, getattr(link, kind))
        row |= {"p": link.p, "p_holm": link.p_holm}
        row |= {**_columns("partial", link.partial), **_columns("within", link.within)}
        row |= {"p_within": link.p_within, "p_within_holm": link.p_within_holm}
        row |= _columns("granulated", link.granulated.psi if link.granulated is not None else NOTHING)
        information = link.information
        row |= {
            "information": np.nan if information is None else information.value,
            "information_null": np.nan if information is None else information.null,
            "p_information": np.nan if information is None else information.p,
            "needed": link.needed, "invariance": link.invariance, "note": link.note,
        }  # fmt: skip
        rows.append(row)
    return pd.DataFrame(rows)


def _columns(name: str, interval: Interval) -> dict[str, object]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
