"""Criteria of Jiang et al. (2020), "Fantastic generalization measures and where to find them", section 3.

A raw rank correlation follows whatever hyper-parameter moves both the score and the accuracy. The granulated coefficient
compares only checkpoints that differ in one of them; the conditional mutual information asks whether a score still says
which of two checkpoints is better once one or two hyper-parameters of both are known.
"""

from __future__ import annotations

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


def granulated_kendall(x: np.ndarray, y: np.ndarray, design: Design) -> Granulated:
    """The granulated Kendall coefficient of a score ``x (n,)`` with a target ``y (n,)``.

    The seed is held fixed within a group and is no hyper-parameter of its own. Hyper-parameters that never vary alone have
    no psi. The interval is Student's, from a jackknife over configurations; NaN with fewer than three.
    """
    lines = {name: _line_groups(design, name) for name in design.settings.columns}

    def psis(kept: np.ndarray) -> dict[str, float]:
        found = {}
        for name, groups in lines.items():
            values = design.settings[name].to_numpy()
            left = [index[kept[index]] for index in groups]
            taus = [kendall_a(x[index], y[index]) for index in left if len(set(values[index])) > 1]
            if taus:
                found[name] = float(np.mean(taus))
        return found

    everything = np.ones(len(x), dtype=bool)
    settings = psis(everything)
    value = float(np.mean(list(settings.values()))) if settings else float("nan")
    count = design.configurations
    without = [psis(design.configuration != c) for c in range(count)]
    # a hyper-parameter that one configuration alone varies has no value without it: its psi then stands as it is
    means = [np.mean([part.get(name, settings[name]) for name in settings]) for part in without] if settings else []
    if count < 3 or not settings:
        psi = Interval(value, float("nan"), float("nan"), float("nan"))
    else:
        error = jackknife_stderr(np.array(means))
        reach = student_quantile(0.975, count - 1) * error
        psi = Interval(value, error, max(-1.0, value - reach), min(1.0, value + reach))
    return Granulated(psi, settings, {name: len(lines[name]) for name in settings})


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
    names = list(design.settings.columns)
    codes = {name: design.settings[name].astype("category").cat.codes.to_numpy() for name in names}
    first, second = (index.ravel() for index in np.meshgrid(np.arange(len(x)), np.arange(len(x)), indexing="ij"))
    sets = [chosen for size in range(min(largest, len(names)) + 1) for chosen in itertools.combinations(names, size)]
    cells = []
    for chosen in sets:
        both = [np.zeros(len(first)), *(codes[name][index] for name in chosen for index in (first, second))]
        _, cell = np.unique(np.stack(both, 1), axis=0, return_inverse=True)
        cells.append(cell.ravel())
    vx = np.sign(x[first] - x[second])

    def informations(targets: np.ndarray) -> np.ndarray:
        """``(sets, T)`` for targets ``(T, n)``."""
        vy = np.sign(targets[:, first] - targets[:, second])
        counted = (vx != 0) & (vy != 0)
        return np.stack([_normalised_information(vx > 0, vy > 0, counted, cell) for cell in cells])

    found = informations(y[None])[:, 0]
    by_size: dict[int, float] = {}
    for chosen, value in zip(sets, found, strict=True):
        by_size[len(chosen)] = min(by_size.get(len(chosen), np.inf), float(value))
    least = int(np.argmin(found))
    inside = design.groups(design.nuisance)
    null = np.array([np.nan])
    if exchanges(design, inside):
        orders = permutations_of(design, permutations, seed, inside)
        null = np.concatenate([informations(y[part]).min(0) for part in np.array_split(orders, max(1, len(orders) // 50))])
    p = permutation_p(float(found[least]), null)
    return ConditionalInformation(float(found[least]), sets[least], by_size, float(null.mean()), p)


def _normalised_information(vx: np.ndarray, vy: np.ndarray, counted: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """``(T,)`` values of ``I(V_x; V_y | cell) / H(V_y | cell)``; 0 where V_y is known already.

    Args:
        vx: ``(pairs,)`` bool. vy: ``(T, pairs)`` bool. counted: ``(T, pairs)``, False for ties. cell: ``(pairs,)`` numbers.
    """
    targets, size = len(vy), int(cell.max()) + 1
    index = np.arange(targets)[:, None] * (4 * size) + cell * 4 + vx * 2 + vy
    counts = np.bincount(index.ravel(), counted.ravel().astype(float), minlength=4 * size * targets).reshape(targets, size, 2, 2)
    totals = counts.sum((1, 2, 3))
    shares = counts / np.maximum(totals, 1)[:, None, None, None]

    def entropy(table: np.ndarray) -> np.ndarray:
        flat = table.reshape(targets, -1)
        return np.asarray(-(flat * np.log(np.where(flat > 0, flat, 1.0))).sum(1))

    total = entropy(shares.sum((2, 3)))
    of_y, of_x, joint = (entropy(part) - total for part in (shares.sum(2), shares.sum(3), shares))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(of_y > 1e-12, np.maximum(0.0, (of_x + of_y - joint) / of_y), 0.0))
