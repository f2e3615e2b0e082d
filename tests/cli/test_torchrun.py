"""``score`` as a job of several processes: one answer, one store, and an end whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ssa_analysis.cli
import ssa_analysis.reports
import torch
import torch.distributed as dist
from processes import forking
from torch import nn

import ssa_analysis
from ssa_analysis.running import ranks

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo")

DATA = ("--data", "digits", "--subset", "300", "--device", "cpu")
SMALL = ("--set", "curvature.pairs=25", "--set", "curvature.batch=25", "--set", "curvature.top=2")
MEASURES = ("--measures", "curvature,representation")
LIMIT = 240  # seconds; a job that hangs fails the test

NET = """
import os
from torch import nn

class Net(nn.Module):
    def __init__(self, fails=False):
        super().__init__()
        self.conv, self.fc, self.fails = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4, 10), fails
    def forward(self, x):
        if self.fails and os.environ.get("RANK") == "1":
            raise RuntimeError("this machine is on fire")
        return self.fc(self.conv(x).relu().mean((2, 3)))

def fails_later():
    return Net(fails=True)

def fails_at_once():
    if os.environ.get("RANK") == "1":
        raise RuntimeError("this machine is on fire")
    return Net()
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a new process finds the very package of this one, however it is installed."""
    folder = tmp_path_factory.mktemp("site")
    package = folder / "ssa_analysis"
    package.mkdir()
    for path in Path(ssa_analysis.__file__).parent.iterdir():
        if path.name not in ("cli", "reports", "__pycache__"):
            (package / path.name).symlink_to(path)
    for part in (ssa_analysis.cli, ssa_analysis.reports):
        folder_of_part = Path(part.__path__[0])
        (package / part.__name__.rpartition(".")[2]).symlink_to(folder_of_part)
    return folder


@pytest.fixture
def torchrun(site: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``torchrun --nproc-per-node 2 -m ssa_analysis ARGUMENTS`` at a port of its own."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ssa_analysis"]
        environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        environment |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launch, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT)

    return run


def cells(store: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(store) as db:
        return db.execute("SELECT measure, status FROM cells ORDER BY id").fetchall()


def test_two_processes_score_what_one_does(
    cli: Callable[..., Any], torchrun: Callable[..., Any], good: Path, tmp_path: Path
) -> None:
    arguments = ("score", good, *DATA, *MEASURES, *SMALL, "--json", "--store")
    alone = cli(*arguments, tmp_path / "alone.db")
    assert alone.code == 0, alone.err
    job = torchrun(*arguments, tmp_path / "job.db")
    assert job.returncode == 0, job.stderr
    found = json.loads(job.stdout)  # one list and nothing else
    assert [(s["measure"], s["name"]) for s in found] == [(s["measure"], s["name"]) for s in alone.json]
    for mine, theirs in zip(found, alone.json, strict=True):
        if mine["value"] is not None:
            assert mine["value"] == pytest.approx(theirs["value"], rel=1e-3, abs=1e-6), mine["name"]
        assert mine["settings"]["seed"] == theirs["settings"]["seed"]
    assert cells(tmp_path / "job.db") == [("curvature", "ok"), ("representation", "ok")]
    assert job.stderr.count("cells computed") == 1
    again = torchrun(*arguments, tmp_path / "job.db")
    assert again.returncode == 0, again.stderr
    assert "0 cells computed, 2 taken from the store" in again.stderr
    assert [s["value"] for s in json.loads(again.stdout)] == [s["value"] for s in found]
    assert len(cells(tmp_path / "job.db")) == 2


@pytest.fixture
def mine(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and the file of its architecture, which fails in the second process."""
    source = tmp_path / "net.py"
    source.write_text(NET)
    names: dict[str, Any] = {}
    exec(NET, names)
    torch.manual_seed(0)
    net: nn.Module = names["Net"]()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    return tmp_path / "net.pt", source


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails_later", "a process of the job failed, which ends the job: RuntimeError: this machine is on fire"),
        ("fails_at_once", "process 1 of the job: .*failed with RuntimeError: this machine is on fire"),
    ],
)
def test_a_process_that_fails_alone_does_not_leave_the_others_waiting(
    torchrun: Callable[..., Any], mine: tuple[Path, Path], tmp_path: Path, function: str, message: str
) -> None:
    """In its first forward pass, and while the checkpoint is loaded; nothing that it had a part in is kept as good."""
    checkpoint, source = mine
    settings = ("--loss", "supervised", "--measures", "curvature", *SMALL, "--store", tmp_path / "job.db")
    job = torchrun("score", checkpoint, *DATA, "--model", f"{source}:{function}", "--normalise", "half", *settings)
    assert job.returncode == 1
    assert re.search(message, job.stderr), job.stderr
    assert job.stdout == ""
    assert all(status == "failed" for _, status in cells(tmp_path / "job.db"))


def fails_and_cannot_end() -> None:
    """What gloo does now and then where the other rank waits for this one."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": "1"}
    ranks.TO_LEAVE = 0.5
    dist.init_process_group = lambda *arguments, **options: None
    dist.destroy_process_group = lambda: time.sleep(60)
    with contextlib.suppress(ArithmeticError), ranks.joined_ranks("cpu"):
        raise ArithmeticError
    time.sleep(60)


def test_a_process_that_fails_ends_even_where_the_job_cannot_be_left() -> None:
    process = forking().Process(target=fails_and_cannot_end)
    process.start()
    process.join(30)
    try:
        assert process.exitcode == -signal.SIGALRM
    finally:
        process.kill()


def joins_and_leaves(folder: Path) -> None:
    """Tensors that nobody else holds are dropped by the threads of the group, as after ``broadcast_object_list``."""
    ranks.TO_BE_IDLE = 0.0
    for number in range(100):
        dist.init_process_group("gloo", init_method=f"file://{folder / str(number)}", rank=0, world_size=1)
        dist.all_gather_object([None], {"some": torch.ones(3)})
        dist.all_reduce(torch.ones(100_000))
        dist.broadcast_object_list([torch.ones(1000)])
        ranks.leave_group()


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo")
def test_a_group_is_left_whatever_its_threads_still_hold(tmp_path: Path) -> None:
    """Torch before 2.8 waits for ever in ``destroy_process_group``, at the first few of these."""
    process = forking().Process(target=joins_and_leaves, args=(tmp_path,))
    process.start()
    process.join(60)
    try:
        assert process.exitcode == 0
    finally:
        process.kill()


def test_the_threads_of_a_group_are_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is late with what it holds would abort the process at its end."""
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    dropped = threading.Timer(0.1, lambda: None)
    dropped.start()
    ranks.leave_group()
    assert not dropped.is_alive()


def test_workers_within_a_job_are_refused(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, good: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--workers and --executor are for one process" in cli("score", good, *DATA, "--workers", 2).usage()


def test_processes_that_cannot_meet(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, good: Path) -> None:
    """Some launchers set the two variables for jobs that are none."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    ended = cli("score", good, *DATA)
    assert ended.code == 2
    assert "RANK and WORLD_SIZE are set, but the processes cannot meet" in ended.complaint()
    assert "start them with torchrun" in ended.complaint()
