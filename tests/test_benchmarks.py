"""The benchmark runs and prints what it promises. Never its figures: those of a tiny net in a busy process mean nothing."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from processes import run_script

ROOT = Path(__file__).resolve().parents[1]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))]
FIELDS = [
    "work", "peer", "ours_seconds", "peer_seconds", "ratio", "ours_error", "peer_error", "ours_peak_mib", "peer_peak_mib",
    "ours_products", "peer_products", "device",
]  # fmt: skip


def run(name: str, *arguments: str) -> str:
    done = run_script(ROOT / "benchmarks" / name, *arguments, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("device", DEVICES)
def test_curvature_prints_one_object_a_line_with_the_documented_fields(device: str, tmp_path: Path) -> None:
    printed = run("curvature.py", "--smoke", "--json", "--device", device)
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
        work = row["work"] + ("" if device == "cpu" else f", on {row['device']}")
        assert line.replace("\\|", "|").startswith(f"| {work} | {row['peer']} | {row['ratio']:.1f} | ")


@pytest.mark.parametrize("device", DEVICES)
def test_shift_prints_a_row_for_every_peer_that_is_installed(device: str) -> None:
    rows = [json.loads(line) for line in run("shift.py", "--smoke", "--json", "--device", device).splitlines()]
    assert all(list(row) == FIELDS for row in rows)
    peers = {
        "MMD": {"torchdrift": "torchdrift", "hyppo": "hyppo"},
        "exact W1": {"POT": "ot"},
        "sliced W2": {"POT": "ot"},
        "Sinkhorn": {"geomloss": "geomloss"},
    }
    if device != "cpu":
        del peers["MMD"]["hyppo"], peers["exact W1"]
    for part, modules in peers.items():
        there = {name for name, module in modules.items() if importlib.util.find_spec(module) is not None}
        assert {p for p in modules if any(part in r["work"] and p in r["peer"] for r in rows)} == there, part
    assert any("GEMM" in row["peer"] for row in rows)
    for row in rows:
        assert row["ratio"] == row["peer_seconds"] / row["ours_seconds"]
        assert row["ours_error"] < 1e-3  # of float32 and of the tolerance, whatever the size
        assert row["peer_error"] is None or row["peer_error"] < 0.05
    extrapolated = [row for row in rows if "extrapolated from 2 permutations" in row["peer"]]
    assert len(extrapolated) == len([row for row in rows if row["peer"].startswith(("torchdrift", "hyppo"))])


def test_shift_runs_the_parts_that_are_asked_for_and_refuses_others() -> None:
    rows = [json.loads(line) for line in run("shift.py", "--smoke", "--json", "--only", "exact").splitlines()]
    assert {row["work"].split(",")[0] for row in rows} <= {"exact W1 from the cost matrix"}
    with pytest.raises(AssertionError, match="--only takes some of mmd,exact,sliced,sinkhorn, got energy"):
        run("shift.py", "--only", "energy,mmd")


@pytest.mark.skipif(importlib.util.find_spec("imagecorruptions") is None, reason="imagecorruptions-imaug is not installed")
@pytest.mark.parametrize("device", DEVICES)
def test_corruptions_print_a_row_for_each_and_for_the_suite(device: str) -> None:
    rows = [json.loads(line) for line in run("corruptions.py", "--smoke", "--json", "--device", device).splitlines()]
    assert all(list(row) == FIELDS for row in rows)
    assert len(rows) == 19 + 1
    assert rows[-1]["work"] == "the suite of 15 x 5, 32 px, 1,000 images"
    assert {row["peer"] for row in rows} == {"imagecorruptions-imaug"}
    for row in rows:
        assert row["ratio"] == row["peer_seconds"] / row["ours_seconds"]
    extra = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    common = [row for row in rows[:-1] if not row["work"].startswith(extra)]
    assert rows[-1]["ours_seconds"] == pytest.approx(sum(row["ours_seconds"] for row in common))
    few = [json.loads(line) for line in run("corruptions.py", "--smoke", "--json", "--only", "fog", "--severities").splitlines()]
    assert [row["work"].split(",")[0] for row in few] == ["fog"] * 6
    assert few[-1]["peer_seconds"] == pytest.approx(sum(row["peer_seconds"] for row in few[:-1]))
    with pytest.raises(AssertionError, match="--only takes some of gaussian_noise"):
        run("corruptions.py", "--only", "fgo")


@pytest.mark.parametrize("device", DEVICES)
def test_training_prints_a_row_for_each_method_the_views_and_what_is_faster(device: str) -> None:
    rows = [json.loads(line) for line in run("training.py", "--smoke", "--json", "--device", device).splitlines()]
    assert {row["device"] == "cpu" for row in rows} == {device == "cpu"}
    assert {row["ours_peak_mib"] is None for row in rows} == {device == "cpu"}
    assert all(list(row) == FIELDS for row in rows)
    works = [row["work"].split(", ")[0] for row in rows]
    assert works[:5] == [
        "SimCLR + SAM step", "SimCLR + Fourier step", "SSA-CLR step", "views of a SimCLR step", "views of a SSA-CLR step",
    ]  # fmt: skip
    for row in rows:
        assert row["ratio"] == row["peer_seconds"] / row["ours_seconds"]
    (loss,) = [row for row in rows if row["peer"] == "pytorch-metric-learning"]
    assert loss["ours_error"] < 1e-5
