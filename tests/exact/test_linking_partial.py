"""Partial, within-group and granulated coefficients: pingouin, closed forms, a table worked out by hand, and simulations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from ssa_analysis.linking.granulated import conditional_information, granulated_kendall, kendall_a
from ssa_analysis.linking.partial import control_matrix, partial_spearman, within_groups
from ssa_analysis.linking.rank import correlations
from ssa_analysis.linking.resampling import (
    configuration_weights,
    exchanges,
    holm,
    percentile_interval,
    permutation_p,
    permutations_of,
)
from ssa_analysis.linking.table import Design

ONES = np.ones((1, 60))


def design(settings: dict[str, list[str]], seeds: list[int], method: list[str] | None = None) -> Design:
    """A design from columns of settings; rows with equal settings are one configuration."""
    table = pd.DataFrame(settings)
    configuration = np.asarray(table.groupby(list(table.columns), sort=False).ngroup())
    n = len(table)
    return Design(table, configuration, np.array(method or ["m"] * n), np.array(seeds), np.zeros(n))


def grid(seeds: int = 3) -> Design:
    """rho x alpha x lr x tau, each configuration with some seeds: the shape of a study."""
    rows = [
        (rho, alpha, lr, tau, s)
        for rho in ("0", "0.1") for alpha in ("0", "1") for lr in ("a", "b", "c") for tau in ("u", "v") for s in range(seeds)
    ]  # fmt: skip
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("rho", "alpha", "lr", "tau"))}
    return design(columns, [row[4] for row in rows], [f"{row[0]} {row[1]}" for row in rows])


def draw(rng: np.random.Generator, d: Design, relation: float, nuisance: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """A score and an accuracy that both follow lr and tau, and are related by ``relation`` at equal lr and tau.

    Seeds of a configuration are alike: most of the spread is between configurations.
    """
    table = d.settings
    effect = {(c, v): rng.normal() for c in ("lr", "tau") for v in table[c].unique()}
    pairs = zip(table["lr"], table["tau"], strict=True)
    base = nuisance * np.array([effect["lr", lr] + effect["tau", tau] for lr, tau in pairs])

    def pair(size: int) -> tuple[np.ndarray, np.ndarray]:
        first = rng.normal(size=size)
        return first, relation * first + np.sqrt(1 - relation**2) * rng.normal(size=size)

    (ux, uy), (ex, ey) = pair(d.configurations), pair(len(table))
    return base + ux[d.configuration] + 0.5 * ex, base + uy[d.configuration] + 0.5 * ey


@pytest.mark.parametrize("ties", [False, True])
def test_partial_spearman_is_pingouins(ties: bool) -> None:
    pingouin = pytest.importorskip("pingouin", reason="pingouin is not installed")
    rng = np.random.default_rng(0)
    c1, c2 = rng.normal(size=(2, 60))
    x, y = c1 + 0.5 * c2 + rng.normal(size=60), c1 - c2 + rng.normal(size=60)
    if ties:
        x, y = x.round(), y.round()
    table = pd.DataFrame({"x": x, "y": y, "c1": c1, "c2": c2})
    known = float(pingouin.partial_corr(table, "x", "y", covar=["c1", "c2"], method="spearman")["r"].iloc[0])
    controls = control_matrix(pd.DataFrame(index=range(60)), c1, c2)
    assert partial_spearman(x, y, controls, ONES)[0] == pytest.approx(known, abs=1e-10)


def test_categories_are_controlled_for_as_pingouin_does_with_dummies() -> None:
    pingouin = pytest.importorskip("pingouin", reason="pingouin is not installed")
    rng = np.random.default_rng(1)
    group = rng.integers(0, 3, 60)
    x, y = group + rng.normal(size=60), group**2 + rng.normal(size=60)
    table = pd.DataFrame({"x": x, "y": y, "b": (group == 1).astype(float), "c": (group == 2).astype(float)})
    known = float(pingouin.partial_corr(table, "x", "y", covar=["b", "c"], method="spearman")["r"].iloc[0])
    controls = control_matrix(pd.DataFrame({"group": group.astype(str)}))
    assert controls.shape == (60, 3)
    assert partial_spearman(x, y, controls, ONES)[0] == pytest.approx(known, abs=1e-10)


def test_a_resample_is_the_coefficient_of_its_rows_written_out() -> None:
    rng = np.random.default_rng(2)
    group = np.repeat(["a", "b", "c"], 6)
    x, y = rng.normal(size=(2, 18))
    weights = rng.multinomial(18, np.full(18, 1 / 18), size=20)
    codes = np.unique(group, return_inverse=True)[1]
    controls = control_matrix(pd.DataFrame({"group": group}))
    partial, within = partial_spearman(x, y, controls, weights.astype(float)), within_groups(x, y, codes, weights.astype(float))
    for row, counts in enumerate(weights):
        index = np.repeat(np.arange(18), counts)
        one = np.ones((1, len(index)))
        written = control_matrix(pd.DataFrame({"group": group[index]}))
        assert partial[row] == pytest.approx(partial_spearman(x[index], y[index], written, one)[0], abs=1e-9)
        assert within[row] == pytest.approx(within_groups(x[index], y[index], codes[index], one)[0], abs=1e-9)


def test_within_one_group_it_is_spearmans_coefficient_and_within_two_it_is_pooled() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 20)).round(1)
    assert within_groups(x, y, np.zeros(20, int), np.ones((1, 20)))[0] == pytest.approx(spearmanr(x, y).statistic)
    # two groups that agree inside and are opposed to each other: +1 within, negative over all
    x, y = np.array([1.0, 2, 3, 11, 12, 13]), np.array([11.0, 12, 13, 1, 2, 3])
    groups = np.array([0, 0, 0, 1, 1, 1])
    assert within_groups(x, y, groups, np.ones((1, 6)))[0] == pytest.approx(1.0)
    assert spearmanr(x, y).statistic < 0


def test_what_the_controls_explain_has_no_partial_correlation() -> None:
    group = np.repeat(["a", "b", "c"], 5)
    x = np.repeat([1.0, 5.0, 2.0], 5)
    found = partial_spearman(x, np.arange(15.0), control_matrix(pd.DataFrame({"group": group})), np.ones((1, 15)))
    assert np.isnan(found[0])


# rho and lr at one seed. psi of rho: lr=1: (1, 5) against (2, 4): opposed, -1; lr=2: (3, 6) against (4, 8): agree, +1; mean 0.
# psi of lr: rho=0: (1, 5), (3, 6): +1; rho=1: (2, 4), (4, 8): +1; mean 1. Psi = 1/2.
HAND = design({"rho": ["0", "1", "0", "1"], "lr": ["1", "1", "2", "2"]}, [0, 0, 0, 0])
HAND_X, HAND_Y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 4.0, 6.0, 8.0])


def test_the_granulated_coefficient_of_a_table_worked_out_by_hand() -> None:
    found = granulated_kendall(HAND_X, HAND_Y, HAND)
    assert found.settings == {"rho": 0.0, "lr": 1.0}
    assert found.groups == {"rho": 2, "lr": 2}
    assert found.psi.value == 0.5


def test_a_group_is_of_one_seed_and_ties_count_as_nothing() -> None:
    """The second seed's rows would turn the coefficients over if seeds were mixed."""
    both = design({"rho": ["0", "1"] * 4, "lr": ["1", "1", "2", "2"] * 2}, [0] * 4 + [1] * 4)
    x, y = np.concatenate([HAND_X, 100 - HAND_X]), np.concatenate([HAND_Y, -100 - HAND_Y])
    assert granulated_kendall(x, y, both).settings == {"rho": 0.0, "lr": 1.0}
    assert kendall_a(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / 3)


