"""Criteria of Jiang et al. (2020), "Fantastic generalization measures and where to find them", section 3.

A raw rank correlation follows whatever hyper-parameter moves both the score and the accuracy. The granulated coefficient
compares only checkpoints that differ in one of them; the conditional mutual information asks whether a score still says
which of two checkpoints is better once one or two hyper-parameters of both are known.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from ssa_analysis.linking.resampling import exchanges, permutation_p, permutations_of
from ssa_analysis.linking.table import Design
from ssa_analysis.numerics.laws import student_quantile
from ssa_analysis.numerics.resampling import Interval, jackknife_stderr


@dataclass(frozen=True)
class Granulated:
    """Psi (eq. 4 and 5) and what it is the mean of: psi of each hyper-parameter, with the number of groups behind it."""

    psi: Interval
    settings: dict[str, float]
    groups: dict[str, int]


def kendall_a(x: np.ndarray, y: np.ndarray) -> float:
    """Mean of ``sign(x_i - x_j) sign(y_i - y_j)`` over pairs (eq. 2): ties count as nothing."""
    sx, sy = (np.sign(v[:, None] - v[None, :]) for v in (x, y))
    return float((sx * sy).sum() / (len(x) * (len(x) - 1)))


def _line_groups(design: Design, name: str) -> list[np.ndarray]:
    """Rows of the groups that differ in one hyper-parameter alone, the seed being equal, with at least two values of it."""
    others = [column for column in design.settings.columns if column != name]
    table = design.settings[others].assign(seed=design.seed)
    rows = [np.asarray(index) for index in table.groupby(list(table.columns), sort=False).indices.values()]
    values = design.settings[name].to_numpy()
    return [index for index in rows if len(set(values[index])) > 1]


class _Lines:
    """The groups in which one hyper-parameter varies alone, as the pairs of checkpoints in them.

    Attributes:
        first, second: ``(P,)`` rows of the pairs. group: ``(P,)`` the group of each. pairs: ``(groups,)`` how many.
        cell_group, cell_configuration: ``(K,)`` the pairs of a group and a configuration in it.
        touched: the numbers of pair and cell for which a row of the pair is of the cell's configuration.
        left: ``(K,)`` how many pairs the group has without the configuration; 0 where no two values are left.
    """

    def __init__(self, lines: list[np.ndarray], values: np.ndarray, configuration: np.ndarray) -> None:
        pairs = [rows[np.stack(np.triu_indices(len(rows), 1))] for rows in lines]
        self.first, self.second = np.concatenate(pairs, axis=1)
        self.pairs = np.array([found.shape[1] for found in pairs])
        self.group = np.repeat(np.arange(len(lines)), self.pairs)
        cells = [(g, c) for g, rows in enumerate(lines) for c in np.unique(configuration[rows])]
        self.cell_group, self.cell_configuration = np.array(cells).T
        number = {cell: k for k, cell in enumerate(cells)}
        ends = zip(*(part.tolist() for part in (self.group, configuration[self.first], configuration[self.second])), strict=True)
        self.touched = np.array([(pair, number[g, c]) for pair, (g, a, b) in enumerate(ends) for c in {a, b}]).T
        kept = [lines[g][configuration[lines[g]] != c] for g, c in cells]
        self.left = np.array([len(rows) * (len(rows) - 1) // 2 if len(set(values[rows])) > 1 else 0 for rows in kept])

    def psis(self, x: np.ndarray, y: np.ndarray, configurations: int) -> tuple[float, np.ndarray]:
        """The mean of Kendall's coefficient over the groups; ``(configurations,)`` without each one, NaN without groups."""
        agree = np.sign(x[self.first] - x[self.second]) * np.sign(y[self.first] - y[self.second])
        sums = np.bincount(self.group, agree)
        taus = sums / self.pairs
        pair, cell = self.touched
        rest = sums[self.cell_group] - np.bincount(cell, agree[pair], len(self.left))
        # without a configuration its groups have what is left of them, the others what they had
        change = np.where(self.left > 0, rest / np.maximum(self.left, 1), 0.0) - taus[self.cell_group]
        total = taus.sum() + np.bincount(self.cell_configuration, change, configurations)
        count = len(taus) - np.bincount(self.cell_configuration, self.left == 0, configurations)
        return float(taus.mean()), np.where(count > 0, total / np.maximum(count, 1), np.nan)


