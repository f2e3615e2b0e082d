"""The table of docs/reliability.md: every trial in full.

    python tests/reliability/table.py [--only NAME,...] [--write docs/reliability.md]

Without ``--write`` the rows are printed. With it they replace those of the same trials in the document; the others stay.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    sys.path[:0] = [str(HERE), str(HERE.parent)]

from trial import TRIALS, Tally, Trial  # noqa: E402

BEGIN, END = "<!-- trials: made by tests/reliability/table.py -->", "<!-- end of trials -->"
HEADER = "| trial | fault | what should hold | times | held | seen | minutes |\n|---|---|---|---|---|---|---|\n"


def import_trials() -> None:
    """Import every module of trials in this folder, which fills the table."""
    for path in sorted(HERE.glob("trials_*.py")):
        importlib.import_module(path.stem)


def names_of(group: str) -> list[str]:
    """The names of a group's trials that the tests make."""
    import_trials()
    return [name for name, made in TRIALS.items() if made.group == group and made.few]


def few_times(name: str, folder: Path) -> None:
    """A trial as a test makes it."""
    import pytest

    made = TRIALS[name]
    if reason := made.absent():
        pytest.skip(reason)
    tally = made.run(folder, made.few)
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.tried >= made.few, "the fault was not brought about as often as it should have been"


def row_of(name: str, made: Trial, tally: Tally, seconds: float) -> str:
    """A row in Markdown."""
    seen = "; ".join([*(f"{count} {what}" for what, count in sorted(tally.outcomes.items(), key=lambda x: -x[1])), *tally.notes])
    held = tally.tried - len(tally.failures)
    cells = (f"`{name}`", made.fault, made.expected, f"{tally.tried:,}", f"{held:,}", seen, f"{seconds / 60:.1f}")
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def merged(document: str, rows: dict[str, str]) -> str:
    """The document with these rows in its table, in the order of the trials; rows of trials that are no more are gone."""
    before, _, rest = document.partition(BEGIN)
    table, _, after = rest.partition(END)
    known = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` \|.*$", table, re.M)}
    rows = {name: row for name, row in {**known, **rows}.items() if name in TRIALS}
    ordered = "\n".join(rows[name] for name in TRIALS if name in rows)
    return f"{before}{BEGIN}\n\n{HEADER}{ordered}\n\n{END}{after}"


def main() -> int:
    """Make the trials; exit code 1 if anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated names; default: all")
    parser.add_argument("--few", action="store_true", help="as often as in the tests")
    parser.add_argument("--write", type=Path, help="the document whose table is brought up to date after each trial")
    arguments = parser.parse_args()
    import_trials()
    names = arguments.only.split(",") if arguments.only else list(TRIALS)
    failed = False
    for name in names:
        made = TRIALS[name]
        if reason := made.absent():
            print(f"{name}: left out, {reason}", file=sys.stderr)
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
            tally = made.run(Path(folder), made.few if arguments.few else made.many)
        row = row_of(name, made, tally, time.monotonic() - started)
        print(row, flush=True)
        for problem in tally.failures:
            failed = True
            print(f"  did not hold: {problem}", file=sys.stderr, flush=True)
        if arguments.write is not None:
            arguments.write.write_text(merged(arguments.write.read_text(encoding="utf-8"), {name: row}), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