def test_a_setting_that_never_varies_alone_has_no_coefficient() -> None:
    d = design({"rho": ["0", "1", "0", "1"], "alpha": ["0", "1", "0", "1"]}, [0, 0, 1, 1])
    found = granulated_kendall(HAND_X, HAND_Y, d)
    assert (found.settings, np.isnan(found.psi.value)) == ({}, True)


def test_the_information_of_a_table_worked_out_by_hand() -> None:
    """x tells the sign of every pair of y but (0, 1): of 12 ordered pairs 10 agree."""
    found = conditional_information(HAND_X, HAND_Y, HAND, permutations=20)
    share = 10 / 12
    expected = 1 + (share * np.log(share) + (1 - share) * np.log(1 - share)) / np.log(2)
    assert found.by_size[0] == pytest.approx(expected)
    assert set(found.by_size) == {0, 1, 2}
    # given both settings of both, no pair is left in doubt: the information is nothing
    assert found.by_size[2] == 0.0
    assert found.given == ("rho", "lr")


def information_by_definition(x: np.ndarray, y: np.ndarray, d: Design, given: tuple[str, ...]) -> float:
    """I(V_x; V_y | U) / H(V_y | U) from tables of counts, pair by pair."""
    table: dict[tuple[str, ...], list[tuple[bool, bool]]] = {}
    for i in range(len(x)):
        for j in range(len(x)):
            if x[i] != x[j] and y[i] != y[j]:
                cell = tuple(str(d.settings[name].iloc[row]) for name in given for row in (i, j))
                table.setdefault(cell, []).append((bool(x[i] > x[j]), bool(y[i] > y[j])))
    total = sum(map(len, table.values()))
    information = entropy = 0.0
    for pairs in table.values():
        weight = len(pairs) / total
        both = {p: pairs.count(p) / len(pairs) for p in set(pairs)}
        of_x, of_y = ({v: sum(s for p, s in both.items() if p[k] == v) for v in (True, False)} for k in (0, 1))
        information += weight * sum(s * np.log(s / (of_x[a] * of_y[b])) for (a, b), s in both.items())
        entropy -= weight * sum(s * np.log(s) for s in of_y.values() if s)
    return information / entropy if entropy > 1e-12 else 0.0