class LineGroups:
    """The groups in which one hyper-parameter varies alone, and the granulated coefficient of any score over them."""

    def __init__(self, design: Design) -> None:
        self.configurations = design.configurations
        lines = {name: _line_groups(design, name) for name in design.settings.columns}
        self.lines = {
            name: _Lines(groups, design.settings[name].to_numpy(), design.configuration)
            for name, groups in lines.items()
            if groups
        }

    def granulated(self, x: np.ndarray, y: np.ndarray) -> Granulated:
        """As :func:`granulated_kendall`."""
        found = {name: lines.psis(x, y, self.configurations) for name, lines in self.lines.items()}
        settings = {name: psi for name, (psi, _) in found.items()}
        value = float(np.mean(list(settings.values()))) if settings else float("nan")
        if self.configurations < 3 or not settings:
            psi = Interval(value, float("nan"), float("nan"), float("nan"))
        else:
            # a hyper-parameter that one configuration alone varies has no value without it: its psi then stands as it is
            parts = [np.where(np.isnan(without), psi, without) for psi, without in found.values()]
            error = jackknife_stderr(np.mean(parts, axis=0))
            reach = student_quantile(0.975, self.configurations - 1) * error
            psi = Interval(value, error, max(-1.0, value - reach), min(1.0, value + reach))
        return Granulated(psi, settings, {name: len(lines.pairs) for name, lines in self.lines.items()})


def granulated_kendall(x: np.ndarray, y: np.ndarray, design: Design) -> Granulated:
    """The granulated Kendall coefficient of a score ``x (n,)`` with a target ``y (n,)``.

    The seed is held fixed within a group and is no hyper-parameter of its own. Hyper-parameters that never vary alone have
    no psi. The interval is Student's, from a jackknife over configurations; NaN with fewer than three.
    """
    return LineGroups(design).granulated(x, y)


@dataclass(frozen=True)
class ConditionalInformation:
    """K (eq. 9): the least normalised conditional mutual information over sets of at most two hyper-parameters.

    Attributes:
        value: in [0, 1]; 0 where some set of hyper-parameters explains all that the score says.
        given: the hyper-parameters at which the least is taken. by_size: the least for sets of 0, 1 and 2.
        null: mean of K when configurations are exchanged at random among those with equal nuisance settings: with few
            checkpoints it is far from 0. p: one-sided p-value of these exchanges. NaN where there is nothing to exchange.
    """

    value: float
    given: tuple[str, ...]
    by_size: dict[int, float]
    null: float
    p: float


def conditional_information(
    x: np.ndarray, y: np.ndarray, design: Design, *, largest: int = 2, permutations: int = 200, seed: int = 0
) -> ConditionalInformation:
    """How much of "which of the two is better" a score ``x (n,)`` tells of pairs of checkpoints, given hyper-parameters.

    ``I(V_x; V_y | U_S) / H(V_y | U_S)`` by its plug-in estimate over all ordered pairs whose values differ, where V is the
    sign of the difference and ``U_S`` the values of the hyper-parameters S of both (eq. 6 to 9).
    """
    return PairInformation(y, design, largest=largest, permutations=permutations, seed=seed).of(x)


