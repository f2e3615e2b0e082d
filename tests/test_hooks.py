"""Scores during somebody else's training."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ssa_analysis
from ssa_analysis.data.datasets import Data
from ssa_analysis.errors import OutputError, SettingsError
from ssa_analysis.hooks import COLUMNS, ScoreRecorder, lightning_callback
from ssa_analysis.measures import MEASURES, Measure, MeasureSettings
from ssa_analysis.models.backbones import ConvNet
from ssa_analysis.models.encoder import Projector


def network() -> nn.Module:
    return nn.Sequential(ConvNet(4), nn.Linear(16, 10))


def train(net: nn.Module, data: Data, recorder: ScoreRecorder | None) -> list[float]:
    """Three steps; what the losses are must not depend on whether somebody looks."""
    torch.manual_seed(0)
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    images, labels = data.images_of("train")[:64] / 255, data.labels_of("train")[:64]
    losses = []
    for step in range(3):
        keep = torch.rand(64) < 0.8
        loss = cross_entropy(net(images[keep]), labels[keep])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        if recorder is not None:
            recorder(net, step)
    return losses


def test_a_training_goes_on_as_if_nobody_looked(digits: Data, tmp_path: Path) -> None:
    recorder = ScoreRecorder(digits, ["downstream", "representation"], file=tmp_path / "out" / "r.csv", normalise="none")
    torch.manual_seed(1)
    watched = network()
    torch.manual_seed(1)
    alone = network()
    assert train(watched, digits, recorder) == train(alone, digits, None)
    assert all(torch.equal(a, b) for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True))
    frame = recorder.frame
    assert tuple(frame.columns) == COLUMNS
    probe = frame[frame["name"] == "probe_accuracy"]
    assert probe["step"].tolist() == [0, 1, 2]
    failed = frame[frame["error"] != ""]
    assert (failed["measure"].tolist(), failed["value"].isna().all()) == (["representation"] * 3, True)
    assert "no projector" in failed["error"].iloc[0]
    written = pd.read_csv(tmp_path / "out" / "r.csv")
    assert len(written) == len(frame)
    assert written["value"].tolist() == pytest.approx(frame["value"].tolist(), nan_ok=True)
    direct = ssa_analysis.score(watched, digits, ["downstream"], normalise="none")
    assert direct["value"].tolist() == frame[(frame["step"] == 2) & (frame["measure"] == "downstream")]["value"].tolist()


def test_a_measure_that_breaks_does_not_end_the_training(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(encoder: object, data: object, settings: object) -> list[object]:
        raise KeyError("of a plug-in")

    monkeypatch.setitem(MEASURES._entries, "breaks", Measure("breaks", "for tests", MeasureSettings, breaks))  # type: ignore[arg-type]
    recorder = ScoreRecorder(digits, ["breaks", "downstream"], normalise="none")
    recorder(network(), 0)
    assert "KeyError: 'of a plug-in'" in set(recorder.frame["error"])
    assert "probe_accuracy" in set(recorder.frame["name"])
    with pytest.raises(KeyError, match="of a plug-in"):
        ssa_analysis.score(network(), digits, ["breaks"], normalise="none")


def test_a_file_that_cannot_be_written_and_no_measures(digits: Data, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        ScoreRecorder(digits, ["downstream"], file=tmp_path / "file" / "r.csv", normalise="none")(network(), 0)
    with pytest.raises(SettingsError, match="no measures"):
        ScoreRecorder(digits, [], normalise="none")(network(), 0)


def test_a_lightning_training(digits: Data, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
        from pytorch_lightning.loggers import CSVLogger

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.projector, self.criterion = ConvNet(4), Projector((16, 8, 4)), nn.CrossEntropyLoss()

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return self.criterion(self.projector(self.backbone(batch[0])), batch[1] % 4)  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    recorder = ScoreRecorder(digits, ["representation"], normalise="none")
    images, labels = digits.images_of("train")[:64] / 255, digits.labels_of("train")[:64]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(max_epochs=4, accelerator="cpu", logger=CSVLogger(tmp_path), enable_progress_bar=False,
                                    callbacks=[lightning_callback(recorder, every=2)], enable_model_summary=False,
                                    enable_checkpointing=False, log_every_n_steps=1)  # fmt: skip
        trainer.fit(Module(), loader)
    assert sorted(recorder.frame["step"].unique()) == [0, 2, 4]
    assert (recorder.frame["error"] == "").all()
    logged = pd.read_csv(next(tmp_path.rglob("metrics.csv")))["ssa/representation.uniformity"].dropna()
    ours = recorder.frame[recorder.frame["name"] == "uniformity"]["value"]
    assert logged.tolist() == pytest.approx(ours.tolist(), rel=1e-4)


def test_without_lightning_the_callback_says_so(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning.pytorch.callbacks", "lightning.pytorch", "pytorch_lightning.callbacks", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    recorder = ScoreRecorder(digits, ["downstream"])
    with pytest.raises(SettingsError, match="ScoreRecorder works without them"):
        lightning_callback(recorder)
    with pytest.raises(SettingsError, match="every must be at least 1"):
        lightning_callback(recorder, every=0)