def test_the_information_is_its_definition_with_ties_and_unequal_cells() -> None:
    columns = {"a": list("00011222"), "b": list("uvvuvuuv")}
    d = design(columns, [0, 0, 1, 0, 0, 0, 1, 0])
    rng = np.random.default_rng(7)
    x, y = rng.integers(0, 4, 8).astype(float), rng.integers(0, 5, 8).astype(float)
    known = {given: information_by_definition(x, y, d, given) for given in ((), ("a",), ("b",), ("a", "b"))}
    found = conditional_information(x, y, d, permutations=10)
    assert found.by_size[0] == pytest.approx(known[()])
    assert found.by_size[1] == pytest.approx(min(known[("a",)], known[("b",)]))
    assert found.by_size[2] == pytest.approx(known[("a", "b")])
    assert found.value == pytest.approx(min(known.values()))


def test_a_permutation_p_counts_the_observed_order_itself() -> None:
    assert permutation_p(0.9, np.linspace(-0.8, 0.8, 19)) == 1 / 20
    assert permutation_p(-0.5, np.array([0.5, -0.6, 0.1, np.nan])) == 3 / 4


def test_information_is_all_of_it_for_a_score_that_orders_the_accuracies() -> None:
    d = design({"rho": ["0"] * 6 + ["1"] * 6}, list(range(6)) * 2)
    x = np.random.default_rng(0).permutation(12).astype(float)
    found = conditional_information(x, x**3, d, permutations=10)
    assert found.value == pytest.approx(1.0)
    assert conditional_information(x, np.roll(x, 5), d, permutations=10).value < 0.6


def test_holm_is_the_step_down_rule() -> None:
    """Holm 1979: 0.01 x 4, then 0.02 x 3, then 0.03 x 2 raised to the largest before it, 0.9."""
    found = holm(np.array([0.03, np.nan, 0.01, 0.9, 0.02]))
    assert found[[2, 4, 0, 3]] == pytest.approx([0.04, 0.06, 0.06, 0.9])
    assert np.isnan(found[1])
    assert holm(np.array([0.4, 0.6])).tolist() == [0.8, 0.8]


def test_blocks_are_exchanged_whole_and_inside_their_group() -> None:
    d = grid()
    groups = d.groups(["lr", "tau"])
    orders = permutations_of(d, 50, 0, groups)
    assert (np.sort(orders, axis=1) == np.arange(len(d.seed))).all()
    assert (d.seed[orders] == d.seed).all()
    assert (groups[orders] == groups).all()
    blocks = d.configuration[orders].reshape(50, -1, 3)
    assert (blocks == blocks[:, :, :1]).all()
    assert (orders != np.arange(len(d.seed))).any()
    assert not exchanges(d, d.configuration)


def test_resamples_keep_configurations_and_methods_and_the_right_variance() -> None:
    """The variance of a mean over resamples is s^2/m in each method, not (m - 1)/m of it."""
    d = grid()
    weights = configuration_weights(d, 4000, 0)
    blocks = weights.reshape(4000, -1, 3)
    assert (blocks == blocks[:, :, :1]).all()
    for method in np.unique(d.method):
        inside = d.method == method
        assert weights[:, inside].sum(1) == pytest.approx(inside.sum())
    values = np.random.default_rng(1).normal(size=d.configurations)[d.configuration]
    inside = d.method == d.method[0]
    means = (weights[:, inside] * values[inside]).sum(1) / inside.sum()
    expected = np.var(values[inside][::3], ddof=1) / (inside.sum() / 3)
    assert means.var() == pytest.approx(expected, rel=0.08)


