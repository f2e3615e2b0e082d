"""``ssa-analyze corruptions``, and what ``score`` takes and says of corrupted images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ssa_analysis.data.corruptions import CORRUPTIONS
from ssa_analysis.data.corruptions.frost import TEXTURE_FILES
from ssa_analysis.data.datasets import load_data
from ssa_analysis.running.store import Store

Cli = Callable[..., Any]
DIGITS = ("--data", "digits", "--subset", "300")
SHORT = ("--measures", "robustness", "--set", "robustness.images=20", "--set", "robustness.only=fog,brightness")


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """CIFAR-10-C's layout for all digits; brightness 3 and fog 5 show black images, the rest the images themselves."""
    data = load_data("digits")
    assert data.provenance is not None
    order = np.argsort(data.provenance.index.numpy())
    pixels = data.images.permute(0, 2, 3, 1).numpy()[order]
    folder = tmp_path / "digits-c"
    folder.mkdir()
    for name, black in (("brightness", 3), ("fog", 5)):
        np.save(folder / f"{name}.npy", np.concatenate([pixels * (s != black) for s in range(1, 6)]).astype(np.uint8))
    np.save(folder / "labels.npy", np.tile(data.labels.numpy()[order], 5))
    return folder


@pytest.fixture
def textures(tmp_path: Path) -> Path:
    folder = tmp_path / "frost"
    folder.mkdir()
    for number, name in enumerate(TEXTURE_FILES):
        Image.new("RGB", (100, 90), (40 * number, 100, 200)).save(folder / name)
    return folder


def distances(text: str) -> pd.DataFrame:
    rows = [line.split() for line in text.splitlines()[2:]]
    return pd.DataFrame([[float(v) for v in row[1:]] for row in rows], index=[row[0] for row in rows])


def test_a_sheet_of_all_corruptions_needs_no_checkpoint(cli: Cli, tmp_path: Path) -> None:
    ended = cli("corruptions", *DIGITS, "--out", "sheet", "--compared", "20")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("mean distance from the clean image in levels of 255, over 20 images (regenerated)")
    names = [name if name != "frost" else "procedural_frost" for name in CORRUPTIONS]
    table = distances(ended.out)
    assert list(table.index) == names
    assert (table.loc["gaussian_noise"].diff().dropna() > 0).all()
    assert "constants: CIFAR-10-C's (32 px)" in ended.err
    assert "frost: procedural texture" in ended.err
    written = pd.read_csv("sheet/corruptions.csv")
    assert list(written["corruption"]) == names
    assert set(written["images"]) == {"regenerated"}
    assert Path("sheet/corruptions.pdf").read_bytes().startswith(b"%PDF")
    with Image.open("sheet/corruptions.png") as sheet:
        assert sheet.size[1] > sheet.size[0]


def test_official_files_and_textures(cli: Cli, official: Path, textures: Path) -> None:
    ended = cli("corruptions", "--data", "digits", "--corruptions", official, "--out", "sheet")
    assert ended.code == 0, ended.err
    assert "(files in digits-c, unverified)" in ended.out
    table = distances(ended.out)
    assert [list(np.flatnonzero(table.loc[name] > 0)) for name in ("fog", "brightness")] == [[4], [2]]
    ended = cli("corruptions", *DIGITS, "--frost-textures", textures, "--only", "frost,fog", "--out", "sheet")
    assert list(distances(ended.out).index) == ["frost", "fog"]
    assert re.search(r"frost: textures of the user \([0-9a-f]{16}\)", ended.err)
    both = cli("corruptions", "--data", "digits", "--corruptions", official, "--frost-textures", textures, "--out", "sheet")
    assert both.code == 2
    assert "frost textures are for regenerated corruptions" in both.complaint()


