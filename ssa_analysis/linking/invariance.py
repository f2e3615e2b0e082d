"""Which changes of the weights that leave the network's function alone leave a score alone."""

from __future__ import annotations

FUNCTION, SCALE, NONE = "function", "filter scale", "none"
MEANING = {
    FUNCTION: "a function of the embedding alone: any reparametrisation that keeps it keeps the score",
    SCALE: "does not change when a filter before a normalisation is scaled",
    NONE: "changes when a filter before a normalisation is scaled, which the network's function does not",
}
# whole families, then single scores; what is not named here is not marked
_FAMILIES = {
    "shift": FUNCTION, "views": FUNCTION, "robustness": FUNCTION, "downstream": FUNCTION, "representation": FUNCTION,
    "curvature": NONE, "landscape": SCALE,
}  # fmt: skip
_SCORES = {
    "representation.weight_norm": NONE,
    "flatness.loss": FUNCTION,
    "flatness.worst_case": NONE,
    "flatness.m_sharpness": NONE,
    "flatness.average_case": NONE,
    "flatness.pac_bayes_sigma": NONE,
    "flatness.adaptive_worst_case": SCALE,
    "flatness.adaptive_m_sharpness": SCALE,
    "flatness.adaptive_average_case": SCALE,
    "flatness.adaptive_pac_bayes_sigma": SCALE,
    "flatness.relative_flatness": SCALE,
    "flatness.fisher_rao": SCALE,
}


def invariance_of(score: str) -> str:
    """``function``, ``filter scale``, ``none``, or empty where it is not known, of ``measure.name``."""
    return _SCORES.get(score, _FAMILIES.get(score.split(".")[0], ""))
