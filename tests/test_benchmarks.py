"""The benchmark runs and prints what it promises. Never its figures: those of a tiny net in a busy process mean nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIELDS = [
    "work", "peer", "ours_seconds", "peer_seconds", "ratio", "ours_error", "peer_error", "ours_peak_mib", "peer_peak_mib",
    "ours_products", "peer_products",
]  # fmt: skip


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curvature_prints_one_object_a_line_with_the_documented_fields(tmp_path: Path) -> None:
    printed = run("curvature.py", "--smoke", "--json")
    rows = [json.loads(line) for line in printed.splitlines()]
    assert all(list(row) == FIELDS for row in rows)
    for part in ("eigenvalues", "trace", "memory", "density"):
        assert {p for p in ("PyHessian", "curvlinops") if any(part in r["work"] and p in r["peer"] for r in rows)} == {
            "PyHessian",
            "curvlinops",
        }, part
    for row in rows:
        assert row["ours_products"] > 0
        assert row["peer_products"] > 0
        assert row["ratio"] == row["peer_seconds"] / row["ours_seconds"]
    timed = [r for r in rows if "memory" not in r["work"]]
    assert all(r["ours_error"] is not None and r["peer_error"] is not None for r in timed)
    (tmp_path / "rows.json").write_text(printed)
    heading, rule, *table = run("common.py", str(tmp_path / "rows.json")).splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in (heading, rule, *table)}) == 1
    for line, row in zip(table, rows, strict=True):
        assert line.replace("\\|", "|").startswith(f"| {row['work']} | {row['peer']} | {row['ratio']:.1f} | ")
