"""Every score of a store against downstream accuracy: how they go together, at equal settings too, and how sure that is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ssa_analysis.errors import DataError
from ssa_analysis.linking.granulated import ConditionalInformation, Granulated, LineGroups, PairInformation
from ssa_analysis.linking.invariance import invariance_of
from ssa_analysis.linking.partial import Controls, control_matrix, pooled, same_group
from ssa_analysis.linking.power import checkpoints_needed
from ssa_analysis.linking.rank import COEFFICIENTS, Resamples, centred, correlation, kendall, signs
from ssa_analysis.linking.resampling import (
    exchanges,
    holm,
    percentile_interval,
    permutation_p,
    permutations_of,
    unit_weights,
)
from ssa_analysis.linking.table import Design, design_of, notes_of, wide_table
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
    whole, notes = design_of(frame), notes_of(frame)
    shared: dict[tuple[str, ...], _Shared] = {}
    for name in names:
        both = pd.concat([table[name], values], axis=1, keys=["x", "y"], join="inner").dropna()
        if len(both) < MINIMUM or both["x"].nunique() < 2 or both["y"].nunique() < 2:
            continue
        key = tuple(both.index)
        if key not in shared:
            shared[key] = _Shared(whole.of(key), both["y"].to_numpy(float), draws, permutations, seed)
        link = shared[key].link(str(name), both["x"].to_numpy(float), name in deep)
        links.append(replace(link, invariance=invariance_of(str(name)), note=notes.get(str(name), "")))
    adjusted = [holm(np.array([getattr(link, which) for link in links])) for which in ("p", "p_within")]
    links = [
        replace(link, p_holm=float(raw), p_within_holm=float(within)) for link, raw, within in zip(links, *adjusted, strict=True)
    ]
    # an accuracy and its error are equally strong but for rounding: they stay in the order of the table
    return sorted(links, key=lambda link: -round(abs(np.nan_to_num(link.spearman.value)), 12))


class _Shared:
    """What all scores of the same checkpoints share: design, resamples, permutations, and the target's side of everything.

    Row 0 of the weights are the checkpoints themselves, the others are resamples.
    """

    def __init__(self, design: Design, y: np.ndarray, draws: int, permutations: int, seed: int) -> None:
        self.design, self.y, self.seed = design, y - y.mean(), seed
        n = len(y)
        units = np.concatenate([np.ones((1, design.configurations)), unit_weights(design, draws, seed)])
        self.samples = Resamples(units, design.configuration)
        alone = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DESIGN_DRAWS).astype(float)
        self.independent = Resamples(alone)
        self.target = _Variable(self.y, self.samples, self.independent)
        self.null = self._null(self.target.order, permutations_of(design, permutations, seed)) if exchanges(design) else None
        self.controls: Controls | None = None
        if design.nuisance:
            self.controls = Controls(control_matrix(design.settings[design.nuisance]), self.samples.weights)
            self.rest = self.controls.rest(self.target.ranks)
            groups = design.groups(design.nuisance)
            self.same = same_group(groups)
            inside = self.target.order * self.same
            self.inner = pooled(self.samples.centred_ranks(inside), self.samples.weights)
            self.inner_null = None
            if exchanges(design, groups):
                self.inner_null = self._null(inside, permutations_of(design, permutations, seed, groups))

    @cached_property
    def lines(self) -> LineGroups:
        return LineGroups(self.design)

    @cached_property
    def information(self) -> PairInformation:
        return PairInformation(self.y, self.design, seed=self.seed)

    def _null(self, order: np.ndarray, permutations: np.ndarray) -> np.ndarray:
        """``(permutations, n)`` exchanged ranks of the target, to unit length."""
        ranks = _ranks(order)
        return np.asarray((ranks / max(np.linalg.norm(ranks), 1e-300))[permutations])

    def link(self, name: str, x: np.ndarray, deep: bool) -> Link:
        x, design, samples = x - x.mean(), self.design, self.samples
        score = _Variable(x, samples, self.independent)
        spearman = self._interval(correlation(score.centred_ranks, self.target.centred_ranks))
        agreement = samples.pair_sums(score.order * self.target.order)
        link = Link(
            name, len(x), design.configurations,
            pearson=self._interval(correlation(score.centred, self.target.centred)),
            spearman=spearman,
            kendall=self._interval(kendall(agreement, score.untied, self.target.untied)),
            p=self._p(score.order, spearman.value, self.null),
            needed=checkpoints_needed(spearman.value, design_effect=self._design_effect(score, spearman)),
        )  # fmt: skip
        if self.controls is not None:
            inside = score.order * self.same
            within = self._interval(correlation(pooled(samples.centred_ranks(inside), samples.weights), self.inner))
            rest = self.controls.rest(score.ranks)
            link = replace(
                link,
                partial=self._interval(correlation(rest, self.rest), self.controls.rank - 1),
                within=within,
                p_within=self._p(inside, within.value, self.inner_null),
            )
        if deep and len(design.settings.columns):
            link = replace(link, granulated=self.lines.granulated(x, self.y), information=self.information.of(x))
        return link

    def _interval(self, values: np.ndarray, controls: int = 0) -> Interval:
        return percentile_interval(float(values[0]), values[1:], self.design.configurations, controls)

    def _p(self, order: np.ndarray, value: float, null: np.ndarray | None) -> float:
        """By the correlation of the score's ranks, from the signs ``order (n, n)``, with the exchanged ones of the target."""
        if null is None:
            return float("nan")
        ranks = _ranks(order)
        length = float(np.linalg.norm(ranks))
        return permutation_p(value, null @ ranks / length) if length > 0 else float("nan")

    def _design_effect(self, score: _Variable, spearman: Interval) -> float:
        """Variance over that of a bootstrap which takes checkpoints for independent; at least 1."""
        plain = np.nanstd(correlation(score.independent_ranks, self.target.independent_ranks))
        ratio = (spearman.stderr / plain) ** 2 if plain > 0 else 1.0
        return float(ratio) if np.isfinite(ratio) and ratio > 1 else 1.0


class _Variable:
    """A score or the target in all resamples, of configurations and of checkpoints taken for independent."""

    def __init__(self, x: np.ndarray, samples: Resamples, independent: Resamples) -> None:
        self.order = signs(x)
        self.centred = centred(x, samples.weights)
        self.ranks = samples.centred_ranks(self.order)
        self.centred_ranks = centred(self.ranks, samples.weights)
        self.independent_ranks = centred(independent.centred_ranks(self.order), independent.weights)
        self.untied = samples.untied(x)


def _ranks(order: np.ndarray) -> np.ndarray:
    """``(n,)`` centred ranks from signs ``(n, n)``."""
    return 0.5 * order.sum(1, dtype=float)


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
