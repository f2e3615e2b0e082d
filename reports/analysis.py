"""What is asked of all scores of a table together, worked out once for the sentences, tables and figures of a report."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from ssa_analysis.reports.names import KEY_SCORES
from ssa_analysis.reports.per_table import PerTable

from ssa_analysis.errors import DataError
from ssa_analysis.linking.hypotheses import HypothesisSettings, Verdict, judge
from ssa_analysis.linking.links import Link, link_scores, target_values
from ssa_analysis.linking.prediction import BASELINES, Prediction, predictions
from ssa_analysis.linking.table import design_of, wide_table


@dataclass(frozen=True)
class Linking:
    """Links of all scores with the target, verdicts on the claims, predictions; empty, with ``problem``, where impossible."""

    settings: HypothesisSettings
    links: tuple[Link, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    problem: str = ""


def predictor_sets(settings: HypothesisSettings) -> dict[str, tuple[str, ...]]:
    """Sets of scores that predict accuracy: the two of the theory, alone and together, and the label-free baselines."""
    baselines = tuple(dict.fromkeys(name for names in BASELINES.values() for name in names))
    return {
        "sharpness": settings.sharpness,
        "shift": settings.shift,
        "sharpness + shift": (*settings.sharpness, *settings.shift),
        **BASELINES,
        "all baselines": baselines,
        "all of these": (*settings.sharpness, *settings.shift, *baselines),
    }


_known: PerTable[Linking] = PerTable()


def linking_of(frame: pd.DataFrame, settings: HypothesisSettings | None = None) -> Linking:
    """Links, verdicts and predictions of a store's long table; worked out once for each table and settings.

    Without settings: those that were asked for last, or the usual ones.
    """
    linking = _known.get(frame)
    if linking is None or settings not in (None, linking.settings):
        linking = _known.put(frame, _work_out(frame, settings or HypothesisSettings()))
    return linking


def _work_out(frame: pd.DataFrame, settings: HypothesisSettings) -> Linking:
    deep = {row.key for row in KEY_SCORES} | {*settings.sharpness, *settings.shift}
    try:
        links = link_scores(frame, settings.target, draws=settings.draws, permutations=settings.permutations,
                            seed=settings.seed, deep=deep)  # fmt: skip
        verdicts = judge(frame, settings)
        target = target_values(frame, settings.target)
    except DataError as error:
        return Linking(settings, problem=str(error))
    table, design = wide_table(frame).loc[target.index], design_of(frame, list(target.index))
    found = [
        prediction
        for leave_out in ("configuration", "method")
        for prediction in predictions(
            table, target.to_numpy(float), design, predictor_sets(settings), leave_out=leave_out, draws=settings.draws
        )
    ]
    return Linking(settings, tuple(links), tuple(verdicts), tuple(found))
