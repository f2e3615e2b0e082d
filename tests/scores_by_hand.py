"""Scores by hand: eight checkpoints of four methods, with arrays in the shapes that the measures write."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from ssa_analysis.reports.html import write_report

from ssa_analysis.checkpoints.loading import LoadReport
from ssa_analysis.running.plan import Cell, CellResult
from ssa_analysis.running.store import SCORE_COLUMNS, Store
from ssa_analysis.scores import Score
from ssa_analysis.theory.bounds import STATEMENTS

METHODS = ("simclr", "simclr-sam", "simclr-fourier", "ssa-clr")
SEVERITIES = [1, 2, 3, 4, 5]
CORRUPTIONS = ["gaussian_noise", "defocus_blur", "contrast"]


def scores_of(number: int) -> list[Score]:
    """Scores of checkpoint ``number``; accuracy rises with it, sharpness and shift fall."""
    i = float(number)
    accuracy, error = 0.70 + 0.02 * i, 0.005
    eigenvalues = [(8.0 - 0.5 * i) / 2**k for k in range(3)]
    grid = np.linspace(-1, eigenvalues[0], 7)
    offset, ticks = [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]
    surface = [[1.0 + 0.1 * i, 1.5, 2.0], [1.2, 1.0, 1.3], [1.9, 1.4, 1.1]]
    ideal, practical = [0.1 * k for k in range(8)], [0.6 + 0.05 * k for k in range(8)]
    steps = {
        "trained probe": 0.5,
        "mean classifier gap (R1)": 0.4,
        "class-collapse gap (R2)": 0.3,
        "uniformity gap (R8)": -0.2,
        "alignment gap (R8)": -0.1,
    }
    shared = {"tau": 0.5, "beta": 510.0, "chance": 2.3}
    return [
        Score("downstream", "probe_accuracy", accuracy, "share", error, accuracy - 2 * error, accuracy + 2 * error),
        Score("downstream", "knn_accuracy", accuracy - 0.1, "share", error, accuracy - 0.11, accuracy - 0.09),
        Score("curvature", "lambda_max", eigenvalues[0], "nats", low=eigenvalues[0] - 0.01, high=eigenvalues[0] + 0.01),
        *(
            Score("curvature", f"lambda_{k + 1}", value, "nats", low=value - 0.01, high=value + 0.01)
            for k, value in enumerate(eigenvalues)
        ),
        Score.estimate("curvature", "trace", 20 - i, 0.5, "nats", converged=number != 3),
        Score.estimate(
            "curvature", "negative_mass", 0.1, 0.01, "share",
            arrays={
                "eigenvalue": grid.tolist(), "density": (0.1 + 0.01 * i + grid**2).tolist(),
                "low": [None, *(0.05 + grid[1:] ** 2).tolist()], "high": [None, *(0.3 + grid[1:] ** 2).tolist()],
            },
        ),
        Score("flatness", "worst_case", 0.9 - 0.05 * i, "nats", low=0.9 - 0.05 * i),
        Score.estimate("landscape", "rise_half", 0.4 - 0.02 * i, 0.01, "nats"),
        Score.estimate(
            "landscape", "rise_full", 1.5, 0.02, "nats",
            arrays={"offset": offset, "loss": [[2.0, 1.0, 2.0 + i], [3.0, 1.0, 3.0 + i]]},
        ),
        Score("landscape", "rise_2d", 0.4, "nats", arrays={"offset": ticks, "loss": surface}),
        *(
            Score("landscape", f"eigen_rise_{k}", 0.5 / k, "nats", arrays={
                "offset": [-0.1, 0.0, 0.1], "loss": [1 + 0.4 / k, 1.0, 1 + 0.6 / k + 0.1 * i],
                "quadratic": [1 + 9.0 / k, 1.0, 1 + 9.5 / k],
            })
            for k in (1, 2)
        ),
        Score("landscape", "eigen_rise_2d", 0.4, "nats", arrays={"offset": ticks, "second": [-2.0, 0.0, 2.0], "loss": surface}),
        Score(
            "landscape", "barrier", 0.5, "nats", low=0.5,
            arrays={"offset": [-0.25, 0.0, 0.5, 1.0, 1.25], "loss": [1.2, 1.0, 2.0 + i, 1.5, None]},
        ),
        Score("landscape", "path_rise_2d", 0.4, "nats", arrays={
            "offset": [-0.25, 0.0, 0.5, 1.0, 1.25], "second": ticks,
            "loss": [[2.0 + i, 1.5, 2.0, 1.9, 2.5], [1.2, 1.0, 1.4, 1.1, 1.3], [2.0, 1.6, 2.0, 1.8, None if i else 2.1]],
        }),
        *(
            Score.estimate(
                "shift", f"mmd2_{name}", 0.05 + 0.01 * i, 0.01, settings={"p_value": 0.01 if number % 2 else 0.5},
                arrays={"null": [0.0, 0.01]},
            )
            for name in ("marginal", "sum", "difference", "joint", "cross_moment")
        ),
        Score.estimate(
            "shift", "alignment_gap", 0.3 - 0.01 * i, 0.002, "cosine",
            arrays={
                "practical": practical, "ideal": ideal, "practical_difference": ideal, "ideal_difference": practical,
                "map_ideal": [[0.0, 0.0, 1.0, 1.0 + i], [0.5, 0.2, -0.3, 0.1]],
                "map_practical": [[0.1, 0.0, 0.2, 0.1], [0.5, 0.2, 0.6, 0.1]], "map_share": 0.6,
            },
        ),
        Score.estimate("shift", "gaussian_w2", 0.3 - 0.01 * i, 0.002),
        Score.estimate("shift", "margin_w1", 0.2, 0.01, "nats", arrays={"practical": ideal, "ideal": practical}),
        *(
            Score.estimate("views", name, value + 0.01 * i, 0.02, settings={"group": group, "part": part, "strength": strength})
            for name, group, part, strength, value in (
                ("recipe", "recipe", "all", 1.0, 0.2), ("none", "recipe", "all", 0.0, 0.5),
                ("only_crop", "alone", "crop", None, 0.3), ("without_crop", "left out", "crop", 0.0, 0.25),
                ("crop_x1.5", "strength", "crop", 1.5, 0.28), ("plain", "fourier", "fourier alpha", 0.0, 0.2),
                ("fourier_alpha1", "fourier", "fourier alpha", 1.0, 0.15), ("class_oracle", "floor", "", None, 0.1),
            )
        ),
        Score.estimate(
            "views", "fourier_relief", 0.05, 0.02, settings={"group": "verdict", "verdict": "yes", "sentence": "it does"}
        ),
        Score.estimate(
            "robustness", "mean_error", 0.5 - 0.03 * i, 0.004, "share", settings={"mark": "regenerated"},
            arrays={
                "corruption": CORRUPTIONS, "severity": SEVERITIES, "clean": 0.1, "stderr": [[0.01] * 5] * 3,
                "value": [[0.1 * s + 0.01 * k + 0.001 * i for s in SEVERITIES] for k in range(3)],
            },
        ),
        Score.estimate(
            "robustness", "mean_angle", 30.0 + i, 0.5, "degrees", settings={"mark": "regenerated"},
            arrays={
                "corruption": CORRUPTIONS, "severity": SEVERITIES, "clean": 0.0, "stderr": [[1.0] * 5] * 3,
                "value": [[10.0 * s + k + 0.1 * i for s in SEVERITIES] for k in range(3)],
            },
        ),
        Score.estimate("representation", "uniformity", -3.0 + 0.1 * i, 0.05),
        Score.estimate("representation", "effective_rank", 10 + i, 0.3, "dimensions"),
        *(
            Score("bounds", rung, 0.2, "nats", low=0.1, high=0.3, settings={
                **shared, "statement": statement, "left": 0.5, "right": 0.7, "verdict": "holds",
            })
            for rung, statement in STATEMENTS.items()
        ),
        Score(
            "bounds", "ideal_bound", 1.2 - 0.01 * i, "nats", settings={**shared, "vacuous": False},
            arrays={"step": list(steps), "value": list(steps.values())},
        ),
        *(
            Score("bounds", name, value, "nats", 0.01, value - 0.02, value + 0.02, settings={
                **shared, "vacuous": value > 2.3, "route": "R6", "confidence": 0.95,
            }, arrays=CHAIN if "chain" in name else {})
            for name, value in (
                ("mean_classifier_loss", 1.0 - 0.01 * i), ("tightest_route", 1.3 - 0.01 * i), ("chain", 2.4 - 0.01 * i),
                ("chain_pac_bayes", 4.0),
            )
        ),
        Score(
            "bounds", "pac_bayes", 6.5, "nats",
            settings={**shared, "scale": 0.1, "constant": 6.2, "vacuous": True}, arrays=TRADE_OFF,
        ),
    ]  # fmt: skip


CHAIN = {"step": ["trained probe", "mean classifier", "class collapse", "complexity"], "value": [0.5, 0.5, 0.2, 1.2]}
TRADE_OFF = {
    "scale": [0.01, 0.1, 1.0], "loss": [5.0, 5.0, 5.0], "sharpness": [0.0, 0.2, 1.0], "monte_carlo": [0.1, 0.1, 0.1],
    "complexity": [3.0, 1.2, 0.9], "classic_complexity": [30.0, 3.0, 1.0], "bound": [8.1, 6.5, 7.0],
}  # fmt: skip


def table_of(checkpoints: dict[str, tuple[str, list[Score]]], data: str = "digits") -> pd.DataFrame:
    """A table as ``Store.frame()`` gives it, from name -> (method, scores)."""
    rows = []
    for name, (method, scores) in checkpoints.items():
        epoch, run = 3.0 + int(name[-1] == "1"), f"run of {method}"
        known = {"settings": {"method": method, "lr": 0.1 + 0.1 * int(name[-1])}, "loss": 4.0} if "-s" in name else {}
        for s in scores:
            number = [np.nan if v is None else v for v in (s.value, s.stderr, s.low, s.high)]
            about = [s.unit, s.converged, 0, 1.0, "0.1.0/1", dict(s.settings), dict(s.arrays), "e", epoch, run, known]
            rows.append([name, f"runs/{name}/last.pt", f"sha-{name}", method, data, s.measure, s.name, *number, *about])
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def names_of(count: int = 8) -> dict[str, str]:
    """Name -> method; two checkpoints a method, as in the demo."""
    return {f"{METHODS[i % 4]}-s{i // 4}": METHODS[i % 4] for i in range(count)}


def cell_of(name: str, measure: str, data: str = "digits") -> Cell:
    sha256, fingerprint = (hashlib.sha256(text.encode()).hexdigest() for text in (name, data))
    return Cell(f"runs/{name}/last.pt", sha256, measure, {"seed": 0}, data, fingerprint[:16], "0.1.0/1")


def fill(store: Store, name: str, method: str, scores: list[Score], data: str = "digits") -> None:
    """Write the scores of one checkpoint, one cell a measure, as scoring does."""
    for measure in dict.fromkeys(s.measure for s in scores):
        cell = cell_of(name, measure, data)
        training = {"settings": {"method": method}, "epoch": 3 + int(name[-1] == "1"), "data": {"name": data}}
        report = LoadReport(cell.path, cell.sha256, "ssa-analyze", "convnet, width 4", 20, 1740, True, False, {}, [], training)
        store.write(CellResult(cell, [s for s in scores if s.measure == measure], seconds=1.0, report=report))


def write_report_of_all(folder: Path) -> Path:
    """The page of a store with all scores of eight checkpoints."""
    with Store(folder / "scores.db") as store:
        for number, (name, method) in enumerate(names_of().items()):
            fill(store, name, method, scores_of(number))
        return write_report(store, folder / "report")
