"""The golden run: two tiny encoders of the digits, scored by every measure, and what a later run is compared with.

Training and scoring are compared apart. Scores are those of the two committed checkpoints, so that they do not depend on how
rounding moves the weights of a training; that is seen by the loss curves of two short trainings.

Views are turned images, and with SSA-CLR Fourier partners. Crops and colours are left out on purpose: kornia 0.7.3, 0.8.3 and
0.9.0 draw different ones from the same seed, which are other views and not another measure. Angles they draw alike.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ssa_analysis import theory as _theory  # noqa: F401  (registers the bounds as a measure)
from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.data.views import RECIPES, ViewRecipe
from ssa_analysis.measures import MEASURES
from ssa_analysis.numerics.precision import full_precision
from ssa_analysis.scores import Score
from ssa_analysis.training.loop import train
from ssa_analysis.training.settings import TrainSettings

FOLDER = Path(__file__).resolve().parent
EXPECTED = FOLDER / "scores.json"
METHODS = ("simclr", "ssa-clr")
TURNED = "turned"  # the recipe's name while a golden run is trained; checkpoints hold the recipe itself
RECIPE = ViewRecipe(crop_low=1.0, flip=0.0, jitter=0.0, gray=0.0, rotate=30.0)
TRAINING = TrainSettings(
    arch="convnet", width=4, projector=(16, 8), epochs=3, batch=64, lr=0.1, warmup=1, knn_every=0, views=TURNED, seed=1
)

ERROR_SHARE = 0.25
"""A score may move by this share of its stated error: its standard error, or half the width of its interval."""
RELATIVE = 2e-4
"""And by this share of its size, which is all that a score without an error may move: float32 rounds at 6e-8, and a loss or
an eigenvalue sums some thousand terms."""
CURVE = 0.02
"""The mean loss of an epoch of training may move by this share."""

_FIXED: dict[str, Any] = {"pairs": 64, "batch": 32}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "curvature": ("curvature", {
        **_FIXED, "top": 3, "max_products": 60, "trace_probes": 8, "density_probes": 2, "density_steps": 6,
    }),
    "curvature, supervised": ("curvature", {
        **_FIXED, "loss": "supervised", "kind": "gauss-newton", "top": 2, "max_products": 40, "trace_probes": 6,
        "density_probes": 2, "density_steps": 4,
    }),
    "downstream": ("downstream", {"draws": 2}),
    "flatness": ("flatness", {**_FIXED, "steps": 5, "restarts": 2, "m": 16, "draws": 6, "probes": 8}),
    "landscape": ("landscape", {**_FIXED, "points": 5, "grid": 5}),
    "landscape, eigenvectors": ("landscape", {
        **_FIXED, "along": "eigenvectors", "directions": 2, "points": 5, "grid": 0, "max_products": 60,
    }),
    "representation": ("representation", {"bootstrap": 10}),
    "robustness": ("robustness", {"images": 60, "only": "gaussian_noise,defocus_blur,fog,contrast"}),
    "shift": ("shift", {"permutations": 99, "projections": 20, "groups": 6, "batch": 32}),
    "shift, features": ("shift", {"space": "features", "permutations": 99, "projections": 20, "groups": 6, "batch": 32}),
    "shift, recipes": ("shift", {"against": "none", "permutations": 99, "projections": 20, "groups": 6, "batch": 32}),
    "views": ("views", {"groups": 6, "strengths": "0.5"}),
    "bounds": ("bounds", {"bootstrap": 20, "transport": 40, "block": 8, "noise_block": 8, "scales": 3, "draws": 8}),
}  # fmt: skip
"""Every registered measure, some in several ways, with settings that take a second or two."""
ONCE = ("curvature, supervised", "landscape, eigenvectors", "shift, features", "shift, recipes")  # for the first method alone
ROWS = [(method, row) for method in METHODS for row in SETTINGS if method == METHODS[0] or row not in ONCE]

FIELDS = ("value", "stderr", "low", "high")
Scores = dict[str, dict[str, Any]]  # by name


def golden_data() -> Data:
    """About 600 of the digits."""
    return load_data("digits", subset=600)


def train_golden(method: str, data: Data, folder: Path) -> tuple[Path, list[float]]:
    """The short training of a method: its checkpoint, and the mean loss of each epoch."""
    RECIPES[TURNED] = RECIPE
    try:
        path = train(replace(TRAINING, method=method), data, folder)
    finally:
        del RECIPES[TURNED]
    header, *rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    return path, [float(row[header.index("loss")]) for row in rows]


def plain(score: Score) -> dict[str, Any]:
    """What is kept of a score, numbers with nine digits; NaN and infinity are null."""
    numbers = {key: getattr(score, key) for key in FIELDS}
    known = {k: float(f"{v:.9g}") if v is not None and math.isfinite(v) else None for k, v in numbers.items()}
    return {**known, "unit": score.unit, "converged": score.converged}


def scores_of(method: str, row: str, data: Data) -> Scores:
    """The scores of a committed checkpoint by one row of ``SETTINGS``."""
    name, settings = SETTINGS[row]
    measure = MEASURES.get(name)
    encoder = load_checkpoint(FOLDER / f"{method}.pt").encoder
    with full_precision():
        scores = measure.function(encoder, data, measure.make_settings(settings))
    return {score.name: plain(score) for score in scores}


def room(expected: Mapping[str, Any]) -> float:
    """How far a number of this score may move."""
    error = expected["stderr"]
    if error is None and expected["low"] is not None and expected["high"] is not None:
        error = (expected["high"] - expected["low"]) / 2
    return max(ERROR_SHARE * (error or 0.0), RELATIVE * abs(expected["value"] or 0.0), 1e-7)


def moved(expected: Mapping[str, Any], found: Mapping[str, Any]) -> float:
    """The largest move of value, standard error and ends of the interval, in units of :func:`room`; infinite where one of
    them is there and the other is not."""
    moves = []
    for key in FIELDS:
        before, now = expected[key], found[key]
        if (before is None) != (now is None):
            return math.inf
        moves.append(0.0 if before is None else abs(now - before) / room(expected))
    return max(moves)


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """A line for each score that is not what it was, by name -> :func:`plain`."""
    lines = [f"{name} is gone" for name in expected if name not in found]
    lines += [f"{name} is new" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        before, now = expected[name], found[name]
        if (by := moved(before, now)) > 1:
            lines.append(
                f"{name}: {[now[k] for k in FIELDS]}, was {[before[k] for k in FIELDS]} ({by:.3g} times what it may move)"
            )
        lines += [f"{name}: {key} {now[key]!r}, was {before[key]!r}" for key in ("unit", "converged") if before[key] != now[key]]
    return sorted(lines)


def made_with() -> dict[str, str]:
    """Versions that decide the numbers."""
    packages = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "kornia")
    return {"python": platform.python_version(), "machine": platform.machine(), **{name: version(name) for name in packages}}


def expected() -> dict[str, Any]:
    """What is committed."""
    found: dict[str, Any] = json.loads(EXPECTED.read_text())
    return found


def one_thread() -> None:
    """As the tests have it: sums in the same order on every machine."""
    torch.set_num_threads(1)
