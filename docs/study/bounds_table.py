"""Tables of verdicts, slacks and certificates from stores that ``ssa-analyze bounds --store`` wrote, in Markdown.

python docs/study/bounds_table.py STORE...
"""

from __future__ import annotations

import sys

import pandas as pd

from ssa_analysis.running.store import Store

RUNGS = ("R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R9_pac_bayes")
CAUSES = ("mean_classifier", "class_collapse", "shift", "jensen", "finite_k", "complexity")


def cell(row: pd.Series) -> str:
    """Slack with its standard error; the verdict where it is not `holds`."""
    verdict = {"holds": "", "holds within error": " (±)", "violated": " **violated**"}[row["settings"]["verdict"]]
    return f"{row['value']:.3g} ± {row['stderr']:.1g}{verdict}"


def main(paths: list[str]) -> None:
    """Print the tables."""
    rungs, ends, verdicts = [], [], []
    for path in paths:
        with Store(path, must_exist=True) as store:
            frame = store.frame()
        for (data, checkpoint), rows in frame[frame["measure"] == "bounds"].groupby(["data", "checkpoint"], sort=False):
            own = {row["name"]: row for _, row in rows.iterrows()}
            name = f"{data}: {checkpoint}"
            rungs.append({"checkpoint": name, **{r.replace("_pac_bayes", " PB"): cell(own[r]) for r in RUNGS if r in own}})
            verdicts += [own[r]["settings"]["verdict"] for r in RUNGS if r in own]
            shares = ", ".join(f"{own[key]['value']:.0%}" if (key := f"share_{c}") in own else "-" for c in CAUSES)
            certified = own["chain"]["settings"]["confidence"] is not None
            noisy = own.get("chain_pac_bayes")
            ends.append(
                {
                    "checkpoint": name, "probe": f"{own['probe_loss']['value']:.3f}",
                    "mean classifier": f"{own['mean_classifier_loss']['value']:.3f}", "R2": f"{own['ideal_bound']['value']:.3f}",
                    "route": f"{own['tightest_route']['value']:.3f} ({own['tightest_route']['settings']['route']})",
                    "chain": f"{own['chain']['value']:.3f}" + ("" if certified else " (no certificate)"),
                    "chance": f"{own['chain']['settings']['chance']:.3f}",
                    "chain, PAC-Bayes": "-" if noisy is None else f"{noisy['value']:.2f}", "shares": shares,
                    "certificate": f"{own['certificate']['value']:.3f}", "kl": f"{own['certificate_kl']['value']:.3f}",
                    "PAC-Bayes": f"{own['pac_bayes']['value']:.3f}",
                    "constant": f"{own['certificate']['settings']['constant']:.3f}",
                }
            )  # fmt: skip
    for rows in (rungs, ends):
        print(markdown(rows), end="\n\n")
    counts = pd.Series(verdicts).value_counts()
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def markdown(rows: list[dict[str, str]]) -> str:
    """A table from rows with the same keys."""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads), *([row.get(head, "") for head in heads] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
