"""What linking works out in one go, against the same thing done plainly: loops over resamples, pairs, groups and refits.

With ties, configurations of unequal size, checkpoints that are alone, and weights that are no whole numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from ssa_analysis.linking import links
from ssa_analysis.linking.granulated import PairInformation, conditional_information, granulated_kendall, kendall_a
from ssa_analysis.linking.partial import control_matrix, partial_spearman
from ssa_analysis.linking.power import checkpoints_needed
from ssa_analysis.linking.prediction import STRENGTHS, equal_blocks, left_out_residuals, predict_left_out, ridge_fit
from ssa_analysis.linking.rank import correlations, weighted_kendall, weighted_ranks
from ssa_analysis.linking.resampling import configuration_weights, percentile_interval, permutation_p, permutations_of
from ssa_analysis.linking.table import Design, design_of, note_of, notes_of
from ssa_analysis.numerics.resampling import jackknife_stderr

SIZES = (3, 3, 1, 2, 3, 1, 3, 2, 4, 3)  # checkpoints of each configuration
# the last configuration alone varies alpha
SETTINGS = {"rho": "0110010100", "lr": "aabbabcacc", "tau": "uuuuvvvvuv", "alpha": "0000000001"}
FIELDS = ("value", "stderr", "low", "high")


def uneven() -> Design:
    """Ten configurations of one to four checkpoints, in any order; two methods; two files of one configuration and seed."""
    configuration = np.repeat(np.arange(len(SIZES)), SIZES)
    seed = np.concatenate([np.arange(size) for size in SIZES])
    seed[configuration == 8] = [0, 1, 1, 2]
    order = np.random.default_rng(3).permutation(len(seed))
    configuration, seed = configuration[order], seed[order]
    settings = pd.DataFrame({name: np.array(list(values))[configuration] for name, values in SETTINGS.items()})
    return Design(settings, configuration, np.array(["m", "k"])[(settings["rho"] == "0").astype(int)], seed, np.zeros(len(seed)))


def scores(ties: bool, design: Design) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=design.configurations)[design.configuration] + 0.5 * rng.normal(size=len(design.seed))
    y = 0.7 * x + rng.normal(size=len(x))
    return (x.round(), y.round()) if ties else (x, y)


def plain_ranks(x: np.ndarray, w: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Centred weighted ranks in the groups ``where``, checkpoint by checkpoint."""
    where = np.zeros(len(x)) if where is None else where
    below = [((x < x[i]) + 0.5 * (x == x[i]) - 0.5) * (where == where[i]) for i in range(len(x))]
    return np.array([w @ row for row in below])


