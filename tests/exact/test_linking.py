"""Correlations of resamples in one go, against scipy on the resamples written out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr

from ssa_analysis.errors import DataError
from ssa_analysis.linking.links import link_scores, link_table
from ssa_analysis.linking.rank import correlations
from ssa_analysis.linking.table import mixed_images


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_coefficients_equal_scipy_on_the_resample(ties: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=12), rng.normal(size=12)
    if ties:
        x, y = x.round(), y.round()
    counts = rng.multinomial(12, np.full(12, 1 / 12), size=30)
    ours = correlations(x, y, counts.astype(float))
    for row, weights in enumerate(counts):
        xs, ys = np.repeat(x, weights), np.repeat(y, weights)
        assert ours["pearson"][row] == pytest.approx(pearsonr(xs, ys).statistic, abs=1e-10)
        assert ours["spearman"][row] == pytest.approx(spearmanr(xs, ys).statistic, abs=1e-10)
        assert ours["kendall"][row] == pytest.approx(kendalltau(xs, ys).statistic, abs=1e-10)


def test_a_constant_resample_has_no_correlation() -> None:
    weights = np.array([[4.0, 0, 0, 0]])
    found = correlations(np.array([0.1, 2, 3, 4]), np.array([1.0, 2, 3, 5]), weights)
    assert all(np.isnan(v[0]) for v in found.values())


def table(x: np.ndarray, y: np.ndarray, data: str = "d") -> pd.DataFrame:
    rows = []
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        rows += [(f"c{i}", data, "shift", "gap", a), (f"c{i}", data, "downstream", "probe_accuracy", b)]
        rows += [(f"c{i}", data, "downstream", "knn_accuracy", b), (f"c{i}", data, "shift", "constant", 1.0)]
    return pd.DataFrame(rows, columns=["checkpoint", "data", "measure", "name", "value"])


def test_links_leave_out_the_targets_family_and_constants() -> None:
    x = np.arange(6.0)
    links = link_scores(table(x, -(x**3)), "downstream.probe_accuracy")
    assert [link.score for link in links] == ["shift.gap"]
    assert links[0].n == 6
    assert links[0].spearman.value == pytest.approx(-1)
    assert links[0].kendall.value == pytest.approx(-1)
    assert links[0].spearman.high == pytest.approx(-1)


def test_intervals_cover_the_true_correlation() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(100):
        x = rng.normal(size=40)
        y = 0.6 * x + 0.8 * rng.normal(size=40)
        link = link_scores(table(x, y), "downstream.probe_accuracy", draws=300, seed=seed)[0]
        inside += link.pearson.low <= 0.6 <= link.pearson.high
    assert 86 <= inside <= 100


def test_missing_values_drop_their_checkpoint_only() -> None:
    frame = table(np.arange(6.0), np.arange(6.0))
    frame.loc[(frame["checkpoint"] == "c0") & (frame["name"] == "gap"), "value"] = np.nan
    assert link_table(link_scores(frame, "downstream.probe_accuracy")).set_index("score").loc["shift.gap", "n"] == 5


@pytest.mark.parametrize(
    ("frame", "target", "message"),
    [
        (table(np.arange(3.0), np.arange(3.0)), "downstream.probe_accuracy", "at least 4"),
        (table(np.arange(6.0), np.arange(6.0)), "downstream.probe_acuracy", "did you mean downstream.probe_accuracy"),
        (table(np.arange(0.0), np.arange(0.0)), "downstream.probe_accuracy", "no scores"),
        (
            pd.concat([table(np.arange(6.0), np.arange(6.0)), table(np.arange(6.0), np.arange(6.0), "e")]),
            "downstream.probe_accuracy",
            "several data sets",
        ),
    ],
)
def test_what_cannot_be_linked_is_said(frame: pd.DataFrame, target: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        link_scores(frame, target)


def test_scores_of_different_images_are_named() -> None:
    frame = table(np.arange(4.0), np.arange(4.0))
    frame["settings"] = [{"data_fingerprint": "a"}] * len(frame)
    assert mixed_images(frame) == []
    odd = (frame["checkpoint"] == "c2") & (frame["measure"] == "shift")
    frame.loc[odd, "settings"] = pd.Series([{"data_fingerprint": "b"}] * odd.sum(), index=frame.index[odd])
    assert mixed_images(frame) == ["shift"]


def test_a_constant_target_is_said() -> None:
    with pytest.raises(DataError, match="nothing to explain"):
        link_scores(table(np.arange(5.0), np.ones(5)), "downstream.probe_accuracy")
