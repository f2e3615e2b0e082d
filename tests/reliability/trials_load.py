"""Trials of many checkpoints: speed, memory, size, the report; and a cluster that loses a node."""

from __future__ import annotations

import functools
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from commands import TRAIN
from forked import Running, content_of, difference, run
from trial import Tally, trial

CHEAP = "representation,downstream,shift"  # measures that take a second or so for a small network
SCORE = ["score", "runs", "--data", "digits", "--subset", "300", "--measures", CHEAP, "--workers", "2"]


def many_checkpoints(folder: Path, count: int) -> None:
    """``runs/0000/last.pt`` and so on: one trained encoder, its weights moved a little each time, of four methods."""
    methods = ("simclr", "simclr-sam", "simclr-fourier", "ssa-clr")
    payloads = []
    for method in methods:
        assert run([*TRAIN, "--method", method, "--epochs", "2", "--out", method], folder).code == 0
        payloads.append(torch.load(folder / method / "last.pt", weights_only=True))
    for number in range(count):
        payload = payloads[number % len(methods)]
        draw = torch.Generator().manual_seed(number)
        size = 0.05 * (number // len(methods)) / max(1, count // len(methods))
        model = {
            key: value + size * value.std() * torch.randn(value.shape, generator=draw)
            if value.is_floating_point() and value.numel() > 1 and "running" not in key else value
            for key, value in payload["model"].items()
        }  # fmt: skip
        settings = {**payload["training"]["settings"], "seed": number}
        path = folder / "runs" / f"{number:04d}" / "last.pt"
        path.parent.mkdir(parents=True)
        torch.save({**payload, "model": model, "training": {**payload["training"], "settings": settings}}, path)


def resident(pid: int) -> int:
    """KiB of a process that lie in memory and are its own."""
    return sum(
        int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon")
    )


@trial(
    "load",
    "many checkpoints with all cheap measures, two workers",
    "a cell takes within 10 % as long as a single one does, in the last quarter as in the first; no process's memory "
    "grows by more than 10 %; the store stays under 100 kB a checkpoint; link and report end within a minute for each "
    "1,000 checkpoints (not less than a minute)",
    few=8,
    many=1000,
)
def many(tally: Tally, times: int, folder: Path) -> None:
    many_checkpoints(folder, times)
    alone = single_cell(folder) if times >= 100 else 0.0
    running = Running(SCORE, folder, small=times < 100, spawn=times >= 100)
    samples: list[tuple[float, int, list[int]]] = []
    while running.process.is_alive():
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        try:
            pids = [running.pid, *map(int, children.read_text().split())]
            memory = [resident(pid) for pid in pids]
        except (OSError, ValueError):
            continue
        samples.append((time.monotonic(), running.said().count("\n["), memory))
        time.sleep(1.0 if times >= 100 else 0.2)
    ended = running.ended()
    cells = content_of(folder / "scores.db")["cells"]
    problems = [] if ended.code == 0 and len(cells) == 3 * times else [f"{ended.code}, {len(cells)} cells: {ended.said[-400:]}"]
    at_work = [sample for sample in samples if sample[1] > 0]
    if times >= 100 and len(at_work) > 8:
        problems += _pace(tally, at_work, len(cells), alone) + _growth(tally, at_work)
    size = (folder / "scores.db").stat().st_size
    tally.notes.append(f"store {size / 1e6:.1f} MB")
    if size > 1e5 * times + 2e5:
        problems.append(f"the store has {size} bytes")
    allowed = 60 * max(1.0, times / 1000)
    for verb in (["link", "scores.db"], ["report", "scores.db", "--out", "report"]):
        done = run(verb, folder, small=times < 100)
        tally.notes.append(f"{verb[0]} {done.seconds:.0f} s")
        if done.code or done.seconds > allowed:
            problems.append(f"{verb[0]} ended with {done.code} after {done.seconds:.0f} s: {done.said[-300:]}")
    for number in range(times):
        tally.count("checkpoints", problems[number] if number < len(problems) else "")


def single_cell(folder: Path) -> float:
    """Seconds a cell takes where one process does nothing else: of 14 checkpoints less those of 2, on the same clock."""
    seconds = []
    for count in (2, 14):
        paths = [f"runs/{number:04d}" for number in range(count)]
        ended = run(["score", *paths, *SCORE[2:-2], "--store", f"first-{count}.db"], folder, small=False)
        assert ended.code == 0, ended.said
        seconds.append(ended.seconds)
    return (seconds[1] - seconds[0]) / (3 * 12)


def _pace(tally: Tally, samples: list[tuple[float, int, list[int]]], cells: int, alone: float) -> list[str]:
    """Seconds a cell with two workers against one alone, and in the last quarter against the first."""
    marks = [next(at for at, done, _ in samples if done >= share * samples[-1][1]) for share in (0.02, 0.25, 0.75, 1.0)]
    first, last = (marks[1] - marks[0]) / 0.23, (marks[3] - marks[2]) / 0.25
    each = 2 * (marks[3] - marks[0]) / (0.98 * cells)
    tally.notes.append(
        f"{each:.2f} s of a worker a cell, {each / alone:.2f} of a single one; last quarter against first {last / first:.2f}"
    )
    problems = [f"cells take {last / first:.2f} times as long in the end"] if last > 1.1 * first else []
    return [*problems, *([f"a cell takes {each / alone:.2f} times as long as alone"] if each > 1.1 * alone else [])]


def _growth(tally: Tally, samples: list[tuple[float, int, list[int]]]) -> list[str]:
    """Memory of driver and workers in the last quarter against the second one, when everything was loaded."""
    parts = [samples[len(samples) * k // 4 : len(samples) * (k + 1) // 4] for k in (1, 3)]
    early, late = (statistics.median(max(memory) for _, _, memory in part) for part in parts)
    drivers = [statistics.median(memory[0] for _, _, memory in part) for part in parts]
    tally.notes.append(
        f"largest process {early / 1024:.0f} MiB, then {late / 1024:.0f}; driver {drivers[0] / 1024:.0f}, {drivers[1] / 1024:.0f}"
    )
    return [f"memory grew from {early} to {late} KiB"] if late > 1.1 * early or drivers[1] > 1.1 * drivers[0] else []


@functools.cache
def no_ray() -> str:
    """Why there is no cluster."""
    try:
        import ray  # noqa: F401
    except ImportError:
        return "Ray is not installed"
    return ""


@trial(
    "load",
    "eight workers on two simulated nodes of a Ray cluster, one node killed half-way",
    "all cells are computed, and the store equals that of one process to the bit",
    few=0,
    many=5,
    absent=no_ray,
)
def lost_node(tally: Tally, times: int, folder: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from ssa_analysis.running.executors import RayExecutor
    from ssa_analysis.running.executors.base import Tries
    from ssa_analysis.running.plan import DataSpec, loaded_data, make_cells
    from ssa_analysis.running.scoring import run_cells
    from ssa_analysis.running.store import Store

    draw = random.Random(11)
    many_checkpoints(folder, 8)
    score = ["score", *(f"runs/{n:04d}" for n in range(8)), "--data", "digits", "--subset", "300", "--measures", CHEAP]
    assert run([*score, "--store", "one.db"], folder, small=False).code == 0
    spec = DataSpec("digits", subset=300)
    paths = [Path("runs") / f"{n:04d}" / "last.pt" for n in range(8)]
    shared = {"views": "own", "tau": None, "loss": "contrastive", "backend": "lanczos"}
    here, losses, lost = Path.cwd(), list[str](), Tries.lost

    def noted(tries: Tries, *arguments: Any) -> Any:
        losses.append(tries.job.key)
        return lost(tries, *arguments)

    for number in range(times):
        before = len(losses)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            os.chdir(folder)
            nodes = [cluster.add_node(num_cpus=4) for _ in range(2)]
            ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
            moment, seen = draw.randrange(1, 13), [0]

            def kill(
                result: object, moment: int = moment, seen: list[int] = seen, nodes: list[Any] = nodes, cluster: Any = cluster
            ) -> None:
                seen[0] += 1
                if seen[0] == moment:
                    cluster.remove_node(nodes[0], allow_graceful=False)

            cells = make_cells(paths, loaded_data(spec), CHEAP.split(","), 0, shared, {})
            with Store(f"{number}.db") as store, patch.object(Tries, "lost", noted):
                summary = run_cells(cells, spec, executor=RayExecutor(workers=8), store=store, on_result=kill)
            problem = "; ".join(str(failure.error) for failure in summary.failures)
        finally:
            os.chdir(here)
            ray.shutdown()
            cluster.shutdown()
        problem = problem or ("" if len(losses) > before else "no worker was lost with the node")
        tally.count("same store", problem or difference(content_of(folder / f"{number}.db"), content_of(folder / "one.db")))
    tally.notes.append(f"{len(losses)} workers lost")