def test_few_configurations_have_no_interval() -> None:
    assert np.isnan(percentile_interval(0.5, np.linspace(0, 1, 100), units=3).low)
    assert np.isnan(percentile_interval(0.5, np.r_[np.full(60, np.nan), np.linspace(0, 1, 40)]).low)
    assert percentile_interval(0.5, np.linspace(0, 1, 101)).low == pytest.approx(0.025)
    assert np.isnan(percentile_interval(0.5, np.linspace(0, 1, 101), units=7, controls=2).low)
    assert percentile_interval(0.5, np.linspace(0, 1, 101), units=8, controls=2).low == pytest.approx(0.025)


REPEATS = 120


@pytest.fixture(scope="module")
def simulated() -> dict[float, pd.DataFrame]:
    """Studies in which score and accuracy both follow lr and tau; at equal lr and tau unrelated, or related."""
    d = grid()
    controls, groups, ones = control_matrix(d.settings[d.nuisance]), d.groups(d.nuisance), np.ones((1, len(d.seed)))
    found = {}
    for relation in (0.0, 0.7):
        rng = np.random.default_rng(4)
        rows = []
        for repeat in range(REPEATS):
            x, y = draw(rng, d, relation)
            weights = configuration_weights(d, 300, repeat)
            row = {"raw": correlations(x, y, ones)["spearman"][0]}
            for name, statistic in (("partial", lambda w: partial_spearman(x, y, controls, w)),  # noqa: B023
                                    ("within", lambda w: within_groups(x, y, groups, w))):  # noqa: B023  # fmt: skip
                interval = percentile_interval(statistic(ones)[0], statistic(weights))
                row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            for name, inner in (("p_raw", None), ("p_within", groups)):
                orders = permutations_of(d, 99, repeat, inner)
                where = np.zeros(len(x), int) if inner is None else inner
                null = np.array([within_groups(x, y[order], where, ones)[0] for order in orders])
                row[name] = permutation_p(within_groups(x, y, where, ones)[0], null)
            rows.append(row)
        found[relation] = pd.DataFrame(rows)
    return found


def test_the_raw_correlation_follows_the_settings(simulated: dict[float, pd.DataFrame]) -> None:
    """Where nothing links the two at equal settings, the raw one is large and its test rejects nearly always."""
    assert simulated[0.0]["raw"].mean() > 0.5
    assert (simulated[0.0]["p_raw"] <= 0.05).mean() > 0.7


@pytest.mark.parametrize("name", ["partial", "within"])
@pytest.mark.parametrize("relation", [0.0, 0.7])
def test_intervals_at_equal_settings_cover(name: str, relation: float, simulated: dict[float, pd.DataFrame]) -> None:
    table = simulated[relation]
    truth = 0.0 if relation == 0 else table[name].mean()
    covered = ((table[f"{name}_low"] <= truth) & (truth <= table[f"{name}_high"])).mean()
    assert covered >= 0.90  # binomial error 0.02
    assert table[name].mean() == pytest.approx(relation, abs=0.06 if relation == 0 else 0.15)


def test_the_test_at_equal_settings_has_its_level_and_some_power(simulated: dict[float, pd.DataFrame]) -> None:
    assert (simulated[0.0]["p_within"] <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / REPEATS)
    assert (simulated[0.7]["p_within"] <= 0.05).mean() > 0.8


def test_seeds_taken_for_independent_would_find_what_is_not_there() -> None:
    """Unrelated configurations with three seeds each: exchanging files rejects far too often, exchanging blocks does not."""
    d = design({"lr": [str(i // 3) for i in range(36)]}, list(range(3)) * 12)
    alone = design({"lr": [str(i) for i in range(36)]}, [0] * 36)
    rng = np.random.default_rng(5)
    rejected = {"blocks": 0, "files": 0}
    for repeat in range(300):
        x, y = (rng.normal(size=12)[d.configuration] + 0.05 * rng.normal(size=36) for _ in range(2))
        rx, ry = (np.argsort(np.argsort(v)) - 17.5 for v in (x, y))
        for name, which in (("blocks", d), ("files", alone)):
            null = ry[permutations_of(which, 199, repeat)] @ rx
            rejected[name] += permutation_p(float(rx @ ry), null) <= 0.05
    assert rejected["blocks"] <= 300 * 0.05 + 3 * np.sqrt(300 * 0.05 * 0.95)
    assert rejected["files"] >= 300 * 0.2