def plain_pearson(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    share = w / w.sum()
    dx, dy = x - share @ x, y - share @ y
    vx, vy = share @ dx**2, share @ dy**2
    return float(share @ (dx * dy) / np.sqrt(vx * vy)) if min(vx, vy) > 1e-12 else float("nan")


def plain_kendall(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    agree = untied_x = untied_y = 0.0
    for i in range(len(x)):
        agree += w[i] * w @ (np.sign(x[i] - x) * np.sign(y[i] - y))
        untied_x += w[i] * w @ (x[i] != x)
        untied_y += w[i] * w @ (y[i] != y)
    return agree / np.sqrt(untied_x * untied_y) if untied_x * untied_y > 0 else float("nan")


def plain_partial(x: np.ndarray, y: np.ndarray, columns: np.ndarray, w: np.ndarray) -> float:
    """Least squares by numpy's solver, on rows times the roots of their weights."""
    if (w > 0).sum() <= np.linalg.matrix_rank(columns) + 1:
        return float("nan")
    root = np.sqrt(w)
    rests = []
    for v in (x, y):
        ranks = plain_ranks(v, w)
        fit = np.linalg.lstsq(columns * root[:, None], ranks * root, rcond=1e-10)[0]
        rests.append(ranks - columns @ fit)
    return plain_pearson(*rests, w)


def plain_within(x: np.ndarray, y: np.ndarray, where: np.ndarray, w: np.ndarray) -> float:
    rx, ry = (plain_ranks(v, w, where) for v in (x, y))
    vx, vy = w @ rx**2, w @ ry**2
    return float(w @ (rx * ry) / np.sqrt(vx * vy)) if min(vx, vy) > 1e-9 else float("nan")


@pytest.mark.parametrize("ties", [False, True])
def test_coefficients_of_fractional_weights_are_those_of_loops(ties: bool) -> None:
    d = uneven()
    x, y = scores(ties, d)
    weights = np.random.default_rng(0).gamma(1.0, size=(5, len(x))) * (np.random.default_rng(1).random((5, len(x))) < 0.7)
    found = correlations(x, y, weights)
    for b, w in enumerate(weights):
        np.testing.assert_allclose(weighted_ranks(x, weights)[b], plain_ranks(x, w) + (w.sum() + 1) / 2, rtol=1e-12)
        assert found["pearson"][b] == pytest.approx(plain_pearson(x, y, w), rel=1e-10)
        assert found["spearman"][b] == pytest.approx(plain_pearson(plain_ranks(x, w), plain_ranks(y, w), w), rel=1e-10)
        assert found["kendall"][b] == pytest.approx(plain_kendall(x, y, w), rel=1e-10)


def test_samples_of_one_value_with_fractional_weights_have_no_kendall() -> None:
    """Whatever rounding leaves of the difference of two equal sums."""
    rng = np.random.default_rng(0)
    for size in range(2, 60):
        x = np.array([1.0] * size + [2.0, 2.0, 3.0, 3.0])
        weights = np.column_stack([rng.gamma(1.0, size=(20, size)), np.zeros((20, 4))])
        assert np.isnan(weighted_kendall(x, rng.normal(size=size + 4), weights)).all()


def test_a_resample_of_no_more_rows_than_controls_and_one_has_no_partial_correlation() -> None:
    rng = np.random.default_rng(1)
    x, y, number = rng.normal(size=(3, 8))
    columns = control_matrix(pd.DataFrame(index=range(8)), number)
    found = partial_spearman(x, y, columns, np.array([[1.0, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]]))
    assert (np.isnan(found) == [True, False]).all()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("at_once", [40, 2**17])
def test_a_link_is_made_of_the_plain_coefficients_of_every_resample(
    ties: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "AT_ONCE", at_once)  # in many parts, and in one
    d = uneven()
    x, y = scores(ties, d)
    link = links._Shared(d, y, draws=60, permutations=49, seed=2).link("a.b", x, deep=True)
    columns, where = control_matrix(d.settings[d.nuisance]), d.groups(d.nuisance)
    weights = np.concatenate([np.ones((1, len(x))), configuration_weights(d, 60, 2)])
    coefficients: dict[str, Callable[[np.ndarray], float]] = {
        "pearson": lambda w: plain_pearson(x, y, w),
        "spearman": lambda w: plain_pearson(plain_ranks(x, w), plain_ranks(y, w), w),
        "kendall": lambda w: plain_kendall(x, y, w),
        "partial": lambda w: plain_partial(x, y, columns, w),
        "within": lambda w: plain_within(x, y, where, w),
    }
    for name, coefficient in coefficients.items():
        values = np.array([coefficient(w) for w in weights])
        controls = np.linalg.matrix_rank(columns) - 1 if name == "partial" else 0
        expected = percentile_interval(values[0], values[1:], d.configurations, int(controls))
        for field in FIELDS:
            assert getattr(getattr(link, name), field) == pytest.approx(getattr(expected, field), rel=1e-9, nan_ok=True), name
    ones = np.ones(len(x))
    for found, value, groups in ((link.p, link.spearman.value, None), (link.p_within, link.within.value, where)):
        orders = permutations_of(d, 49, 2, groups)
        null = [plain_within(x, y[order], np.zeros(len(x)) if groups is None else where, ones) for order in orders]
        assert found == permutation_p(value, np.array(null))
    alone = np.random.default_rng(2).multinomial(len(x), ones / len(x), size=links.DESIGN_DRAWS).astype(float)
    spread = np.nanstd([plain_pearson(plain_ranks(x, w), plain_ranks(y, w), w) for w in alone])
    effect = max(1.0, (link.spearman.stderr / spread) ** 2)
    assert link.needed == checkpoints_needed(link.spearman.value, design_effect=effect)
    assert link.granulated == granulated_kendall(x - x.mean(), y - y.mean(), d)
    assert link.information == conditional_information(x, y, d, seed=2)


def plain_granulated(x: np.ndarray, y: np.ndarray, d: Design, kept: np.ndarray) -> dict[str, float]:
    """psi of each hyper-parameter from the kept checkpoints alone, every group found anew."""
    found = {}
    for name in d.settings.columns:
        others = d.settings.drop(columns=name).assign(seed=d.seed)[kept]
        taus = []
        for rows in others.groupby(list(others.columns), sort=False).indices.values():
            index = np.flatnonzero(kept)[rows]
            if d.settings[name].iloc[index].nunique() > 1:
                taus.append(kendall_a(x[index], y[index]))
        if taus:
            found[name] = float(np.mean(taus))
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_the_jackknife_of_the_granulated_coefficient_finds_every_group_anew(ties: bool) -> None:
    d = uneven()
    x, y = scores(ties, d)
    found = granulated_kendall(x, y, d)
    whole = plain_granulated(x, y, d, np.ones(len(x), bool))
    without = [plain_granulated(x, y, d, d.configuration != c) for c in range(d.configurations)]
    assert any(len(part) < len(whole) for part in without)  # some configuration alone varies a hyper-parameter
    means = np.array([np.mean([part.get(name, psi) for name, psi in whole.items()]) for part in without])
    assert found.settings == pytest.approx(whole, rel=1e-12)
    assert found.psi.value == pytest.approx(np.mean(list(whole.values())), rel=1e-12)
    assert found.psi.stderr == pytest.approx(jackknife_stderr(means), rel=1e-9)


def plain_information(x: np.ndarray, y: np.ndarray, cells: list[tuple[int, int]]) -> float:
    """I(V_x; V_y | cell) / H(V_y | cell) over the ordered pairs ``itertools.permutations`` gives, from a table of counts."""
    table: dict[tuple[int, int], np.ndarray] = {}
    for (i, j), cell in zip(itertools.permutations(range(len(x)), 2), cells, strict=True):
        if x[i] != x[j] and y[i] != y[j]:
            table.setdefault(cell, np.zeros((2, 2)))[int(x[i] > x[j]), int(y[i] > y[j])] += 1
    information = entropy = 0.0
    for counts in table.values():
        shares = counts / counts.sum()
        of_x, of_y = shares.sum(1, keepdims=True), shares.sum(0, keepdims=True)
        known = shares > 0
        information += counts.sum() * float((shares[known] * np.log(shares[known] / (of_x * of_y)[known])).sum())
        entropy -= counts.sum() * float((of_y[of_y > 0] * np.log(of_y[of_y > 0])).sum())
    return information / entropy if entropy > 1e-9 else 0.0


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("copies", [1, 70])
def test_the_information_and_its_null_are_counted_pair_by_pair(ties: bool, copies: int) -> None:
    """With 70 checkpoints of one configuration the counts need double precision."""
    d = uneven()
    if copies > 1:
        rows = np.concatenate([np.flatnonzero(d.configuration < 3), np.full(copies, np.flatnonzero(d.configuration == 3)[0])])
        d = d.take(rows)
    x, y = scores(ties, d)
    permutations = 13 if copies == 1 else 3  # not a multiple of what is counted together
    found = conditional_information(x, y, d, permutations=permutations, seed=4)
    together = PairInformation(y, d)
    assert (together.together, together.pairs[0].dtype) == ((2, np.float32) if copies == 1 else (2, np.float64))
    names = list(d.settings.columns)
    values, nulls = {}, []
    orders = permutations_of(d, permutations, 4, d.groups(d.nuisance))
    for size in range(3):
        for chosen in itertools.combinations(names, size):
            groups = d.groups(chosen)
            cells = [(int(groups[i]), int(groups[j])) for i, j in itertools.permutations(range(len(x)), 2)]
            values[chosen] = plain_information(x, y, cells)
            nulls.append([plain_information(x, y[order], cells) for order in orders])
    null = np.min(nulls, axis=0)
    assert found.value == pytest.approx(min(values.values()), rel=1e-9, abs=1e-12)
    for size, value in found.by_size.items():
        least = min(v for chosen, v in values.items() if len(chosen) == size)
        assert value == pytest.approx(least, rel=1e-9, abs=1e-12)
    if copies == 1:
        assert found.null == pytest.approx(null.mean(), rel=1e-9)
        assert found.p == permutation_p(min(values.values()), null)


GROUPS = np.array([4, 0, 0, 7, 7, 7, 7, 2, 4, 9, 9, 9, 0, 5, 2, 9, 1, 1])


def test_left_out_residuals_of_all_strengths_are_refits_without_unequal_groups() -> None:
    rng = np.random.default_rng(2)
    x = np.column_stack([rng.normal(size=(18, 3)), rng.integers(0, 2, 18), np.ones(18)]) * [1, 10, 0.1, 1, 1]
    y = 5 + x @ [1, 0.2, 3, 1, 0] + rng.normal(size=18)
    found = left_out_residuals(x, y, GROUPS, *STRENGTHS)
    for strength, residuals in zip(STRENGTHS, found, strict=True):
        for group in np.unique(GROUPS):
            out = np.isin(GROUPS, group)
            fit = ridge_fit(x[~out], y[~out], strength)
            np.testing.assert_allclose(residuals[out], y[out] - fit[0] - x[out] @ fit[1:], rtol=1e-7)


def test_blocks_of_one_size_hold_every_row_of_their_groups() -> None:
    blocks = equal_blocks(GROUPS)
    assert [rows.shape for rows in blocks] == [(1, 1), (3, 2), (1, 3), (2, 4)]
    assert sorted(np.concatenate([rows.ravel() for rows in blocks])) == list(range(len(GROUPS)))
    for rows in blocks:
        for block in rows:
            assert (np.flatnonzero(np.isin(GROUPS, GROUPS[block[0]])) == np.sort(block)).all()


def test_the_strength_of_a_prediction_is_the_one_that_refits_choose() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(18, 4))
    y = x[:, 0] + 2 * rng.normal(size=18)
    found = predict_left_out(x, y, GROUPS, GROUPS)
    chosen = []
    for group in np.unique(GROUPS):
        out = np.isin(GROUPS, group)
        seen, unseen = ((x[rows] - x[~out].mean(0)) / x[~out].std(0) for rows in (~out, out))
        inner, target = GROUPS[~out], y[~out]
        losses = np.zeros(len(STRENGTHS))
        for k, strength in enumerate(STRENGTHS):
            for left in np.unique(inner):
                fit = ridge_fit(seen[inner != left], target[inner != left], strength)
                losses[k] += np.square(target[inner == left] - fit[0] - seen[inner == left] @ fit[1:]).sum()
        chosen.append(int(losses.argmin()))
        fit = ridge_fit(seen, target, STRENGTHS[chosen[-1]])
        np.testing.assert_allclose(found[out], fit[0] + unseen @ fit[1:], rtol=1e-9)
    assert len(set(chosen)) > 1


def test_notes_of_all_scores_are_the_notes_of_each() -> None:
    marks = ["", "regenerated", "", "", "regenerated", "regenerated"]
    frame = pd.DataFrame({
        "measure": ["shift", "robustness", "robustness", "robustness", "robustness", "robustness"],
        "name": ["gap", "mean_error", "mean_error", "mce", "fog.1", "fog.1"],
        "settings": [{"mark": mark} if mark else {} for mark in marks],
    })  # fmt: skip
    names = {f"{measure}.{name}" for measure, name in zip(frame["measure"], frame["name"], strict=True)}
    assert {name: notes_of(frame).get(name, "") for name in names} == {name: note_of(frame, name) for name in names}
    assert notes_of(frame)["robustness.mean_error"] == "official and regenerated"
    assert notes_of(frame.drop(columns="settings")) == {}


def test_checkpoints_that_differ_in_the_seed_alone_are_one_configuration_whatever_stands_between_them() -> None:
    trainings = [
        {"settings": {"method": "simclr", "lr": lr, "seed": seed}, "epoch": epoch}
        for seed, lr, epoch in ((0, 0.1, 5), (0, 0.2, 5), (1, 0.1, 5), (2, 0.1, 6))
    ]
    frame = pd.DataFrame({"checkpoint": list("abcd"), "method": "simclr", "training": trainings})
    found = design_of(frame)
    assert list(found.configuration) == [0, 1, 0, 2]
    assert (list(found.settings["lr"]), list(found.settings["epochs"])) == (["0.1", "0.2", "0.1", "0.1"], ["5", "5", "5", "6"])
    assert list(found.seed) == [0, 0, 1, 2]


def test_links_that_are_equally_strong_stay_in_the_order_of_the_table() -> None:
    """An accuracy and its error are ranked the other way round: no rounding decides which of them comes first."""
    rng = np.random.default_rng(0)
    target = rng.normal(size=37).round(1)
    rows = []
    for i, score in enumerate(rng.normal(size=37)):
        values = {"shift.a": score, "shift.b": 1 - score, "shift.c": 3 * score, "downstream.probe_accuracy": target[i]}
        rows += [(f"c{i}", "d", *name.split("."), value) for name, value in values.items()]
    frame = pd.DataFrame(rows, columns=["checkpoint", "data", "measure", "name", "value"])
    found = links.link_scores(frame, "downstream.probe_accuracy", draws=20, permutations=19)
    assert [link.score for link in found] == ["shift.a", "shift.b", "shift.c"]
