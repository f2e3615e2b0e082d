"""Scores on the way: those of the checkpoint of that epoch, and the training is the same with and without."""

from __future__ import annotations

import copy
import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.data.datasets import Data, load_data
from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.measures import MEASURES
from ssa_analysis.running.recording import Recorder
from ssa_analysis.training.logs import EpochLog
from ssa_analysis.training.loop import train
from ssa_analysis.training.settings import TrainSettings

SETTINGS = TrainSettings(
    method="simclr-sam", arch="convnet", width=4, projector=(16, 8), epochs=4, batch=32, lr=0.1, warmup=0, knn_every=0, rho=0.1
)


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits", subset=300)


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "records.csv").read_text().splitlines()))


def test_a_record_is_the_score_of_that_epochs_checkpoint(data: Data, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, ("representation",), 2, data, settings={"representation": {"bootstrap": 5}})
    train(SETTINGS, data, tmp_path, recorder=recorder, keep_every=2)
    found = {int(row["epoch"]): float(row["value"]) for row in rows_of(tmp_path) if row["name"] == "alignment"}
    row = MEASURES.get("representation")
    assert sorted(found) == [0, 2, 4]
    for epoch, value in found.items():
        encoder = load_checkpoint(tmp_path / "epochs" / f"epoch-{epoch:04d}.pt").encoder
        (known,) = [s.value for s in row.function(encoder, data, row.settings(bootstrap=5)) if s.name == "alignment"]
        assert value == pytest.approx(known, rel=1e-6)


def test_what_measures_remember_of_other_weights_is_not_used(data: Data, tmp_path: Path) -> None:
    """Neither of those before a record by the record, nor of those at a record by whoever measures later."""
    from ssa_analysis.training.loop import build_encoder

    row, encoder = MEASURES.get("representation"), build_encoder(SETTINGS, data).eval()

    def rank(of: object) -> float:
        return next(s.value for s in row.function(of, data, row.settings(seed=0, bootstrap=5)) if s.name == "effective_rank")

    def change() -> float:
        """New weights, and what a copy that remembers nothing scores."""
        with torch.no_grad():
            for p in encoder.parameters():
                p.normal_(std=0.3)
        return rank(copy.deepcopy(encoder))

    recorder = Recorder(tmp_path, ("representation",), 1, data, settings={"representation": {"bootstrap": 5}})
    recorder.keep_until(-1)
    torch.manual_seed(0)
    before = rank(encoder)
    known = change()
    recorder(encoder, 1)
    recorded = next(float(r["value"]) for r in rows_of(tmp_path) if r["name"] == "effective_rank")
    assert recorded == known != before
    known = change()
    assert rank(encoder) == known != recorded


def test_recording_does_not_change_the_training(data: Data, tmp_path: Path) -> None:
    recorder = Recorder(
        tmp_path / "with", ("representation", "curvature"), 1, data, settings={"curvature": {"pairs": 16, "batch": 16}}
    )
    paths = [
        train(SETTINGS, data, tmp_path / "with", recorder=recorder),
        train(SETTINGS, data, tmp_path / "without"),
    ]
    first, second = (torch.load(path, weights_only=True)["model"] for path in paths)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_resumed_run_has_every_epoch_once(data: Data, tmp_path: Path) -> None:
    def stop(row: EpochLog) -> None:
        if row.epoch == 3:
            raise Stop

    for on_epoch in (stop, lambda row: None):
        recorder = Recorder(tmp_path, ("representation",), 1, data)
        try:
            train(SETTINGS, data, tmp_path, recorder=recorder, resume=True, save_every=2, on_epoch=on_epoch)
        except Stop:
            assert [row["epoch"] for row in rows_of(tmp_path) if row["name"] == "alignment"] == ["0", "1", "2", "3"]
    assert [row["epoch"] for row in rows_of(tmp_path) if row["name"] == "alignment"] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("problem", [MeasureError("no pairs left"), ZeroDivisionError("of nothing")])
def test_a_measure_that_fails_leaves_its_reason_and_the_training_goes_on(data: Data, tmp_path: Path, problem: Exception) -> None:
    def fails(*arguments: object) -> None:
        raise problem

    recorder = Recorder(tmp_path, ("shift", "representation"), 2, data)
    recorder._measures[0] = (dataclasses.replace(recorder._measures[0][0], function=fails), recorder._measures[0][1])
    train(SETTINGS, data, tmp_path, recorder=recorder)
    rows = rows_of(tmp_path)
    assert [(row["epoch"], str(problem) in row["error"]) for row in rows if row["measure"] == "shift"] == [
        ("0", True), ("2", True), ("4", True),
    ]  # fmt: skip
    assert {row["error"] for row in rows if row["measure"] == "representation"} == {""}


def test_unknown_measures_and_settings_are_refused_at_once(data: Data, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean shift"):
        Recorder(tmp_path, ("shft",), 1, data)
    with pytest.raises(SettingsError, match="unknown setting of shift"):
        Recorder(tmp_path, ("shift",), 1, data, settings={"shift": {"pears": 1}})


def test_accumulated_gradients_are_those_of_the_parts(data: Data, tmp_path: Path) -> None:
    """A step over two parts is the step on the mean of the two losses, not on that of the whole batch."""
    from ssa_analysis.data.views import Views
    from ssa_analysis.numerics.contrastive import nt_xent
    from ssa_analysis.training.loop import build_encoder, gradient_of, training_recipe
    from ssa_analysis.training.parallel import Replica

    settings = dataclasses.replace(SETTINGS, accumulate=2)
    encoder = build_encoder(settings, data).train()
    first, second = Views(training_recipe(settings, data), data.image_size).pair(data.images_of("train")[:32], 0)
    loss = gradient_of(Replica(encoder, torch.device("cpu")), first, second, settings, 0)
    ours = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
    encoder.zero_grad()
    total = torch.zeros(())
    for part in (slice(0, 16), slice(16, 32)):
        z = encoder.embed(torch.cat([first[part], second[part]]))
        total = total + nt_xent(z[:16], z[16:], settings.tau).mean() / 2
    total.backward()
    assert float(loss) == pytest.approx(float(total.detach()), rel=1e-6)
    for mine, p in zip(ours, encoder.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad, rtol=1e-4, atol=1e-7)
    with pytest.raises(SettingsError, match="cannot be cut into 3 equal parts"):
        dataclasses.replace(SETTINGS, accumulate=3)
