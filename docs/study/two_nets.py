"""Two checkpoints side by side, every score: which is sharper, and do the intervals tell them apart?

    python docs/study/two_nets.py STORE FIRST SECOND [MEASURE ...]

FIRST and SECOND are what the checkpoints' names begin with. Prints a Markdown table.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd

from ssa_analysis.running.store import Store

LARGER_IS_FLATTER = ("pac_bayes_sigma", "adaptive_pac_bayes_sigma")
NO_SHARPNESS = ("loss", "lambda_ratio", "effective_rank", "lambda_1", "lambda_min", "spectral_norm")


def cell(row: pd.Series) -> str:
    """Value and error; a lower bound is marked, and a star where the run stopped before its tolerance."""
    if pd.notna(row["stderr"]) and row["stderr"] > 0:
        digits = max(0, 1 - math.floor(math.log10(row["stderr"])))
        small = abs(row["value"]) < 1e-3
        text = f"{row['value']:.3g} ± {row['stderr']:.1g}" if small else f"{row['value']:.{digits}f} ± {row['stderr']:.{digits}f}"
    else:
        text = f"{row['value']:.4g}"
    bound = "≥ " if row["settings"].get("error") == "lower bound" else ""
    return bound + text + ("" if row["converged"] else " *")


def interval(row: pd.Series) -> tuple[float, float]:
    """What the score is known to lie in; a value without an error is exact."""
    low, high = (row[edge] if pd.notna(row[edge]) else row["value"] for edge in ("low", "high"))
    return low, math.inf if row["settings"].get("error") == "lower bound" else high


def verdict(name: str, first: pd.Series, second: pd.Series) -> str:
    """``first``, ``second``, or that nothing follows."""
    if name in NO_SHARPNESS or name.startswith("eigen_"):
        return "-"
    (low_a, high_a), (low_b, high_b) = interval(first), interval(second)
    if max(low_a, low_b) <= min(high_a, high_b):
        return "not told apart"
    larger = "first" if first["value"] > second["value"] else "second"
    return {"first": "second", "second": "first"}[larger] if name in LARGER_IS_FLATTER else larger


def main() -> None:
    """Print the table."""
    store, first, second, *measures = sys.argv[1:]
    frame = Store(Path(store)).frame()
    print("| score | first | second | second / first | sharper | unchanged under rescaling |\n|---|---|---|---|---|---|")
    for measure in measures or sorted(frame["measure"].unique()):
        rows = [
            frame[(frame["measure"] == measure) & frame["checkpoint"].str.startswith(name)].set_index("name")
            for name in (first, second)
        ]
        for name in rows[0].index.intersection(rows[1].index, sort=False):
            a, b = (r.loc[name] for r in rows)
            ratio = f"{b['value'] / a['value']:.3g}" if a["value"] else "-"
            invariant = a["settings"].get("invariance", "none")
            print(f"| {measure} {name} | {cell(a)} | {cell(b)} | {ratio} | {verdict(name, a, b)} | {invariant} |")


if __name__ == "__main__":
    main()
