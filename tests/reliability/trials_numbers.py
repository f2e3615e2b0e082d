"""Trials of the numbers: degenerate inputs, degenerate stores, and other versions of torch."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import degenerate
import degenerate_stores
from trial import Tally, trial

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
VERSIONS = "SSA_GOLDEN_PYTHONS"

# what was once wrong comes first, so that the few times of the tests are these
ONCE_WRONG = (
    ("curvature", "all weights are zero"),
    ("curvature", "features x 1e15"),
    ("curvature", "features x 1e-15"),
    ("bounds", "2 images, no labels"),
    ("landscape, eigenvectors", "weights x 1e-30"),
    ("flatness", "all weights are zero"),
    ("flatness", "radii and noises 1e10"),
    ("representation", "a weight is NaN"),
    ("representation", "weights x 1e20"),
    ("representation", "1 image, no labels"),
    ("representation", "2 images, no labels"),
    ("representation", "no held-out images, no labels"),
    ("representation", "1 pair"),
    ("representation", "as little as can be"),
    ("representation", "none at all"),
    ("downstream", "a weight is infinite"),
    ("downstream", "none at all"),
    ("downstream", "kNN temperature 1e-6"),
    ("robustness", "a weight is infinite"),
    ("shift, recipes", "a weight is NaN"),
    ("views", "a weight is NaN"),
    ("bounds", "1 image, no labels"),
    ("bounds", "more than there is"),
    ("bounds", "one block of noise"),
    ("bounds", "tau 1e-6"),
    ("bounds", "nothing is wrong"),
)
CASES = {case.name: case for case in degenerate.CASES}
EVERY = [(row, name) for row in degenerate.SMALL for name, case in CASES.items() if degenerate.settings_of(row, case) is not None]
ORDER = [*ONCE_WRONG, *(pair for pair in EVERY if pair not in ONCE_WRONG)]


@trial(
    "numbers",
    f"{len(CASES)} degenerate encoders, images and settings, each measured by every measure ({len(degenerate.SMALL)} ways): NaN, "
    "zeros, dead ReLUs, one class, 0 to 3 images, copies, extreme scales and temperatures, more asked for than there is",
    "finite scores, or marked as unknown, or one line that says why not; no warning, no other exception, no theorem violated",
    few=len(ONCE_WRONG),
    many=len(ORDER),
)
def degenerate_inputs(tally: Tally, times: int, folder: Path) -> None:
    data = degenerate.plain_data()
    for row, name in ORDER[:times]:
        seen, problems = degenerate.verdict(degenerate.measured(row, CASES[name], data))
        tally.count(seen, "; ".join(f"{row}, {name}: {problem}" for problem in problems))


@trial(
    "numbers",
    "stores of 0 to 8 checkpoints with constant, missing, infinite, tied, huge, tiny scores: linked, judged, predicted, compared",
    "finite coefficients, or one line that says why not; no warning, no other exception",
    few=36,
    many=len(degenerate_stores.EVERY),
)
def degenerate_links(tally: Tally, times: int, folder: Path) -> None:
    for count, name, action in degenerate_stores.EVERY[:times]:
        seen, problem = degenerate_stores.tried(count, name, action)
        tally.count(seen, problem and f"{action} of {count} checkpoints, {name}: {problem}")


@trial(
    "numbers",
    "the page and its tables of stores of 1 to 4 checkpoints with such scores",
    "a page, whatever the scores",
    few=1,
    many=len(degenerate_stores.REPORTS),
)
def degenerate_reports(tally: Tally, times: int, folder: Path) -> None:
    for number, (count, name) in enumerate(degenerate_stores.REPORTS[:times]):
        seen, problem = degenerate_stores.reported(count, name, folder / str(number))
        tally.count(seen, problem and f"{count} checkpoints, {name}: {problem}")


def interpreters() -> list[str]:
    """Those that ``tests/golden/versions.sh`` made, from the environment variable."""
    return [path for path in os.environ.get(VERSIONS, "").split(os.pathsep) if path]


@trial(
    "numbers",
    "the golden run by other versions of torch, scored and trained anew",
    "every score within a quarter of its stated error of the committed one, or 2e-4 of its size; losses of training within 2 %",
    many=len(interpreters()),
    absent=lambda: "" if interpreters() else f"{VERSIONS} names no interpreters; tests/golden/versions.sh makes some",
)
def golden_versions(tally: Tally, times: int, folder: Path) -> None:
    for number, python in enumerate(interpreters()[:times]):
        found = folder / f"{number}.json"
        command = [python, "-W", "ignore", str(GOLDEN / "make.py"), "--compare", "--json", str(found)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        if not found.exists():
            tally.count("not run", f"{python}: {(done.stderr.splitlines() or ['no output'])[-1]}")
            continue
        report = json.loads(found.read_text())
        for score in range(report["scores"]):
            problem = report["problems"][score] if score < len(report["problems"]) else ""
            tally.count(f"scores with torch {report['torch']}", problem)
        tally.notes.append(
            f"torch {report['torch']}: scores moved by {report['in_errors']:.1g} standard errors at most, training by "
            f"{report['training']:.1g}"
        )
