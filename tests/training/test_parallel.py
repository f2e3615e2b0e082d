"""Two ranks against one process with the whole batch: the same loss, the same gradient, the same step."""

from __future__ import annotations

import csv
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor

from ssa_analysis.checkpoints.loading import load_checkpoint
from ssa_analysis.data.datasets import load_data
from ssa_analysis.errors import SettingsError
from ssa_analysis.running.ranks import leave_group
from ssa_analysis.running.recording import Recorder
from ssa_analysis.training.loop import build_encoder, gradient_of, train
from ssa_analysis.training.optimizers import build_optimizer
from ssa_analysis.training.parallel import Replica
from ssa_analysis.training.sam import SAM
from ssa_analysis.training.settings import TrainSettings

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo")

SETTINGS = TrainSettings(arch="convnet", width=4, projector=(16, 8), epochs=2, batch=32, lr=0.1, warmup=0, knn_every=1)
BATCH = 32


def _views() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    return torch.rand(BATCH, 3, 16, 16, generator=rng), torch.rand(BATCH, 3, 16, 16, generator=rng)


def _step(settings: TrainSettings) -> dict[str, Any]:
    """Loss, gradient and buffers of one step on fixed views, and the weights after a step of SAM."""
    data = load_data("digits", subset=300)
    encoder = build_encoder(settings, data).train()
    replica = Replica(encoder, torch.device("cpu"))
    rows = replica.share(torch.arange(BATCH), settings.accumulate)
    first, second = (view[rows] for view in _views())
    loss = gradient_of(replica, first, second, settings, 5)
    found = {
        "loss": float(loss),
        "gradient": {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None},
        "buffers": {name: b.clone() for name, b in encoder.named_buffers()},
    }
    sharp = SAM(build_optimizer("sgd", encoder, 0.1, 1e-3), encoder, rho=0.5)
    found["sam loss"] = float(sharp.step(lambda: gradient_of(replica, first, second, settings, 6)))
    found["weights"] = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    found["later buffers"] = {name: b.clone() for name, b in encoder.named_buffers()}
    return found


def _train(folder: str, settings: TrainSettings) -> None:
    data = load_data("digits", subset=300)
    recorder = Recorder(Path(folder), ("representation",), 1, data)
    train(settings, data, folder, recorder=recorder)


def _rank(rank: int, size: int, meeting: str, function: Callable[..., Any], arguments: tuple[Any, ...], out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        result = function(*arguments)
        Path(f"{out}{rank}").write_bytes(pickle.dumps(result))
    finally:
        leave_group()


def on_two_ranks(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    folder.mkdir(exist_ok=True)
    arguments_of_all = (2, str(folder / "meeting"), function, arguments, str(folder / "result"))
    multiprocessing.start_processes(_rank, arguments_of_all, nprocs=2, start_method="forkserver")
    return [pickle.loads((folder / f"result{rank}").read_bytes()) for rank in range(2)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"negatives": 7}, {"accumulate": 4}, {"tau": 0.1, "beta": 2.0, "accumulate": 2, "negatives": 3}],
    ids=["plain", "negatives", "accumulated", "all of it"],
)
def test_two_ranks_make_the_step_of_one_process_with_the_whole_batch(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, **changes)
    alone, ranks = _step(settings), on_two_ranks(_step, tmp_path / "ranks", settings)
    for found in ranks:
        assert found["loss"] == pytest.approx(alone["loss"], abs=1e-5)
        assert found["sam loss"] == pytest.approx(alone["sam loss"], abs=1e-5)
        for part in ("gradient", "buffers", "weights", "later buffers"):
            assert found[part].keys() == alone[part].keys()
            for name, tensor in alone[part].items():
                torch.testing.assert_close(found[part][name], tensor, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_autocast_of_two_ranks_is_that_of_one_process_to_its_precision(tmp_path: Path) -> None:
    """bfloat16 has eight bits, and ranks round other sums than one process does: gradient and SAM step as whole vectors."""
    settings = dataclasses.replace(SETTINGS, amp="bf16", accumulate=2)
    alone, exact = _step(settings), _step(dataclasses.replace(settings, amp="off"))
    start = dict(build_encoder(settings, load_data("digits", subset=300)).named_parameters())

    def vectors(found: dict[str, Any]) -> list[Tensor]:
        moved = [found["weights"][name] - p.detach() for name, p in start.items()]
        return [torch.cat([t.flatten() for t in part]) for part in (found["gradient"].values(), moved)]

    own = [float((a - b).norm()) for a, b in zip(vectors(alone), vectors(exact), strict=True)]  # what bfloat16 itself changes
    assert min(own) > 0
    for found in on_two_ranks(_step, tmp_path / "ranks", settings):
        apart = [float((a - b).norm()) for a, b in zip(vectors(found), vectors(alone), strict=True)]
        assert apart[0] < 0.2 * own[0]
        assert apart[1] < 0.6 * own[1]  # SAM goes on from a gradient that is a little different


def test_a_run_of_two_ranks_leaves_one_checkpoint_one_log_and_one_record(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, method="ssa-clr", rho=0.1)
    on_two_ranks(_train, tmp_path / "ranks", str(tmp_path / "run"), settings)
    loaded = load_checkpoint(tmp_path / "run" / "last.pt")
    assert loaded.report.training["epoch"] == 2
    log = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert all(float(row["knn"]) > 0 for row in log)
    records = list(csv.DictReader((tmp_path / "run" / "records.csv").read_text().splitlines()))
    assert [row["epoch"] for row in records if row["name"] == "alignment"] == ["0", "1", "2"]
    with pytest.raises(SettingsError, match="--resume"):
        train(settings, load_data("digits", subset=300), tmp_path / "run")


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, batch=33)
    with pytest.raises(multiprocessing.ProcessRaisedException, match="a batch of 33 cannot be shared by 2 processes"):
        on_two_ranks(_train, tmp_path / "ranks", str(tmp_path / "run"), settings)
