"""How scores are called in tables and figures, and which direction is good."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd

from ssa_analysis.linking.table import note_of
from ssa_analysis.scores import in_brackets

RUNG = r"R\d(_pac_bayes)?"  # names of the scores of `bounds` that are checked inequalities


@dataclass(frozen=True)
class ScoreName:
    """``better`` is ``low``, ``high`` or empty where neither is; ``label`` has the unit where there is one."""

    key: str  # measure.name
    label: str
    better: str


KEY_SCORES = (
    ScoreName("downstream.probe_accuracy", "probe accuracy", "high"),
    ScoreName("downstream.knn_accuracy", "kNN accuracy", "high"),
    ScoreName("robustness.mean_error", "corrupted error", "low"),
    ScoreName("curvature.lambda_max", "largest eigenvalue (nats)", "low"),
    ScoreName("curvature.trace", "Hessian trace (nats)", "low"),
    ScoreName("flatness.worst_case", "worst-case rise (nats)", "low"),
    ScoreName("flatness.average_case", "average-case rise (nats)", "low"),
    ScoreName("landscape.rise_half", "landscape rise (nats)", "low"),
    ScoreName("shift.mmd2_difference", "MMD² of differences", "low"),
    ScoreName("shift.gaussian_w2", "Gaussian W² of pairs", "low"),
    ScoreName("shift.alignment_gap", "alignment gap (cosine)", ""),
    ScoreName("shift.loss_gap", "cost of the shift (nats)", ""),
    ScoreName("representation.alignment", "alignment", "low"),
    ScoreName("representation.uniformity", "uniformity", "low"),
    ScoreName("representation.effective_rank", "effective rank", ""),
    ScoreName("bounds.ideal_bound", "bound R2 (nats)", "low"),
)
_DIRECTIONS = (  # of the scores beside the key ones
    (r"downstream\..*accuracy.*", "high"), (r"downstream\..*cross_entropy", "low"), (r"robustness\.(.*error.*|mce.*)", "low"),
    (r"curvature\.(lambda_\d+|spectral_norm|frobenius|trace.*)", "low"), (r"flatness\..*(sharpness|case|flatness)", "low"),
    (r"landscape\.rise.*", "low"), (r"shift\..*(w2|mmd).*", "low"),
)  # fmt: skip
_BY_KEY = {row.key: row for row in KEY_SCORES}


def label_of(key: str) -> str:
    """The label of ``measure.name``; other scores keep their name."""
    return _BY_KEY[key].label if key in _BY_KEY else key.split(".", 1)[-1].replace("_", " ")


def labelled(frame: pd.DataFrame, key: str) -> str:
    """The label of ``measure.name`` with what must be said of its values in a table, such as ``(regenerated)``."""
    return f"{label_of(key)}{in_brackets(note_of(frame, key))}"


def better_of(key: str) -> str:
    """``low``, ``high`` or empty."""
    if key in _BY_KEY:
        return _BY_KEY[key].better
    return next((direction for pattern, direction in _DIRECTIONS if re.fullmatch(pattern, key)), "")
