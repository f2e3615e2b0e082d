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
from ssa_analysis.linking.rank import (
    COEFFICIENTS,
    Centred,
    centred,
    centred_ranks,
    correlation,
    kendall,
    pair_sums,
    signs,
    untied,
    weighed,
)
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
AT_ONCE = 2**17  # weights of checkpoints in resamples that are worked out together: they stay in the processor's cache
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
        have = "checkpoint has" if len(values) == 1 else "checkpoints have"
        raise DataError(f"{len(values)} {have} {target}; correlations need at least {MINIMUM}")
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
    return sorted(links, key=lambda link: -abs(np.nan_to_num(link.spearman.value)))


class _Shared:
    """What all scores of the same checkpoints share: design, resamples, permutations, and the target's side of everything.

    Row 0 of the weights are the checkpoints themselves, the others are resamples.
    """

    def __init__(self, design: Design, y: np.ndarray, draws: int, permutations: int, seed: int) -> None:
        self.design, self.y, self.seed = design, _about_one(y), seed
        n = len(y)
        self.weights = np.concatenate([np.ones((1, design.configurations)), unit_weights(design, draws, seed)])
        self.independent = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DESIGN_DRAWS).astype(float)
        self.controls = control_matrix(design.settings[design.nuisance]) if design.nuisance else None
        groups = design.groups(design.nuisance)
        self.same = same_group(groups)
        self.members = np.eye(design.configurations, dtype=np.float32)[design.configuration]  # (n, configurations)
        self.target = self._variable(self.y)
        self.untied = untied(self.y, self.weights, design.configuration)
        self.independent_ranks = self._independent_ranks(self.target)
        parts = np.array_split(self.weights, -(-self.weights.shape[0] * n // AT_ONCE))
        self.parts = [Resamples(part, design.configuration, self.controls, self.target) for part in parts]
        self.null = self._null(self.target.order, permutations_of(design, permutations, seed)) if exchanges(design) else None
        self.inner_null = None
        if design.nuisance and exchanges(design, groups):
            self.inner_null = self._null(self.target.inside, permutations_of(design, permutations, seed, groups))

    def _variable(self, x: np.ndarray) -> Variable:
        order = signs(x)
        inside = order * self.same
        return Variable(x, order, inside, order @ self.members, inside @ self.members)

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
        design, score = self.design, self._variable(_about_one(x))
        found = np.concatenate([part.correlations(score) for part in self.parts], axis=1)
        pearson, spearman = (self._interval(values) for values in found[:2])
        link = Link(
            name, len(x), design.configurations, pearson, spearman, self._interval(self._kendall(score)),
            p=self._p(score.order, spearman.value, self.null),
            needed=checkpoints_needed(spearman.value, design_effect=self._design_effect(score, spearman)),
        )  # fmt: skip
        if self.controls is not None:
            within = self._interval(found[2])
            partial = self._interval(found[3], int(np.linalg.matrix_rank(self.controls)) - 1)
            p_within = self._p(score.inside, within.value, self.inner_null)
            link = replace(link, partial=partial, within=within, p_within=p_within)
        if deep and len(design.settings.columns):
            link = replace(link, granulated=self.lines.granulated(score.x, self.y), information=self.information.of(score.x))
        return link

    def _kendall(self, score: Variable) -> np.ndarray:
        agreement = self.members.T @ ((score.order * self.target.order) @ self.members).astype(float)
        untied_score = untied(score.x, self.weights, self.design.configuration)
        return kendall(pair_sums(agreement, self.weights), untied_score, self.untied)

    def _interval(self, values: np.ndarray, controls: int = 0) -> Interval:
        return percentile_interval(float(values[0]), values[1:], self.design.configurations, controls)

    def _p(self, order: np.ndarray, value: float, null: np.ndarray | None) -> float:
        """By the correlation of the score's ranks, from the signs ``order (n, n)``, with the exchanged ones of the target."""
        if null is None:
            return float("nan")
        ranks = _ranks(order)
        length = float(np.linalg.norm(ranks))
        return permutation_p(value, null @ ranks / length) if length > 0 else float("nan")

    def _independent_ranks(self, variable: Variable) -> Centred:
        return centred(centred_ranks(variable.order, self.independent), self.independent)

    def _design_effect(self, score: Variable, spearman: Interval) -> float:
        """Variance over that of a bootstrap which takes checkpoints for independent; at least 1."""
        plain = np.nanstd(correlation(self._independent_ranks(score), self.independent_ranks))
        ratio = (spearman.stderr / plain) ** 2 if plain > 0 else 1.0
        return float(ratio) if np.isfinite(ratio) and ratio > 1 else 1.0


def _about_one(x: np.ndarray) -> np.ndarray:
    """``(n,)`` values less their mean, over a power of two: no digit changes, and no square leaves double precision."""
    x = np.ldexp(x, -int(np.frexp(np.abs(x).max())[1]))
    return np.asarray(x - x.mean())


@dataclass(frozen=True)
class Variable:
    """A score or the target of n checkpoints, and what its ranks are made of.

    Attributes:
        x: ``(n,)``. order: ``(n, n)`` signs of its differences; inside: 0 where settings differ.
        sums, sums_inside: ``(n, configurations)`` these summed over the checkpoints of a configuration, as a resample weighs
            them all alike.
    """

    x: np.ndarray
    order: np.ndarray
    inside: np.ndarray
    sums: np.ndarray
    sums_inside: np.ndarray


class Resamples:
    """Some resamples and the target in them; few, so that what is worked out stays near the processor.

    Args:
        weights: ``(B, configurations)``. configuration: ``(n,)``. controls: ``(n, q)``, if any.
    """

    def __init__(self, weights: np.ndarray, configuration: np.ndarray, controls: np.ndarray | None, target: Variable) -> None:
        self.of_units, self.weights = weights, weights[:, configuration]
        self.controls = None if controls is None else Controls(controls, self.weights)
        self.target = self._sides(target)

    def correlations(self, score: Variable) -> np.ndarray:
        """``(2, B)`` Pearson's and Spearman's, and with controls ``(4, B)`` Spearman's within groups, and partial."""
        return np.stack([correlation(x, y) for x, y in zip(self._sides(score), self.target, strict=True)])

    def _sides(self, variable: Variable) -> list[Centred]:
        ranks = centred_ranks(variable.sums, self.of_units)
        noise = 1e-14 * self.weights.sum(1) ** 3
        sides = [centred(variable.x, self.weights), weighed(ranks, self.weights, noise)]
        if self.controls is not None:
            sides.append(pooled(centred_ranks(variable.sums_inside, self.of_units), self.weights))
            sides.append(self.controls.rest(ranks))
        return sides


def _ranks(order: np.ndarray) -> np.ndarray:
    """``(n,)`` centred ranks from signs ``(n, n)``."""
    return np.asarray(0.5 * order.sum(1, dtype=float))


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
