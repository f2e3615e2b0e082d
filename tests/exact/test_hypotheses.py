"""Links, verdicts and predictions on tables whose answer is known, and against scipy and scikit-learn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr, ttest_1samp
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from ssa_analysis.errors import DataError, SettingsError
from ssa_analysis.linking.hypotheses import (
    CONTRADICTED,
    SUPPORTED,
    UNDECIDED,
    Evidence,
    HypothesisSettings,
    Verdict,
    _partial_p,
    judge,
    matched_differences,
    verdict_table,
)
from ssa_analysis.linking.links import link_scores, link_table
from ssa_analysis.linking.partial import control_matrix, within_groups
from ssa_analysis.linking.power import checkpoints_needed
from ssa_analysis.linking.prediction import (
    SETTINGS,
    left_out_residuals,
    predict_left_out,
    predictions,
    ridge_fit,
)
from ssa_analysis.linking.resampling import permutation_p, permutations_of
from ssa_analysis.linking.table import Design, design_of, wide_table
from ssa_analysis.numerics.resampling import Interval
from ssa_analysis.training.settings import METHODS

FAST = HypothesisSettings(draws=300, permutations=499)


def study(effect: dict[str, dict[str, float]] | None = None, seed: int = 0, noise: float = 0.01, lrs: int = 6) -> pd.DataFrame:
    """Four methods x learning rates x three seeds; ``effect`` adds to a score by method.

    Accuracy falls with lambda_max at equal rates; both rise with the rate. The shift is of no account.
    """
    rng = np.random.default_rng(seed)
    effect = effect or {}
    rows: list[tuple[Any, ...]] = []
    for method in METHODS:
        for rate in range(lrs):
            sharpness = 3 * rate + rng.normal()
            for s in range(3):
                name = f"{method}-lr{rate}-s{s}"
                training = {"settings": {"method": method, "lr": 0.1 * (rate + 1), "seed": s}, "loss": 4 + 0.1 * rng.normal()}
                values = {
                    "curvature.lambda_max": np.exp(0.3 * sharpness + effect.get("sharpness", {}).get(method, 0.0)),
                    "shift.gaussian_w2": rng.normal() + effect.get("shift", {}).get(method, 0.0),
                    "downstream.probe_accuracy": 0.5 + 0.05 * rate - 0.02 * (sharpness - 3 * rate) + noise * rng.normal()
                    + effect.get("accuracy", {}).get(method, 0.0),
                    "robustness.mean_error": 0.5 + 0.01 * rng.normal() + effect.get("error", {}).get(method, 0.0),
                }  # fmt: skip
                rows += [(name, "d", *key.split("."), value, method, training) for key, value in values.items()]
    return pd.DataFrame(rows, columns=["checkpoint", "data", "measure", "name", "value", "method", "training"])


def verdicts(frame: pd.DataFrame, settings: HypothesisSettings = FAST) -> dict[str, Verdict]:
    return {verdict.hypothesis: verdict for verdict in judge(frame, settings)}


def test_sharpness_at_equal_settings_is_supported_though_the_raw_correlation_says_the_opposite() -> None:
    frame = study()
    (link,) = [
        row for row in link_scores(frame, "downstream.probe_accuracy", permutations=499) if row.score == "curvature.lambda_max"
    ]
    assert link.spearman.value > 0.5
    assert link.within.value < -0.5
    assert link.partial.high < 0
    assert link.p_within_holm < 0.05
    found = verdicts(frame)
    assert (found["1"].verdict, found["2"].verdict) == (SUPPORTED, UNDECIDED)
    (row,) = found["1"].evidence
    assert row.effect == "Spearman correlation at equal training loss, lr"
    assert (row.units, row.interval.value < row.interval.high < 0) == (24, True)


def test_the_numbers_of_a_link_are_scipys_and_its_design_s() -> None:
    frame = study()
    link = link_scores(frame, "downstream.probe_accuracy", scores=["shift.gaussian_w2"], permutations=499)[0]
    wide = frame.pivot_table(index="checkpoint", columns="name", values="value")
    assert link.spearman.value == pytest.approx(spearmanr(wide["gaussian_w2"], wide["probe_accuracy"]).statistic)
    assert (link.n, link.configurations) == (72, 24)
    assert link.p_holm == link.p  # alone
    assert link.spearman.low < link.spearman.value < link.spearman.high
    table = link_table([link])
    assert table.loc[0, "invariance"] == "function"
    assert table.loc[0, ["spearman", "spearman_low"]].tolist() == [link.spearman.value, link.spearman.low]


def test_the_p_value_within_groups_is_of_exchanges_within_groups() -> None:
    frame = study(noise=0.003)
    (link,) = link_scores(frame, "downstream.probe_accuracy", scores=["robustness.mean_error"], permutations=299, seed=3)
    wide = wide_table(frame)
    x, y = wide["robustness.mean_error"].to_numpy(), wide["downstream.probe_accuracy"].to_numpy()
    design = design_of(frame, list(wide.index))
    groups, ones = design.groups(["lr"]), np.ones((1, 72))
    null = [within_groups(x, y[order], groups, ones)[0] for order in permutations_of(design, 299, 3, groups)]
    assert link.p_within == permutation_p(within_groups(x, y, groups, ones)[0], np.array(null))


def test_more_checkpoints_are_needed_where_seeds_are_alike() -> None:
    """Three files a configuration that say nearly the same are hardly more than one."""
    link = link_scores(study(noise=0.0), "downstream.probe_accuracy", scores=["curvature.lambda_max"], permutations=99)[0]
    assert link.needed > 2 * checkpoints_needed(link.spearman.value)


def test_a_row_is_decided_by_its_corrected_p_value() -> None:
    row = Evidence("2", "a.b", "", "", -1, Interval(-0.4, 0.1, -0.6, -0.2), 0.03, 20, p_holm=0.06)
    assert row.verdict == UNDECIDED
    assert dataclasses.replace(row, p_holm=0.05).verdict == SUPPORTED
    assert dataclasses.replace(row, p_holm=0.05, predicted=1).verdict == CONTRADICTED
    assert dataclasses.replace(row, p_holm=float("nan")).verdict == UNDECIDED


def test_the_partial_p_value_fits_the_controls_again_after_each_exchange() -> None:
    """Against least squares, exchange by exchange, with a control that differs inside the groups."""
    rng = np.random.default_rng(6)
    loss, x, y = rng.normal(size=(3, 24))
    x, y = x + loss, y + loss
    controls = control_matrix(pd.DataFrame(index=range(24)), loss)
    orders = np.stack([rng.permutation(24) for _ in range(400)])

    def rest(v: np.ndarray) -> np.ndarray:
        return np.asarray(v - controls @ np.linalg.lstsq(controls, v, rcond=None)[0])

    rx, ry = rest(rankdata(x)), rest(rankdata(y))
    null = [np.corrcoef(rx, rest(ry[order]))[0, 1] for order in orders]
    value = float(np.corrcoef(rx, ry)[0, 1])
    assert _partial_p(x, y, controls, orders, value) == permutation_p(value, np.array(null))


def test_a_transfer_target_is_explained_by_the_scores_on_the_first_data_set() -> None:
    frame = study()
    other = frame[frame["measure"] == "downstream"].assign(data="e", value=lambda f: 1 - f["value"])
    here = link_scores(frame, "downstream.probe_accuracy", permutations=99, draws=50)
    there = link_scores(frame, "downstream.probe_accuracy", target_frame=other, permutations=99, draws=50)
    values = {link.score: link.spearman.value for link in here}
    for link in there:
        if link.score in values:
            assert link.spearman.value == pytest.approx(-values[link.score])
    assert "downstream.probe_accuracy" in [link.score for link in there]  # the accuracy on the first set is a score here
    with pytest.raises(DataError, match="those of one data set"):
        link_scores(pd.concat([frame, other]), "downstream.probe_accuracy", target_frame=other)


def test_an_unknown_score_is_refused_with_a_guess() -> None:
    with pytest.raises(DataError, match=r"did you mean curvature\.lambda_max"):
        link_scores(study(), "downstream.probe_accuracy", scores=["curvature.lamda_max"])


BEST = {"ssa-clr": 0.08, "simclr-sam": 0.02, "simclr-fourier": 0.02}


def test_the_claims_on_methods_where_they_hold() -> None:
    effect = {
        "sharpness": {"simclr-sam": -2.0, "ssa-clr": -2.0}, "shift": {"simclr-fourier": -5.0, "ssa-clr": -5.0},
        "accuracy": BEST, "error": {m: -v for m, v in BEST.items()},
    }  # fmt: skip
    found = verdicts(study(effect))
    assert {key: found[key].verdict for key in ("3a", "3b", "3c", "3d")} == dict.fromkeys(("3a", "3b", "3c", "3d"), SUPPORTED)
    (row,) = found["3b"].evidence
    assert (row.units, row.claim) == (12, "curvature.lambda_max is lower with sharpness-aware minimisation than without")
    assert row.effect == "logarithm of the ratio of curvature.lambda_max"
    assert row.interval.value == pytest.approx(-2.0, abs=0.6)


def test_to_be_best_it_must_win_everywhere_and_one_loss_is_enough_not_to_be() -> None:
    tied = verdicts(study({"accuracy": {"ssa-clr": 0.08, "simclr-sam": 0.08}}))["3c"]
    assert tied.verdict == UNDECIDED
    assert sorted(row.verdict for row in tied.evidence) == [SUPPORTED, SUPPORTED, UNDECIDED]
    beaten = verdicts(study({"accuracy": {"ssa-clr": 0.08, "simclr-sam": 0.2}}))["3c"]
    assert beaten.verdict == CONTRADICTED
    assert "1 contradict it" in beaten.reason


def test_two_scores_that_disagree_decide_nothing() -> None:
    frame = study()
    opposite = frame[frame["name"] == "lambda_max"].assign(measure="flatness", name="worst_case", value=lambda f: -f["value"])
    assert verdicts(pd.concat([frame, opposite]))["1"].verdict == UNDECIDED


def test_nothing_is_found_where_nothing_is() -> None:
    """Over many studies without any effect, a claim on methods is decided about as often as its level says."""
    decided = 0
    for seed in range(60):
        frame = study(seed=seed, lrs=5)
        found = verdicts(
            frame[frame["measure"].isin(["downstream", "robustness"])], dataclasses.replace(FAST, draws=20, permutations=19)
        )
        decided += found["3d"].verdict != UNDECIDED
    assert decided <= 60 * 0.05 + 3 * np.sqrt(60 * 0.05 * 0.95)


def test_differences_are_taken_at_equal_settings_and_seed() -> None:
    frame = study()
    values = frame[frame["name"] == "probe_accuracy"].set_index("checkpoint")["value"]
    design = design_of(frame, list(values.index))
    differences, cells = matched_differences(values.to_numpy(), design, "ssa-clr", "simclr")
    assert len(differences) == 18
    assert len(set(cells)) == 6
    for place, (rate, s) in enumerate((rate, s) for rate in range(6) for s in range(3)):
        expected = values[f"ssa-clr-lr{rate}-s{s}"] - values[f"simclr-lr{rate}-s{s}"]
        assert differences[place] == pytest.approx(expected)
    means = [differences[cells == c].mean() for c in np.unique(cells)]
    (row,) = [r for r in verdicts(frame)["3c"].evidence if "than with SimCLR" in r.claim and "+" not in r.claim]
    assert row.p == pytest.approx(ttest_1samp(means, 0).pvalue)
    assert row.units == 6


def test_one_configuration_is_judged_over_its_seeds_and_says_so() -> None:
    row = verdicts(study(lrs=1))["3c"].evidence[0]
    assert row.effect.endswith("(over the seeds of one configuration)")
    assert row.units == 3


def test_checkpoints_of_unknown_origin_can_be_linked_but_no_method_is_judged() -> None:
    frame = study().drop(columns=["training"]).assign(method="resnet18")
    found = verdicts(frame)
    assert set(found) == {"1", "2"}
    assert found["1"].evidence[0].effect == "Spearman correlation"


def test_the_table_of_verdicts_has_a_row_a_number() -> None:
    found = judge(study(), FAST)
    table = verdict_table(found)
    assert len(table) == sum(len(verdict.evidence) for verdict in found)
    assert set(table["on the whole"]) <= {SUPPORTED, CONTRADICTED, UNDECIDED}


@pytest.mark.parametrize("changes", [{"target": "accuracy"}, {"sharpness": ("lambda_max",)}, {"draws": 1}])
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        HypothesisSettings(**changes)


def test_the_closed_form_of_left_out_residuals_is_the_fit_without_the_group() -> None:
    rng = np.random.default_rng(0)
    x, y, groups = rng.normal(size=(20, 3)), rng.normal(size=20), np.repeat(np.arange(5), 4)
    for strength in (1e-3, 1.0, 100.0):
        known = y - cross_val_predict(Ridge(alpha=strength), x, y, groups=groups, cv=LeaveOneGroupOut())
        np.testing.assert_allclose(left_out_residuals(x, y, groups, strength), known, rtol=1e-8)
        fit, ridge = ridge_fit(x, y, strength), Ridge(alpha=strength).fit(x, y)
        np.testing.assert_allclose(fit, [ridge.intercept_, *ridge.coef_], rtol=1e-8)


def test_a_prediction_never_sees_the_group_it_is_for() -> None:
    """Whatever stands in the left-out rows of y, their predictions stay."""
    rng = np.random.default_rng(1)
    x, y, groups = rng.normal(size=(24, 2)), rng.normal(size=24), np.repeat(np.arange(6), 4)
    before = predict_left_out(x, y, groups, groups)
    changed = np.where(groups == 2, 1e6, y)
    np.testing.assert_array_equal(predict_left_out(x, changed, groups, groups)[groups == 2], before[groups == 2])
    assert (predict_left_out(x, changed, groups, groups)[groups != 2] != before[groups != 2]).all()


def test_predictions_tell_a_useful_score_from_a_useless_one() -> None:
    frame = study(noise=0.001)
    wide = frame.pivot_table(index="checkpoint", columns=["measure", "name"], values="value", sort=False)
    wide.columns = [".".join(c) for c in wide.columns]
    target = wide["downstream.probe_accuracy"].to_numpy()
    table = wide.assign(good=target + 0.01 * np.random.default_rng(0).normal(size=len(wide)))
    design = design_of(frame, list(wide.index))
    sets = {"good": ["good"], "bad": ["shift.gaussian_w2"], "absent": ["x.y"], "again": ["good", "x.y"]}
    both = [predictions(table, target, design, sets, leave_out=kind, draws=200) for kind in ("configuration", "method")]
    found = {(p.name, p.groups): p for part in both for p in part}
    assert {name for name, _ in found} == {"good", "bad", SETTINGS}
    for groups in ("configuration", "method"):
        assert found["good", groups].r2.value > 0.9
        assert found["bad", groups].r2.value < 0.2
        assert found["good", groups].r2.low < found["good", groups].r2.value < found["good", groups].r2.high
        assert found["good", groups].error.value < 0.02
        left_out = design.configuration if groups == "configuration" else design.method
        others = np.array([target[left_out != g].mean() for g in left_out])  # what one would say without a score
        for name in ("good", "bad"):
            rest = np.square(target - found[name, groups].predicted).sum() / np.square(target - others).sum()
            assert found[name, groups].r2.value == pytest.approx(1 - rest, rel=1e-12)
    assert found[SETTINGS, "configuration"].r2.value > 0.5  # the rate explains the most of it


def test_resamples_in_which_nothing_is_left_to_predict_count_for_nothing() -> None:
    """Four of six checkpoints have the accuracy that the others have on average; some of the resamples are of them alone."""
    target = np.array([0.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    table = pd.DataFrame({"score": [0.1, 1.8, 1.2, 0.9, 1.1, 0.8]}, index=list("abcdef"))
    unknown = np.full(6, -1.0)
    design = Design(pd.DataFrame(index=table.index), np.arange(6), np.array(["x"] * 6), unknown.astype(int), unknown * np.nan)
    (found,) = predictions(table, target, design, {"score": ["score"]}, draws=500)
    assert np.isfinite([found.r2.value, found.r2.low, found.r2.high]).all()
    assert found.r2.low < found.r2.value < found.r2.high


def test_the_number_of_checkpoints_needed_gives_the_power_it_promises() -> None:
    rho = 0.5
    needed = int(checkpoints_needed(rho))
    rng = np.random.default_rng(2)
    pearson = 2 * np.sin(np.pi * rho / 6)  # of a normal pair whose Spearman is rho
    found = 0
    for _ in range(400):
        x = rng.normal(size=needed)
        found += spearmanr(x, pearson * x + np.sqrt(1 - pearson**2) * rng.normal(size=needed)).pvalue <= 0.05
    assert found / 400 == pytest.approx(0.8, abs=0.07)
    assert checkpoints_needed(0.5, design_effect=3.0) == pytest.approx(3 * needed, rel=0.05)
    assert checkpoints_needed(0.0) == np.inf
    assert checkpoints_needed(1.0) == 4