class PairInformation:
    """:func:`conditional_information` of any score with one target: what is the same for all scores is worked out once.

    A pair ``(i, j)`` with ``x_i > x_j`` is counted in the cell of the groups of i and j; that with ``x_i < x_j`` is the same
    pair the other way round, so it need not be counted. Groups are the finest first, those that agree in all settings:
    the cells of every set of hyper-parameters are sums of theirs.
    """

    def __init__(self, y: np.ndarray, design: Design, *, largest: int = 2, permutations: int = 200, seed: int = 0) -> None:
        names = list(design.settings.columns)
        self.sets = [chosen for size in range(min(largest, len(names)) + 1) for chosen in itertools.combinations(names, size)]
        finest = design.groups(names)
        sizes = np.bincount(finest)
        # one number holds, as its digits, the counts of a cell for several targets: of y_i > y_j and of y_i < y_j for each
        bits = int(sizes.max() ** 2).bit_length()
        self.radix, single = 2.0**bits, 2 * bits <= 24 and len(y) < 4096
        self.together = max(1, (24 if single else 52) // (2 * bits))
        real = np.float32 if single else np.float64
        pairs = (y[:, None] > y[None, :]) + self.radix * (y[:, None] < y[None, :])
        self.pairs = [(pairs * self.radix ** (2 * k)).astype(real) for k in range(self.together)]
        self.members = np.eye(len(sizes), dtype=real)[finest]  # (n, finest groups)
        first = np.unique(finest, return_index=True)[1]
        groups = [design.groups(chosen)[first] for chosen in self.sets]
        coarser = [np.eye(int(found.max()) + 1, dtype=real)[found] for found in groups]  # (finest groups, groups) each
        self.coarser = np.concatenate(coarser, axis=1)
        edges = np.cumsum([0, *(part.shape[1] for part in coarser)])
        self.columns = [slice(start, stop) for start, stop in itertools.pairwise(edges)]  # of each set
        inside = design.groups(design.nuisance)
        self.orders = permutations_of(design, permutations, seed, inside) if exchanges(design, inside) else None

    def of(self, x: np.ndarray) -> ConditionalInformation:
        found = self._informations(x, np.arange(len(x))[None])[:, 0]
        by_size: dict[int, float] = {}
        for chosen, value in zip(self.sets, found, strict=True):
            by_size[len(chosen)] = min(by_size.get(len(chosen), np.inf), float(value))
        least = int(np.argmin(found))
        null = np.array([np.nan])
        if self.orders is not None:
            at_once = max(1, 2**20 // self.members.shape[1] ** 2)
            parts = np.array_split(self.orders, -(-len(self.orders) // at_once))
            null = np.concatenate([self._informations(x, part).min(0) for part in parts])
        p = permutation_p(float(found[least]), null)
        return ConditionalInformation(float(found[least]), self.sets[least], by_size, float(null.mean()), p)

    def _informations(self, x: np.ndarray, orders: np.ndarray) -> np.ndarray:
        """``(sets, T)`` for the targets exchanged by ``orders (T, n)``."""
        counts = self._counts(x, orders)
        fine = counts.shape[-1]
        by_second = (counts.reshape(-1, fine) @ self.coarser).reshape(*counts.shape[:3], -1)
        found = []
        for columns in self.columns:
            part = self.coarser[:, columns]
            turned = by_second[..., columns].swapaxes(2, 3)  # (2, T, groups of j, finest groups of i)
            cells = (turned.reshape(-1, fine) @ part).reshape(*turned.shape[:3], -1)
            found.append(_normalised_information(*cells))
        return np.stack(found)

    def _counts(self, x: np.ndarray, orders: np.ndarray) -> np.ndarray:
        """``(2, T, G, G)`` pairs with ``x_i > x_j`` by the finest groups of i and j: those with ``y_i > y_j``, and ``<``."""
        order = np.argsort(x)
        members, x = self.members[order], x[order]
        above = (x[:, None] > x[None, :]).astype(members.dtype)
        groups = members.shape[1]
        counts = np.empty((2, len(orders), groups, groups), dtype=members.dtype)
        edges = np.linspace(0, len(x), 6).astype(int)  # blocks of rows: x_i > x_j only where j is not after the block
        for begin in range(0, len(orders), self.together):
            targets = orders[begin : begin + self.together][:, order]
            total = np.zeros((groups, groups), dtype=members.dtype)
            for start, stop in itertools.pairwise(edges):
                rows = (pairs[t[start:stop]].take(t[:stop], axis=1) for pairs, t in zip(self.pairs, targets, strict=False))
                found = functools.reduce(np.add, rows) * above[start:stop, :stop]
                total += members[start:stop].T @ (found @ members[:stop])
            for number in range(2 * len(targets)):
                rest = np.floor(total / self.radix)
                counts[number % 2, begin + number // 2] = total - self.radix * rest
                total = rest
        return counts


def _normalised_information(more: np.ndarray, less: np.ndarray) -> np.ndarray:
    """``(T,)`` values of ``I(V_x; V_y | cell) / H(V_y | cell)``; 0 where V_y is known already.

    Args:
        more, less: ``(T, G, G)`` pairs (i, j) with ``x_i > x_j`` by the groups of j and i, those with ``y_i > y_j`` and ``<``.
    """
    more, less = more.astype(float), less.astype(float)
    turned = less.swapaxes(1, 2)
    totals = np.maximum(2 * (more + less).sum((1, 2)), 1)

    def entropy(counts: np.ndarray) -> np.ndarray:
        shares = counts / totals[:, None, None]
        return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum((1, 2)))

    # a cell (a, b) holds what (b, a) holds the other way round: each entropy is twice that over x_i > x_j
    total = entropy(more + less + turned + more.swapaxes(1, 2))
    of_x, of_y = 2 * entropy(more + less) - total, 2 * entropy(more + turned) - total
    joint = 2 * (entropy(more) + entropy(less)) - total
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(of_y > 1e-12, np.maximum(0.0, (of_x + of_y - joint) / of_y), 0.0))
