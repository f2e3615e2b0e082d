"""Cards: everything that is known of a checkpoint, in the shapes that the page draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ssa_analysis.reports.cards import PLOTS, POINTS, card_id, make_cards

from ssa_analysis.linking.comparison import compare
from ssa_analysis.running.store import Store
from ssa_analysis.scores import plain_json

NOTHING = pd.DataFrame()


def cards_of(store: Store, history: pd.DataFrame = NOTHING, sheets: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    found = make_cards(store.frame(), store.checkpoints(), store.failures(), history, sheets or {})
    return {card["name"]: card for card in found.values()}


@pytest.fixture
def full(store: Store, fill_store: Callable[..., None], scores_for: Callable[[int], list[Any]]) -> Store:
    for number, name in enumerate("abc"):
        fill_store(store, name, "simclr" if number else "ssa-clr", scores_for(number))
    return store


def test_a_card_says_where_a_checkpoint_is_from(full: Store) -> None:
    card = cards_of(full)["a"]
    assert card["path"] == "runs/a/last.pt"
    assert (card["method"], card["architecture"], card["layout"]) == ("SSA-CLR", "convnet, width 4", "ssa-analyze")
    assert (card["weights"], card["projector"]) == (1740, True)
    assert card["training"]["epoch"] == 3
    assert list(make_cards(full.frame(), full.checkpoints(), full.failures(), NOTHING, {})) == [
        card_id(sha256) for sha256 in full.checkpoints()["sha256"]
    ]


def test_every_score_is_on_it_with_its_error(full: Store) -> None:
    card = cards_of(full)["b"]
    rows = full.frame()
    rows = rows[rows["checkpoint"] == "b"]
    assert [(s[0], s[1]) for s in card["scores"]] == list(zip(rows["measure"], rows["name"], strict=True))
    by_name = {f"{s[0]}.{s[1]}": s for s in card["scores"]}
    assert by_name["downstream.probe_accuracy"][2:] == [
        "probe accuracy", 0.72, 0.005, 0.71, 0.73, "share", True, "standard error", "",
    ]  # fmt: skip
    assert by_name["curvature.lambda_max"][9] == "bounds"
    assert by_name["robustness.mean_error"][10] == "regenerated"


def test_ranks_count_from_the_good_end(full: Store) -> None:
    places = {name: {row["key"]: row["rank"] for row in card["key"]} for name, card in cards_of(full).items()}
    assert [places[name]["downstream.probe_accuracy"] for name in "abc"] == [3, 2, 1]  # rises: high is good
    assert [places[name]["curvature.lambda_max"] for name in "abc"] == [3, 2, 1]  # falls: low is good
    assert places["a"]["representation.effective_rank"] is None  # neither is


def test_every_plot_is_there_and_json(full: Store) -> None:
    plots = cards_of(full)["b"]["plots"]
    assert set(plots) == set(PLOTS) - {"variants"} | ({"variants"} & set(plots))
    assert json.loads(json.dumps(plain_json(plots), allow_nan=False)) == plain_json(plots)
    assert plots["eigenvalues"] == [[1, 7.5, 7.49, 7.51], [2, 3.75, 3.74, 3.76], [3, 1.875, 1.865, 1.885]]
    assert plots["surface"]["loss"][0] == [1.1, 1.5, 2.0]
    names = [curve[0] for curve in plots["slices"]]
    assert names == ["random directions", "eigenvector 1", "eigenvector 2", "path to the other"]
    assert plots["slices"][0][1:] == [[-1, 0, 1], [2.5, 1, 3.5], [2, 1, 3], [3, 1, 4]]  # mean, least and most over directions
    widths = np.diff(plots["similarities"]["edges"])
    assert np.dot(widths, plots["similarities"]["ideal"]) == pytest.approx(1, abs=1e-3)
    assert plots["corruptions"]["note"] == "regenerated"
    frame = full.frame()
    (error,) = frame.loc[(frame["checkpoint"] == "b") & (frame["name"] == "mean_error"), "arrays"]
    np.testing.assert_allclose(plots["corruptions"]["accuracy"], 1 - np.array(error["value"]), rtol=1e-4)
    assert plots["corruptions"]["clean"] == pytest.approx(1 - error["clean"])


def test_the_waterfall_ends_at_the_bound(full: Store) -> None:
    frame = full.frame()
    fall = cards_of(full)["a"]["plots"]["waterfall"]
    own = frame[(frame["checkpoint"] == "a") & (frame["measure"] == "bounds")].set_index("name")
    name = "chain" if "chain" in own.index else "ideal_bound"
    assert sum(fall["value"]) == pytest.approx(own.loc[name, "value"], rel=1e-3)
    assert fall["step"][0] == "trained probe"


def test_curves_are_thinned_but_keep_their_ends(full: Store) -> None:
    frame = full.frame()
    for arrays in frame.loc[frame["name"] == "negative_mass", "arrays"]:
        arrays |= {key: list(range(5000)) for key in ("eigenvalue", "density", "low", "high")}
    card = next(iter(make_cards(frame, full.checkpoints(), full.failures(), NOTHING, {}).values()))
    assert len(card["plots"]["density"]["x"]) == POINTS
    assert card["plots"]["density"]["x"][-1] == 4999


def test_failures_history_and_sheet(full: Store, fail_store: Callable[..., None]) -> None:
    fail_store(full, "b", "doctor", "out of memory")
    history = pd.DataFrame(
        {
            "checkpoint": "b",
            "method": "simclr",
            "epoch": [2.0, 1.0],
            "score": "loss",
            "value": [0.5, 0.9],
            "low": np.nan,
            "high": np.nan,
        }
    )
    sha256 = full.checkpoints().set_index("checkpoint").loc["b", "sha256"]
    card = cards_of(full, history, {sha256: "views_sheet"})["b"]
    assert card["failures"] == [["doctor", "out of memory"]]
    assert card["history"] == {"loss": [[1.0, 0.9, None, None], [2.0, 0.5, None, None]]}
    assert card["sheet"] == "views_sheet"
    assert cards_of(full)["a"]["failures"] == []


def test_a_checkpoint_of_which_nothing_is_known(store: Store, fail_store: Callable[..., None]) -> None:
    fail_store(store, "broken", "downstream", "truncated")
    card = cards_of(store)["broken"]
    assert (card["scores"], card["plots"], card["key"], card["recipe"]) == ([], {}, [], {})
    assert card["failures"] == [["downstream", "truncated"]]


def test_kinds_of_error_are_those_of_the_comparison(full: Store, tmp_path: Path) -> None:
    cards, table = cards_of(full), compare(full.frame(), "a", "b").set_index("score")
    for side in "ab":
        for score in cards[side]["scores"]:
            error = table.loc[f"{score[0]}.{score[1]}", "error"]
            assert (error == "standard errors") <= (score[9] in ("standard error", "exact"))
            assert (score[9] == "unknown") <= (error == "unknown")