def test_scores_say_that_corruptions_are_regenerated_everywhere(cli: Cli, good: Path) -> None:
    ended = cli("score", good, *DIGITS, *SHORT, "--json")
    assert ended.code == 0, ended.err
    assert re.search(r"robustness .* mean_error [\d.]+ ± [\d.]+ \(regenerated\)", ended.err)
    marks = {row["name"]: row["settings"].get("mark") for row in ended.json}
    assert marks.pop("clean_error") is marks.pop("knn_clean_error") is None
    assert set(marks.values()) == {"regenerated"}
    exported = cli("export", "scores.db").out
    assert {"mean_error": "regenerated", "clean_error": ""}.items() <= {
        line.split(",")[4]: line.rstrip().split(",")[-1] for line in exported.splitlines()
    }.items()
    assert "corrupted error (regenerated)" in cli("export", "scores.db", "--format", "latex").out
    assert cli("report", "scores.db", "--out", "report").code == 0
    page = Path("report/index.html").read_text()
    assert "corrupted error (regenerated)" in page


def test_scores_on_official_files(cli: Cli, good: Path, official: Path) -> None:
    relative = os.path.relpath(official)
    ended = cli("score", good, "--data", "digits", "--measures", "robustness", "--set", "robustness.images=0",
                "--corruptions", relative, "--json")  # fmt: skip
    assert ended.code == 0, ended.err
    scores = {row["name"]: row for row in ended.json}
    black = scores["error_fog"]["value"] - 0.8 * scores["clean_error"]["value"]
    assert black > 0.1  # one severity of five shows nothing at all
    about = scores["mean_error"]["settings"]
    assert about["corruptions"] == str(official)
    assert (about["mark"], about["count"]) == ("unverified files", 2)
    assert len(about["missing"]) == 13
    again = cli("score", good, "--data", "digits", "--measures", "robustness", "--set", "robustness.images=0",
                "--corruptions", official)  # fmt: skip
    assert "0 of 1 cells to compute" in again.err


def test_a_baseline_and_a_test_set(cli: Cli, good: Path) -> None:
    """The checkpoint's own scores as the baseline: mCE is 1, up to the weights of the corruptions."""
    whole = ("score", good, *DIGITS, "--measures", "robustness", "--set", "robustness.images=0")
    assert cli(*whole).code == 0
    Path("base.json").write_text(cli("export", "scores.db", "--format", "json").out)
    data = load_data("digits", subset=300)
    images, labels = data.images_of("held-out")[:30], data.labels_of("held-out")[:30]
    np.savez("digits.2.npz", x=images.permute(0, 2, 3, 1).numpy(), y=labels.numpy())
    ended = cli(*whole, "--baseline", "base.json", "--test-set", "digits.2.npz", "--json")
    assert ended.code == 0, ended.err
    scores = {row["name"]: row for row in ended.json}
    assert scores["mce"]["value"] == pytest.approx(1)
    relative = scores.get("relative_mce")  # a weak encoder may not be hurt by the mildest corruption: then it is said
    assert relative["value"] == pytest.approx(1) if relative else "not above" in scores["mce"]["settings"]["relative_mce"]
    assert scores["mce"]["settings"]["baseline"] == "base.json"
    assert 0 <= scores["error_on_digits_2"]["value"] <= 1
    with Store("scores.db") as store:
        assert set(store.frame()["name"]) >= {"mce", "error_on_digits_2"}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--corruptions", "absent"), 1, "absent: no such folder; --corruptions names a CIFAR-10-C folder"),
        (("--frost-textures", "absent"), 1, "not a readable frost texture"),
        (("--test-set", "absent.npz"), 1, "absent.npz: no such file"),
        (("--baseline", "alexnet"), 1, "ImageNet-C with 1000 classes, this data set has 10"),
        (("--baseline", "absent.csv"), 1, "not a readable baseline"),
        (("--set", "robustness.only=fgo"), 2, "unknown corruption 'fgo'; did you mean fog"),
        (("--set", "robustness.images=-3"), 2, "robustness needs 2 or more images"),
    ],
)
def test_wrong_files_and_settings_are_said(cli: Cli, good: Path, options: tuple[str, ...], code: int, message: str) -> None:
    ended = cli("score", good, *DIGITS, "--measures", "robustness", "--set", "robustness.images=20", *options)
    assert ended.code == code
    assert message in ended.err
    assert "Traceback" not in ended.err
