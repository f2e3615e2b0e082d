"""Robustness where the answer is known: a perfect extractor on twins of which a known share shows another class."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ssa_analysis.data.corruptions import COMMON, CORRUPTIONS, FAMILIES, SEVERITIES
from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import DataError, MeasureError, SettingsError
from ssa_analysis.measures import robustness as module
from ssa_analysis.measures.corrupted_pass import angles
from ssa_analysis.measures.robustness import RobustnessSettings, robustness
from ssa_analysis.models.encoder import Encoder
from ssa_analysis.scores import Score, find_score


@dataclasses.dataclass
class MadeTwins:
    """Of corruption c at severity s, every image whose place is below ``shares[c][s] * n`` shows the next class."""

    data: Data
    shares: dict[str, tuple[float, ...]]
    origin: str = "made"
    mark: str = ""
    same_frame: bool = True
    largest: int = 0

    def __post_init__(self) -> None:
        self.names = tuple(self.shares)
        self.about: dict[str, object] = {}
        self.known = torch.arange(len(self.data.index_of("held-out")))

    def batch(self, name: str, severity: int, at: Tensor, device: torch.device) -> Tensor:
        self.largest = max(self.largest, len(at))
        images = self.data.images_of("held-out")[at].clone()
        other = at < round(self.shares[name][severity - 1] * len(self.known))
        images[other, :, 0, 0] = (images[other, :, 0, 0] + 1) % 10
        return images


def shares(names: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(0.02 * k + 0.05 * s for s in SEVERITIES) for k, name in enumerate(names)}


def run(encoder: Encoder, twins: MadeTwins, monkeypatch: pytest.MonkeyPatch, **settings: object) -> list[Score]:
    monkeypatch.setattr(module, "_open", lambda data, settings: twins)
    defaults: dict[str, object] = {"images": 0, "neighbours": 20}
    return robustness(encoder, twins.data, RobustnessSettings(**{**defaults, **settings}))  # type: ignore[arg-type]


def wrong_images(twins: MadeTwins) -> np.ndarray:
    """``(corruptions, 5, n)``: what a perfect extractor gets wrong."""
    n = len(twins.known)
    return np.array([[np.arange(n) < round(share * n) for share in row] for row in twins.shares.values()], float)


def test_every_mean_is_the_mean_of_its_images_and_its_error_is_over_images(
    oracle: Encoder, coded: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = MadeTwins(coded, shares(CORRUPTIONS))
    scores = run(oracle, twins, monkeypatch)
    wrong = wrong_images(twins)
    groups = {"mean_error": COMMON, **{f"error_{f}": names for f, names in FAMILIES.items()}}
    for prefix in ("", "knn_"):
        assert find_score(scores, f"{prefix}clean_error").value == 0
        for name, members in groups.items():
            images = wrong[[CORRUPTIONS.index(m) for m in members]].mean((0, 1))
            score = find_score(scores, prefix + name)
            assert score.value == pytest.approx(images.mean())
            assert score.stderr == pytest.approx(images.std(ddof=1) / np.sqrt(len(images)))
        assert find_score(scores, f"{prefix}mean_accuracy").value == pytest.approx(
            1 - find_score(scores, f"{prefix}mean_error").value
        )
        assert find_score(scores, f"{prefix}error_increase").value == pytest.approx(
            find_score(scores, f"{prefix}mean_error").value
        )
    for k, name in enumerate(CORRUPTIONS):
        assert find_score(scores, f"error_{name}").value == pytest.approx(wrong[k].mean())
    for reader in ("mean_error", "knn_mean_error"):
        table = find_score(scores, reader).arrays
        assert table["corruption"] == list(CORRUPTIONS)
        np.testing.assert_allclose(table["value"], wrong.mean(2))
        np.testing.assert_allclose(table["stderr"], wrong.std(2, ddof=1) / np.sqrt(wrong.shape[2]), atol=1e-9)


def test_mce_and_relative_mce_by_their_definitions(
    oracle: Encoder, coded: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an encoder that is wrong on some clean images too: the labels of 30 of them are turned."""
    turned = coded.labels.clone()
    held_out = coded.index_of("held-out")
    turned[held_out[-30:]] = (turned[held_out[-30:]] + 1) % 10
    data = dataclasses.replace(coded, labels=turned, fingerprint="turned")
    base = {name: 0.3 + 0.02 * k for k, name in enumerate(COMMON)}
    path = tmp_path / "base.csv"
    path.write_text("corruption,error\n" + "".join(f"{n},{e}\n" for n, e in base.items()) + "clean,0.2\n")
    twins = MadeTwins(data, shares(CORRUPTIONS))
    scores = run(oracle, twins, monkeypatch, baseline=str(path))
    errors = {name: find_score(scores, f"error_{name}").value for name in COMMON}
    clean = find_score(scores, "clean_error").value
    assert clean == pytest.approx(30 / len(held_out))
    for prefix in ("", "knn_"):
        mean = find_score(scores, f"{prefix}mean_error").value
        assert find_score(scores, f"{prefix}error_increase").value == pytest.approx(mean - clean)
    for prefix in ("", "knn_"):  # both are perfect here, up to the turned labels
        assert find_score(scores, f"{prefix}mce").value == pytest.approx(np.mean([errors[n] / base[n] for n in COMMON]))
        relative = np.mean([(errors[n] - clean) / (base[n] - 0.2) for n in COMMON])
        assert find_score(scores, f"{prefix}relative_mce").value == pytest.approx(relative)
    assert find_score(scores, "mce").stderr == pytest.approx(
        find_score(scores, "mean_error").stderr / np.mean(list(base.values())), rel=0.2
    )
    for row, why in (
        ("", "the clean error of the baseline is not known"),
        ("clean,0.3\n", "error under gaussian_noise is not above"),
    ):
        path.write_text("corruption,error\n" + "".join(f"{n},{e}\n" for n, e in base.items()) + row)
        scores = run(oracle, twins, monkeypatch, baseline=str(path))
        assert "relative_mce" not in {s.name for s in scores}
        assert why in find_score(scores, "mce").settings["relative_mce"]


