"""Make the golden run anew: ``python tests/golden/make.py [--checkpoints] [--compare [--json FILE]]``.

Writes ``scores.json`` beside this file. Commit it only where a measure changed on purpose and its ``revision`` was raised.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch  # noqa: E402
from golden import (  # noqa: E402
    CURVE,
    EXPECTED,
    FOLDER,
    METHODS,
    ROWS,
    differences,
    expected,
    golden_data,
    made_with,
    moved,
    one_thread,
    scores_of,
    train_golden,
)

from ssa_analysis.checkpoints.writing import save_checkpoint  # noqa: E402


def main() -> int:
    """Write the scores, or compare them; exit code 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", action="store_true", help="train the two checkpoints anew as well")
    parser.add_argument("--compare", action="store_true", help="write nothing; say how far every number moved")
    parser.add_argument("--json", type=Path, help="with --compare: where a summary goes")
    arguments = parser.parse_args()
    one_thread()
    data = golden_data()
    curves = {}
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            path, curves[method] = train_golden(method, data, Path(folder) / method)
            if arguments.checkpoints:
                keep(path, FOLDER / f"{method}.pt", initial=method == METHODS[0])
    found = {
        "made with": made_with(), "data": data.fingerprint, "training": curves,
        "scores": {m: {row: scores_of(m, row, data) for method, row in ROWS if method == m} for m in METHODS},
    }  # fmt: skip
    if arguments.compare:
        return compare(expected(), found, arguments.json)
    EXPECTED.write_text(written(found), encoding="utf-8")
    return 0


def keep(run: Path, path: Path, initial: bool) -> None:
    """The checkpoint of a run without the state of its optimiser, with its initialisation or without."""
    payload = torch.load(run, weights_only=True)
    left_out = {"optimizer", "rng", "format", "version", *(() if initial else ("initial",))}
    save_checkpoint(path, {key: value for key, value in payload.items() if key not in left_out})


def written(found: dict[str, object]) -> str:
    """JSON with a line for each score."""
    text = json.dumps(found, indent=1)
    lines, inner = [], False
    for line in text.splitlines():
        bare = line.strip()
        if inner:
            lines[-1] += bare if lines[-1].endswith(("{", "[")) else f" {bare}"
            inner = not bare.startswith(("}", "]"))
        else:
            lines.append(line)
            inner = bare.endswith("[") or (bare.endswith("{") and line.startswith(" " * 4))
    return "\n".join(lines).replace(" }", "}").replace(" ]", "]") + "\n"


def compare(before: dict[str, Any], found: dict[str, Any], path: Path | None) -> int:
    """Print the largest moves of each row of scores, and write a summary."""
    print("made with", before["made with"], "now", found["made with"])
    problems = [] if before["data"] == found["data"] else ["other images"]
    curve = in_errors = 0.0
    count = 0
    for method in METHODS:
        ratios = [abs(b / a - 1) for a, b in zip(before["training"][method], found["training"][method], strict=True)]
        curve = max([curve, *ratios])
        print(f"{method}: loss of the epochs moved by", ", ".join(f"{r:.1e}" for r in ratios))
        problems += [f"{method}: training moved by {r:.2g}" for r in ratios if r > CURVE]
        for row in [row for each, row in ROWS if each == method]:
            was, now = before["scores"][method][row], found["scores"][method][row]
            both = [name for name in was if name in now]
            by, name = max((moved(was[name], now[name]), name) for name in both)
            errors = [abs(now[n]["value"] - was[n]["value"]) / was[n]["stderr"] for n in both if was[n]["stderr"]]
            lines = differences(was, now)
            print(f"  {row}: {len(was)} scores, the largest move {by:.2g} of what it may ({name})", end="")
            print(f", {max(errors):.1e} standard errors at most" if errors else "")
            print(*(f"     {line}\n" for line in lines), sep="", end="")
            problems += [f"{method}, {row}: {line}" for line in lines]
            in_errors, count = max([in_errors, *errors]), count + len(was)
    if path is not None:
        summary = {"torch": found["made with"]["torch"], "scores": count, "in_errors": in_errors, "training": curve}
        path.write_text(json.dumps({**summary, "problems": problems}), encoding="utf-8")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
