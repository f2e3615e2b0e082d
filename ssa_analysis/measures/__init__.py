"""The measure families, each a function ``(encoder, data, settings) -> list[Score]``; importing this registers them."""

from ssa_analysis.measures import curvature, downstream, flatness, landscape, representation, robustness, shift, views
from ssa_analysis.measures.base import MEASURES, Measure, MeasureSettings, measure

__all__ = [
    "MEASURES",
    "Measure",
    "MeasureSettings",
    "curvature",
    "downstream",
    "flatness",
    "landscape",
    "measure",
    "representation",
    "robustness",
    "shift",
    "views",
]