def test_mce_needs_all_fifteen(oracle: Encoder, coded: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "base.csv"
    path.write_text("corruption,error\nfog,0.2\n")
    with pytest.raises(SettingsError, match="mCE is over all 15 common corruptions; there are 1 of them"):
        run(oracle, MadeTwins(coded, shares(("fog",))), monkeypatch, baseline=str(path))
    with pytest.raises(SettingsError, match="has no error for gaussian_noise"):
        run(oracle, MadeTwins(coded, shares(CORRUPTIONS)), monkeypatch, baseline=str(path))


def test_a_stand_in_takes_the_place_of_what_it_stands_for(oracle: Encoder, coded: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple("procedural_frost" if name == "frost" else name for name in CORRUPTIONS)
    twins = MadeTwins(coded, shares(names))
    scores = run(oracle, twins, monkeypatch)
    wrong = wrong_images(twins)
    common = [k for k, name in enumerate(CORRUPTIONS) if name in COMMON]
    assert find_score(scores, "mean_error").value == pytest.approx(wrong[common].mean())
    weather = [k for k, name in enumerate(CORRUPTIONS) if name in FAMILIES["weather"]]
    assert find_score(scores, "error_weather").value == pytest.approx(wrong[weather].mean())
    assert find_score(scores, "mean_error").settings["count"] == 15
    assert "missing" not in find_score(scores, "mean_error").settings


def test_what_is_missing_is_said(oracle: Encoder, coded: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(name for name in CORRUPTIONS if name not in ("fog", "saturate"))
    about = find_score(run(oracle, MadeTwins(coded, shares(names)), monkeypatch), "mean_error").settings
    assert (about["count"], about["missing"]) == (14, ["fog"])


def test_only_some_corruptions(oracle: Encoder, coded: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    twins = MadeTwins(coded, shares(CORRUPTIONS))
    scores = run(oracle, twins, monkeypatch, only="fog, saturate")
    assert find_score(scores, "mean_error").value == pytest.approx(wrong_images(twins)[CORRUPTIONS.index("fog")].mean())
    assert [s.name for s in scores if s.name.startswith("error_")] == [
        "error_increase",
        "error_weather",
        "error_fog",
        "error_saturate",
    ]
    extra = run(oracle, twins, monkeypatch, only="saturate")  # in no mean, unless there is nothing else
    assert find_score(extra, "mean_error").value == find_score(extra, "error_saturate").value
    with pytest.raises(SettingsError, match="made: no frost; frost needs --frost-textures"):
        run(oracle, MadeTwins(coded, shares(("fog",))), monkeypatch, only="frost")
    with pytest.raises(SettingsError, match="unknown corruption 'fgo'; did you mean fog"):
        RobustnessSettings(only="fgo")


def test_a_subset_estimates_the_whole(oracle: Encoder, coded: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    twins = MadeTwins(coded, dict.fromkeys(CORRUPTIONS, (0.5,) * 5))
    hits = 0
    for seed in range(40):
        score = find_score(run(oracle, twins, monkeypatch, images=60, seed=seed, only="fog"), "mean_error")
        assert score.settings["images"] == 60
        assert score.low is not None
        assert score.high is not None
        hits += score.low <= 0.5 <= score.high
    assert hits >= 34


def test_twins_are_streamed_and_time_left_is_shown(
    oracle: Encoder, coded: Data, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ssa_analysis.progress.INTERVAL", 0.0)
    twins = MadeTwins(coded, shares(("fog", "snow")))
    with caplog.at_level(logging.INFO, "ssa_analysis.progress"):
        run(oracle, twins, monkeypatch, batch=70)
    assert twins.largest == 70
    count = 2 * 5 * -(-len(twins.known) // 70)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith(f"robustness of the checkpoint, snow 3: {count - 6} of {count} batches") for line in lines)
    assert all("left" in line for line in lines)


def test_angles_are_exact_near_zero_and_at_their_ends() -> None:
    turns = torch.tensor([0.0, 1e-4, 0.5, 45, 90, 135, 180])
    radians = torch.deg2rad(turns)
    first = torch.tensor([[1.0, 0.0]]).repeat(len(turns), 1)
    second = torch.stack([radians.cos(), radians.sin()], 1)
    torch.testing.assert_close(angles(first, second), turns, rtol=2e-3, atol=1e-6)


class Turn(torch.nn.Module):
    """Features: the angle, in degrees, that the first pixel codes, on the unit circle."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        turn = torch.deg2rad((x[:, 0, 0, 0] * 255).round())
        return torch.stack([turn.cos(), turn.sin()], 1)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_angle_between_an_image_and_its_twin_needs_no_labels(
    labelled: bool, coded: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twins differ by one class number in the first pixel, which is one degree here, but for 9, which becomes 0."""
    encoder = Encoder(Turn(), torch.nn.Identity(), (0.0,) * 3, (1.0,) * 3).eval()
    twins = MadeTwins(coded if labelled else dataclasses.replace(coded, class_names=()), shares(CORRUPTIONS))
    held_out = coded.images_of("held-out")[:, 0, 0, 0]
    degrees = np.where(held_out.numpy() == 9, 9.0, 1.0) * wrong_images(twins)
    scores = run(encoder, twins, monkeypatch)
    table = find_score(scores, "mean_angle").arrays
    np.testing.assert_allclose(table["value"], degrees.mean(2), atol=1e-4)
    common = [k for k, name in enumerate(CORRUPTIONS) if name in COMMON]
    mean = find_score(scores, "mean_angle")
    assert (mean.unit, mean.value) == ("degrees", pytest.approx(degrees[common].mean(), abs=1e-4))
    assert find_score(scores, "angle_fog").value == pytest.approx(degrees[CORRUPTIONS.index("fog")].mean(), abs=1e-4)
    blur = [CORRUPTIONS.index(name) for name in FAMILIES["blur"]]
    assert find_score(scores, "angle_blur").value == pytest.approx(degrees[blur].mean(), abs=1e-4)
    assert ("mean_error" in {s.name for s in scores}) == labelled


def test_without_labels_and_projector_or_frame_there_is_nothing_to_say(
    oracle: Encoder, coded: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlabelled = dataclasses.replace(coded, class_names=())
    with pytest.raises(MeasureError, match="here are no labels and another frame than the images of made"):
        run(oracle, MadeTwins(unlabelled, shares(("fog",)), same_frame=False), monkeypatch)
    scores = run(oracle, MadeTwins(coded, shares(("fog",)), same_frame=False), monkeypatch)
    assert "mean_angle" not in {s.name for s in scores}
    oracle.projector = None
    with pytest.raises(MeasureError, match="here are no labels and no projector"):
        run(oracle, MadeTwins(unlabelled, shares(("fog",))), monkeypatch)


def test_batches_do_not_change_the_scores(encoder: Encoder, digits: Data) -> None:
    one, two = (robustness(encoder, digits, RobustnessSettings(images=50, batch=b, only="snow,fog,glass_blur")) for b in (7, 50))
    for a, b in zip(one, two, strict=True):  # the embedding is computed in other batches too, and rounded otherwise
        assert a.value == pytest.approx(b.value, rel=1e-5, abs=1e-6)


def test_what_is_made_here_is_marked_and_official_files_are_used_where_they_are(
    encoder: Encoder, digits: Data, tmp_path: Path
) -> None:
    scores = robustness(encoder, digits, RobustnessSettings(images=20, only="fog"))
    made = {s.name: s.settings for s in scores}
    assert made.pop("clean_error").get("mark") is made.pop("knn_clean_error").get("mark") is None
    assert {about["mark"] for about in made.values()} == {"regenerated"}
    assert made["mean_error"]["frost"] == "procedural texture"
    assert digits.provenance is not None
    pixels = np.zeros((digits.provenance.total, 16, 16, 3), np.uint8)
    pixels[digits.provenance.index.numpy()] = digits.images.permute(0, 2, 3, 1).numpy()
    labels = np.zeros(digits.provenance.total, np.uint8)
    labels[digits.provenance.index.numpy()] = digits.labels.numpy()
    for name in ("fog", "brightness"):
        np.save(tmp_path / f"{name}.npy", np.concatenate([pixels] * 5))
    np.save(tmp_path / "labels.npy", np.tile(labels, 5))
    scores = robustness(encoder, digits, RobustnessSettings(images=0, corruptions=str(tmp_path)))
    mean = find_score(scores, "mean_error")
    assert mean.value == find_score(scores, "clean_error").value  # twins that are the images themselves
    assert find_score(scores, "mean_angle").value == pytest.approx(0, abs=0.01)
    assert mean.settings["mark"] == "unverified files"
    assert mean.settings["corrupted_images"] == f"files in {tmp_path.name}, unverified"


def test_further_test_sets(oracle: Encoder, coded: Data, tmp_path: Path) -> None:
    """Ten images, of which three and four are labelled as something else."""
    held_out, labels = coded.images_of("held-out")[:10], coded.labels_of("held-out")[:10]
    paths = []
    for name, wrong in (("cifar10.1", 3), ("more", 4)):
        y = labels.numpy().copy()
        y[:wrong] = (y[:wrong] + 1) % 10
        paths.append(tmp_path / f"{name}.npz")
        np.savez(paths[-1], x=held_out.permute(0, 2, 3, 1).numpy(), y=y)
    settings = RobustnessSettings(images=20, only="fog", neighbours=5, test_sets=os.pathsep.join(map(str, paths)))
    scores = robustness(oracle, coded, settings)
    for prefix in ("", "knn_"):
        assert find_score(scores, f"{prefix}error_on_cifar10_1").value == pytest.approx(0.3)
        assert find_score(scores, f"{prefix}error_on_more").value == pytest.approx(0.4)
    assert find_score(scores, "error_on_more").settings["images"] == 10
    with pytest.raises(DataError, match="have no labels"):
        robustness(oracle, dataclasses.replace(coded, class_names=()), settings)


@pytest.mark.parametrize("wrong", [{"images": 1}, {"images": -1}, {"batch": 0}, {"neighbours": 0}, {"temperature": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="robustness needs 2 or more images"):
        RobustnessSettings(**wrong)  # type: ignore[arg-type]


def test_textures_beside_official_files_are_refused() -> None:
    with pytest.raises(SettingsError, match="frost textures are for regenerated corruptions"):
        RobustnessSettings(corruptions="a", frost_textures="b")
