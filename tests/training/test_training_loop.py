"""Training: resume, what a run depends on, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.data.datasets import Data
from ssa_analysis.data.fourier import FourierSettings
from ssa_analysis.errors import DataError, MeasureError, SettingsError
from ssa_analysis.numerics.classifiers import knn_predict
from ssa_analysis.stopping import Stopped, gentle_interrupts, request_stop
from ssa_analysis.training.logs import EpochLog
from ssa_analysis.training.loop import build_encoder, train
from ssa_analysis.training.settings import METHODS, TrainSettings, settings_from_dict

SMALL = TrainSettings(arch="convnet", width=4, projector=(16, 8), epochs=4, batch=64, lr=0.1, warmup=1, knn_every=2)


class Stop(Exception):
    pass


def read_log(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "log.csv").read_text().splitlines()))


def stop_after(epoch: int) -> object:
    def tell(row: EpochLog) -> None:
        if row.epoch == epoch:
            raise Stop

    return tell


def test_epochs_are_kept_from_the_untrained_encoder_on(digits: Data, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, epochs=5)
    with pytest.raises(Stop):
        train(settings, digits, tmp_path / "run", keep_every=2, on_epoch=stop_after(3))  # type: ignore[arg-type]
    train(settings, digits, tmp_path / "run", keep_every=2, resume=True)
    kept = sorted((tmp_path / "run" / "epochs").iterdir())
    assert [path.name for path in kept] == [f"epoch-000{n}.pt" for n in (0, 2, 4, 5)]
    first, *_, final = [load_checkpoint(path) for path in kept]
    assert [first.report.training["epoch"], final.report.training["epoch"]] == [0, 5]
    last = load_checkpoint(tmp_path / "run" / "last.pt").encoder
    assert first.encoder.initial is not None
    for name, tensor in first.encoder.state_dict().items():
        assert torch.equal(tensor, first.encoder.initial[name])
        assert torch.equal(final.encoder.state_dict()[name], last.state_dict()[name])
    assert not (train(SMALL, digits, tmp_path / "plain").parent / "epochs").exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(method: str, optimizer: str, digits: Data, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, method=method, optimizer=optimizer, epochs=3)
    whole = torch.load(train(settings, digits, tmp_path / "whole"), weights_only=True)
    with pytest.raises(Stop):
        train(settings, digits, tmp_path / "broken", on_epoch=stop_after(2))  # type: ignore[arg-type]
    torch.rand(7)  # the state of the global generator must not matter
    resumed = torch.load(train(settings, digits, tmp_path / "broken", resume=True), weights_only=True)
    assert whole["training"]["step"] == resumed["training"]["step"]
    for part in ("model", "initial"):
        for key, tensor in whole[part].items():
            assert torch.equal(tensor, resumed[part][key]), key
    for state, other in zip(whole["optimizer"]["state"].values(), resumed["optimizer"]["state"].values(), strict=True):
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[key])), key
    logs = [read_log(tmp_path / run) for run in ("whole", "broken")]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]


def test_methods_differ_and_share_their_initialisation(digits: Data, tmp_path: Path) -> None:
    files = {m: torch.load(train(dataclasses.replace(SMALL, method=m), digits, tmp_path / m), weights_only=True) for m in METHODS}
    key = "backbone.blocks.0.weight"
    initial = [f["initial"][key] for f in files.values()]
    assert all(torch.equal(initial[0], other) for other in initial)
    final = [f["model"][key] for f in files.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(final) for b in final[:i])


def test_the_seed_decides_everything(digits: Data, tmp_path: Path) -> None:
    key = "backbone.blocks.0.weight"
    runs = [
        torch.load(train(dataclasses.replace(SMALL, seed=seed, epochs=1), digits, tmp_path / name), weights_only=True)["model"][
            key
        ]
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_training_learns(digits: Data, tmp_path: Path) -> None:
    """Loss falls, and neighbours in the learnt features are better than in those of the initial weights."""
    rows: list[EpochLog] = []
    settings = dataclasses.replace(SMALL, epochs=100, width=8)
    path = train(settings, digits, tmp_path / "run", on_epoch=rows.append)
    assert rows[-1].loss < rows[0].loss - 0.3

    def knn(encoder: object) -> float:
        bank, queries = (encoder.features(digits.images_of(s)) for s in ("train", "probe"))  # type: ignore[attr-defined]
        predicted = knn_predict(bank, digits.labels_of("train"), queries, 10, k=20)
        return float((predicted == digits.labels_of("probe")).float().mean())

    with torch.no_grad():
        trained, untrained = knn(load_checkpoint(path).encoder), knn(build_encoder(settings, digits).eval())
    assert rows[-1].knn == pytest.approx(trained)
    assert trained > untrained + 0.05
    assert trained > 0.75


def test_the_log_and_the_checkpoint_hold_what_is_needed(digits: Data, tmp_path: Path) -> None:
    path = train(dataclasses.replace(SMALL, method="ssa-clr", rho=0.07), digits, tmp_path / "run")
    rows = read_log(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row["knn"]) for row in rows] == [False, True, False, True]
    assert float(rows[-1]["lr"]) < float(rows[0]["lr"]) == pytest.approx(0.1, rel=1e-6)
    loaded = load_checkpoint(path)
    assert settings_from_dict(loaded.report.training["settings"]) == dataclasses.replace(SMALL, method="ssa-clr", rho=0.07)
    assert loaded.encoder.loss["tau"] == 0.5
    assert loaded.encoder.recipe is not None
    assert loaded.encoder.recipe.fourier == FourierSettings()
    assert loaded.report.training["data"]["fingerprint"] == digits.fingerprint
    assert {p.name for p in (tmp_path / "run").iterdir()} <= {"last.pt", "log.csv", "tensorboard"}


@pytest.mark.parametrize("partner", ["nearest", "class"])
def test_other_fourier_partners_train(partner: str, digits: Data, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, method="simclr-fourier", epochs=1, fourier=FourierSettings(partner=partner))
    other = torch.load(train(settings, digits, tmp_path / partner), weights_only=True)["model"]
    random = torch.load(
        train(dataclasses.replace(settings, fourier=FourierSettings()), digits, tmp_path / "batch"), weights_only=True
    )["model"]
    key = "backbone.blocks.0.weight"
    assert torch.isfinite(other[key]).all()
    assert not torch.equal(other[key], random[key])


def test_bf16_autocast_stays_close_to_float32(digits: Data, tmp_path: Path) -> None:
    rows: dict[str, list[EpochLog]] = {"off": [], "bf16": []}
    for amp, log in rows.items():
        settings = dataclasses.replace(SMALL, method="simclr-sam", amp=amp, epochs=2)
        train(settings, digits, tmp_path / amp, on_epoch=log.append)
    for a, b in zip(rows["off"], rows["bf16"], strict=True):
        assert a.loss != b.loss
        assert a.loss == pytest.approx(b.loss, rel=0.02)


def test_an_existing_run_is_not_overwritten(digits: Data, tmp_path: Path) -> None:
    path = train(SMALL, digits, tmp_path)
    before = path.read_bytes()
    with pytest.raises(SettingsError, match="--resume"):
        train(SMALL, digits, tmp_path)
    with pytest.raises(SettingsError, match=r"lr was 0.1, now 0.2"):
        train(dataclasses.replace(SMALL, lr=0.2), digits, tmp_path, resume=True)
    other = dataclasses.replace(digits, fingerprint="other")
    with pytest.raises(SettingsError, match="other data"):
        train(SMALL, other, tmp_path, resume=True)
    assert path.read_bytes() == before
    assert train(SMALL, digits, tmp_path, resume=True).read_bytes() == before  # nothing left to do


def test_fewer_images_than_a_batch_are_refused(digits: Data, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lower --batch"):
        train(dataclasses.replace(SMALL, batch=5000), digits, tmp_path)


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(digits: Data, tmp_path: Path) -> None:
    """Also where only the last step went wrong, which no loss has seen yet."""
    settings = dataclasses.replace(SMALL, lr=1e30, epochs=1, warmup=0)
    with pytest.raises(MeasureError, match=r"lower --lr$"):
        train(settings, digits, tmp_path / "at once")
    assert not (tmp_path / "at once" / "last.pt").exists()
    path = train(dataclasses.replace(SMALL, epochs=2), digits, tmp_path / "later")
    payload = torch.load(path, weights_only=True)
    payload["model"]["backbone.blocks.0.weight"][0] = torch.nan
    payload["training"]["epoch"] = 1
    torch.save(payload, path)
    before = path.read_bytes()
    with pytest.raises(MeasureError, match="of the last good epoch"):
        train(dataclasses.replace(SMALL, epochs=2), digits, tmp_path / "later", resume=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "simclear"}, "did you mean simclr"),
        ({"tau": 0}, "temperature"),
        ({"batch": 1}, "at least 2 pairs"),
        ({"lr": -1}, "lr must be positive"),
        ({"amp": "fp8"}, "bf16"),
        ({"learning_rate": 0.1}, "unknown training setting"),
        ({"projector": []}, "projector"),
        ({"epochs": "many"}, "epochs must be of type int, got 'many'"),
        ({"fourier": {"alpha": 2.0}}, "alpha"),
    ],
)
def test_bad_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_from_dict(values)


def test_a_stop_saves_the_epoch_in_hand_whenever_saving_is_due(digits: Data, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, knn_every=0)
    whole = train(settings, digits, tmp_path / "whole")
    with gentle_interrupts(lambda: None), pytest.raises(Stopped):
        train(settings, digits, tmp_path / "stopped", save_every=100, on_epoch=lambda row: request_stop())
    # the first epoch is told before the stop is looked for again, at the end of the second
    assert load_checkpoint(tmp_path / "stopped" / "last.pt").report.training["epoch"] == 2
    path = train(settings, digits, tmp_path / "stopped", resume=True)
    assert path.read_bytes() == whole.read_bytes()
