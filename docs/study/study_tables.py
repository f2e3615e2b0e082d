"""Prints the table of verdicts and the numbers that the pages of the studies name: ``python docs/study/study_tables.py``."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent


def interval(value: float, low: float, high: float) -> str:
    """``+0.08 [-0.29, +0.33]``, without the interval where there is none."""
    known = f" [{low:+.2g}, {high:+.2g}]" if pd.notna(low) else ""
    return f"{value:+.2g}{known}"


def verdict_rows(name: str) -> str:
    """One row a claim: the verdict on the whole, and every number behind it."""
    from ssa_analysis.linking.hypotheses import CLAIMS

    table = pd.read_csv(HERE / name / "verdicts.csv", dtype={"hypothesis": str})
    lines = []
    for key, rows in table.groupby("hypothesis", sort=False):
        parts = [f"{r.claim}: {interval(r.value, r.low, r.high)}, p {r.p_holm:.2g}" for r in rows.itertuples()]
        lines.append(f"| {key} {CLAIMS[key]} | **{rows['on the whole'].iloc[0]}** | {'; '.join(parts)} |")
    return "\n".join(lines)


def accuracies(name: str) -> str:
    """The range of probe accuracies, and their mean for each method."""
    table = pd.read_csv(HERE / name / "summary.csv")
    accuracy = table["probe accuracy"].str.split(" ").str[0].astype(float)
    means = ", ".join(f"{method} {value:.3f}" for method, value in accuracy.groupby(table["method"]).mean().items())
    return f"{len(table)} checkpoints, probe accuracy {accuracy.min():.2f} to {accuracy.max():.2f}; means: {means}"


def main() -> None:
    """Print the rows, and the numbers that the text names."""
    for name in ("digits", "cifar10-cpu"):
        if (HERE / name / "verdicts.csv").is_file():
            print(f"## {name}\n{accuracies(name)}\n{verdict_rows(name)}\n")
            found = pd.read_csv(HERE / name / "predictions.csv")
            for row in found.itertuples():
                print(f"{row.predictor}, a {row._2} left out: R2 {interval(row.R2, row.R2_low, row.R2_high)}")
    links = HERE / "digits" / "links.json"
    for link in json.loads(links.read_text()):
        print(
            f"{link['score']}: {interval(link['spearman'], link['spearman_low'], link['spearman_high'])}, p {link['p_holm']:.2g}"
        )


if __name__ == "__main__":
    main()
