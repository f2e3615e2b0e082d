"""Baselines of mCE: AlexNet's published errors, files in several spellings, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ssa_analysis.data.corruptions import COMMON
from ssa_analysis.errors import SettingsError
from ssa_analysis.measures.corruption_baseline import load_baseline

HEAD = "checkpoint,measure,name,value\n"


def test_alexnet_is_the_published_one_and_for_imagenet_only() -> None:
    alexnet = load_baseline("AlexNet", 1000)
    assert tuple(alexnet.errors) == COMMON
    assert alexnet.errors["gaussian_noise"] == 0.886428
    assert alexnet.errors["brightness"] == 0.564592
    assert alexnet.errors["jpeg_compression"] == 0.6065
    assert alexnet.clean == pytest.approx(0.435, abs=5e-4)
    with pytest.raises(SettingsError, match="ImageNet-C with 1000 classes, this data set has 10"):
        load_baseline("alexnet", 10)


def test_a_table_of_errors_with_or_without_severities(tmp_path: Path) -> None:
    path = tmp_path / "base.csv"
    path.write_text("corruption,severity,error\nfog,1,0.2\nfog,2,0.4\nsnow,1,0.5\nclean,0,0.1\n")
    baseline = load_baseline(str(path), 10)
    assert dict(baseline.errors) == {"fog": pytest.approx(0.3), "snow": 0.5}
    assert (baseline.name, baseline.clean) == ("base.csv", 0.1)
    path.write_text("corruption,error\nfog,0.2\n")
    assert load_baseline(str(path), 10).clean is None
    with pytest.raises(SettingsError, match=r"base\.csv has no error for snow, frost; mCE needs all"):
        load_baseline(str(path), 10).require(("fog", "snow", "frost"))


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_what_score_and_export_write_is_a_baseline(kind: str, tmp_path: Path) -> None:
    values = {
        "clean_error": 0.1,
        "mean_error": 0.3,
        "error_increase": -0.2,
        "error_noise": 0.4,
        "error_fog": 0.25,
        "error_snow": 0.5,
    }
    rows = [{"checkpoint": "a.pt", "measure": "robustness", "name": name, "value": value} for name, value in values.items()]
    rows.append({"checkpoint": "a.pt", "measure": "shift", "name": "error_frost", "value": 3.0})
    path = tmp_path / f"base.{kind}"
    path.write_text(json.dumps(rows) if kind == "json" else pd.DataFrame(rows).to_csv(index=False))
    baseline = load_baseline(str(path), 10)
    assert dict(baseline.errors) == {"fog": 0.25, "snow": 0.5}
    assert baseline.clean == 0.1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "corruption,error\nfgo,0.1\n", "unknown corruption in .*'fgo'; did you mean fog"),
        ("a.csv", "corruption,error\nfog,much\n", "column error must hold numbers"),
        ("a.csv", "corruption,error\nfog,30\n", "error of fog must be a share above 0 and up to 1, got 30"),
        ("a.csv", "corruption,error\nfog,0\n", "error of fog must be a share"),
        ("a.csv", "corruption,error\nclean,0.1\n", "no errors of corruptions"),
        ("a.csv", "what,ever\n1,2\n", "no scores of robustness"),
        ("a.csv", "", "not a readable baseline"),
        (
            "a.csv",
            "checkpoint,measure,name,value\na,robustness,error_fog,.1\nb,robustness,error_fog,.2\n",
            r"2 checkpoints \(a, b\)",
        ),
        ("a.json", "{}", "must be a list of scores"),
        ("a.json", "nonsense", "not a readable baseline"),
        ("absent.csv", None, "not a readable baseline .* it is alexnet, a .csv or a .json file"),
    ],
)
def test_what_is_no_baseline_is_said(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=message):
        load_baseline(str(path), 10)


def test_a_clean_error_of_zero_is_possible(tmp_path: Path) -> None:
    path = tmp_path / "base.csv"
    path.write_text("corruption,error\nfog,0.2\nclean,0\n")
    assert load_baseline(str(path), 10).clean == 0
    assert np.isfinite(load_baseline(str(path), 10).errors["fog"])
