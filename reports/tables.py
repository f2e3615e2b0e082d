"""Tables of a store as data frames, CSV and LaTeX."""

from __future__ import annotations

import numpy as np
import pandas as pd
from ssa_analysis.reports.analysis import linking_of
from ssa_analysis.reports.figures.frames import rows_of
from ssa_analysis.reports.names import KEY_SCORES, RUNG, labelled
from ssa_analysis.reports.style import method_label

from ssa_analysis.linking.hypotheses import HypothesisSettings, verdict_table
from ssa_analysis.linking.links import link_table
from ssa_analysis.linking.prediction import prediction_table
from ssa_analysis.texts import no_formula


def with_error(value: float, stderr: float | None, low: float | None = None, high: float | None = None) -> str:
    """``0.959 ± 0.009``: the value to the second digit of its error, the error to two digits."""
    if value is None or not np.isfinite(value):
        return "n/a"
    error = stderr
    if (error is None or not np.isfinite(error)) and low is not None and high is not None and np.isfinite(high - low):
        error = (high - low) / 2
    if error is None or not np.isfinite(error) or error <= 0 or error < 1e-4 * abs(value):
        return f"{value:.4g}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Checkpoints x key scores, as text with standard errors; columns that nobody has are left out."""
    keys = [row.key for row in KEY_SCORES if not rows_of(frame, *row.key.split(".")).empty]
    columns: dict[str, dict[str, str]] = {}
    for key in keys:
        rows = rows_of(frame, *key.split("."))
        columns[labelled(frame, key)] = {
            str(r.checkpoint): with_error(r.value, r.stderr, r.low, r.high) + ("" if r.converged else " *")
            for r in rows.itertuples()
        }
    methods = frame.drop_duplicates("checkpoint").set_index("checkpoint")["method"].fillna("unknown")
    table = pd.DataFrame(columns).reindex(methods.index)
    table.insert(0, "method", [method_label(m) for m in methods])
    return table.fillna("").rename_axis("checkpoint").reset_index()


def score_table(frame: pd.DataFrame) -> pd.DataFrame:
    """All scores, one a row, as numbers; ``note`` says what must be said of them, for instance ``regenerated``."""
    columns = [
        "checkpoint",
        "method",
        "data",
        "measure",
        "name",
        "value",
        "stderr",
        "low",
        "high",
        "unit",
        "converged",
        "seed",
        "seconds",
    ]
    notes = [str(settings.get("mark") or "") for settings in frame["settings"]]
    return frame[columns].assign(note=notes).reset_index(drop=True)


def bounds_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Every rung of every checkpoint: both sides, slack with interval, verdict."""
    rows = frame[(frame["measure"] == "bounds") & frame["name"].str.fullmatch(RUNG)]
    return pd.DataFrame(
        [
            {
                "checkpoint": r["checkpoint"], "rung": r["name"], "statement": r["settings"]["statement"],
                "left": r["settings"]["left"], "right": r["settings"]["right"], "slack": r["value"],
                "low": r["low"], "high": r["high"], "verdict": r["settings"]["verdict"],
            }
            for _, r in rows.iterrows()
        ]
    )  # fmt: skip


def links_table(frame: pd.DataFrame, settings: HypothesisSettings | None = None) -> pd.DataFrame:
    """Links of every score with the target; empty with too few checkpoints."""
    return link_table(list(linking_of(frame, settings).links))


def verdicts_table(frame: pd.DataFrame, settings: HypothesisSettings | None = None) -> pd.DataFrame:
    """Every number behind the verdicts on the claims of the theory."""
    return verdict_table(linking_of(frame, settings).verdicts)


def predictions_table(frame: pd.DataFrame, settings: HypothesisSettings | None = None) -> pd.DataFrame:
    """How well sets of scores predict the target of configurations, and of methods, that were left out."""
    return prediction_table(linking_of(frame, settings).predictions)


def to_latex(table: pd.DataFrame, note: str) -> str:
    """A booktabs table with a footnote that states the protocol."""
    plain = table.copy()
    for column in plain.columns:
        if pd.api.types.is_float_dtype(plain[column]):
            plain[column] = [f"{v:.4g}" if np.isfinite(v) else "n/a" for v in plain[column]]
    plain = plain.astype(str)
    body = plain.rename(columns=_escape).map(_escape)
    rows = [" & ".join(values) + r" \\" for values in body.itertuples(index=False)]
    header = " & ".join(body.columns) + r" \\"
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * len(body.columns)}}}",
        r"\toprule",
        header,
        r"\midrule",
    ]
    return "\n".join([*lines, *rows, r"\bottomrule", r"\end{tabular}", rf"\par\footnotesize {_escape(note)}", ""])


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "²": r"$^2$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
}  # fmt: skip


def _escape(text: object) -> str:
    return "".join(_LATEX.get(c, c) for c in str(text))


def safe_csv(table: pd.DataFrame) -> str:
    """CSV in which no text can be taken for a formula by a spreadsheet, see :func:`~ssa_analysis.texts.no_formula`."""
    return table.rename(columns=no_formula).map(no_formula).to_csv(index=False)
