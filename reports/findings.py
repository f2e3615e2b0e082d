"""What was found, in a few plain sentences; each is computed from the scores and says when nothing is decided."""

from __future__ import annotations

import numpy as np
import pandas as pd
from ssa_analysis.reports.analysis import linking_of
from ssa_analysis.reports.figures.frames import rows_of
from ssa_analysis.reports.names import RUNG, label_of, labelled
from ssa_analysis.reports.style import method_label, ordered_methods

from ssa_analysis.linking.hypotheses import Evidence, HypothesisSettings

TARGET = "downstream.probe_accuracy"


def _best(frame: pd.DataFrame, key: str, lowest: bool) -> tuple[pd.Series, pd.DataFrame] | None:
    """The best row of a score, and the rows whose intervals reach into the best one's, nearest first."""
    rows = rows_of(frame, *key.split("."))
    if rows.empty:
        return None
    ordered = rows.sort_values("value", ascending=lowest, kind="stable")
    best, others = ordered.iloc[0], ordered.iloc[1:]
    # a missing interval compares as False
    return best, others[others["low"] <= best["high"]] if lowest else others[others["high"] >= best["low"]]


def _sentence(frame: pd.DataFrame, key: str, lowest: bool, opening: str) -> str | None:
    found = _best(frame, key, lowest)
    if found is None:
        return None
    best, ties = found
    interval = f" [{best['low']:.3g}, {best['high']:.3g}]" if np.isfinite(best["low"]) and np.isfinite(best["high"]) else ""
    close = "".join(f"; not separable from {row.checkpoint} ({row.value:.3g})" for row in ties.head(1).itertuples())
    close += f" and {len(ties) - 1} more" if len(ties) > 1 else ""
    return f"{opening}: {best['checkpoint']} ({labelled(frame, key)} {best['value']:.3g}{interval}){close}."


def method_means(frame: pd.DataFrame, key: str) -> dict[str, tuple[float, int]]:
    """Mean of a score over the checkpoints of each method, and how many there are."""
    rows = rows_of(frame, *key.split("."))
    return {
        m: (float(g["value"].mean()), len(g)) for m in ordered_methods(list(rows["method"])) for g in [rows[rows["method"] == m]]
    }


def _evidence_text(row: Evidence) -> str:
    interval = row.interval
    known = np.isfinite([interval.low, interval.high]).all()
    return f"{label_of(row.score)} {interval.value:+.2g}" + (f" [{interval.low:+.2g}, {interval.high:+.2g}]" if known else "")


def _linking_sentences(frame: pd.DataFrame, settings: HypothesisSettings) -> list[str]:
    """The verdicts on the claims of the theory: one sentence on sharpness, one on shift, one on the methods."""
    if rows_of(frame, *settings.target.split(".")).empty:
        return ["Do the scores predict accuracy? Not decided: downstream accuracy was not measured."]
    linking = linking_of(frame, settings)
    if linking.problem:
        return [f"Do the scores predict accuracy? Not decided: {linking.problem}."]
    found = {verdict.hypothesis: verdict for verdict in linking.verdicts}
    said = []
    for hypothesis in ("1", "2"):
        if verdict := found.get(hypothesis):
            effect = verdict.evidence[0].effect
            numbers = "; ".join(_evidence_text(row) for row in verdict.evidence)
            units = max(row.units for row in verdict.evidence)
            least = min((row.p_holm for row in verdict.evidence if np.isfinite(row.p_holm)), default=float("nan"))
            said.append(
                f"{verdict.claim}: {verdict.verdict.upper()}. {effect}, over {units} configurations: {numbers} "
                f"(least p after Holm's correction {least:.2g})."
            )
    methods = [verdict for key, verdict in found.items() if key.startswith("3")]
    if methods:
        told = ". ".join(f"{verdict.claim}: {verdict.verdict.upper()}" for verdict in methods)
        said.append(f"What the methods do: {told}.")
    return said


def _bounds_sentence(frame: pd.DataFrame) -> str | None:
    rungs = frame[(frame["measure"] == "bounds") & frame["name"].str.fullmatch(RUNG)]
    if rungs.empty:
        return None
    verdicts = rungs["settings"].map(lambda s: s["verdict"]).value_counts()
    counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    broken = rungs[[s["verdict"] == "violated" for s in rungs["settings"]]]
    named = f" ({', '.join(sorted(set(broken['name'] + ' on ' + broken['checkpoint'])))})" if len(broken) else ""
    bounds = rows_of(frame, "bounds", "ideal_bound")
    useful = sum(not s["vacuous"] for s in bounds["settings"])
    checkpoints = f"{len(bounds)} checkpoint" + ("s" if len(bounds) != 1 else "")
    chains = rows_of(frame, "bounds", "chain")
    ends = [s["vacuous"] for s in chains["settings"] if s.get("confidence") is not None]
    chain = f", the chain to its certificate on {ends.count(False)} of {len(ends)}" if ends else ""
    return f"Bounds on {checkpoints}: {counted}{named}; R2 lies below the chance level on {useful} of {len(bounds)}{chain}."


def _adviser_sentence(frame: pd.DataFrame) -> str | None:
    reliefs = rows_of(frame, "views", "fourier_relief")
    if reliefs.empty:
        return None
    told = [f"{row.checkpoint}: {row.settings['verdict']}, {row.settings['sentence']}" for row in reliefs.head(3).itertuples()]
    more = f" and {len(reliefs) - 3} more" if len(reliefs) > 3 else ""
    return f"Does the Fourier augmentation relieve the shift? {'; '.join(told)}{more}."


def findings(frame: pd.DataFrame, settings: HypothesisSettings | None = None) -> list[str]:
    """Up to nine sentences: best downstream, flattest, least shifted, most robust, the adviser's answer, the verdicts on
    sharpness, shift and methods, the bounds."""
    sentences = [
        _sentence(frame, TARGET, False, "Best downstream"),
        _sentence(frame, "curvature.lambda_max", True, "Flattest"),
        _sentence(frame, "shift.gaussian_w2", True, "Least shifted"),
        _sentence(frame, "robustness.mean_error", True, "Most robust"),
        _adviser_sentence(frame),
        *(_linking_sentences(frame, settings or HypothesisSettings()) if not frame.empty else []),
        _bounds_sentence(frame),
    ]
    return [s for s in sentences if s]


def method_table(frame: pd.DataFrame, keys: tuple[str, ...]) -> pd.DataFrame:
    """Methods x scores: the mean over each method's checkpoints."""
    means = {label_of(key): {method_label(m): v for m, (v, _) in method_means(frame, key).items()} for key in keys}
    return pd.DataFrame(means)
