"""Input normalisations by name."""

from __future__ import annotations

import math
import re
from contextlib import suppress

from ssa_analysis.errors import SettingsError
from ssa_analysis.registry import unknown_name

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cifar10-resnets": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # the deviations that kuangliu's code made usual
    "cifar10-wrn": ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)),
    "fashion-mnist": ((0.2861,) * 3, (0.3530,) * 3),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def parse_normalisation(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A name or ``m,m,m/s,s,s`` -> mean and standard deviation of each channel, for pixels in [0, 1].

    >>> parse_normalisation("0.4,0.5,0.6/0.2,0.2,0.2")
    ((0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    """
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    if not re.search(r"[,/]", text):
        raise unknown_name("normalisation", text, [*NORMALISATIONS, "m,m,m/s,s,s"])
    parts: list[tuple[float, ...]] = []
    with suppress(ValueError):
        parts = [tuple(float(x) for x in part.split(",")) for part in text.split("/")]
    numbers = [x for part in parts for x in part]
    if [len(part) for part in parts] != [3, 3] or not all(map(math.isfinite, numbers)) or min(parts[1]) <= 0:
        raise SettingsError(f"normalisation {text!r}: write three means, a slash, three positive standard deviations, such as "
                            "0.49,0.48,0.45/0.25,0.24,0.26")  # fmt: skip
    return parts[0], parts[1]
