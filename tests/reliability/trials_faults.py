"""Trials of machines and measures that fail: full disks, folders that cannot be written, memory, hangs, errors."""

from __future__ import annotations

import functools
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nets
import pytest
from commands import SCORE, TRAIN, loads, opens, same_file, scored_whole, two_checkpoints
from forked import Running, content_of, difference, run
from trial import Tally, trial

from ssa_analysis.running.store import Store

NETS = ["--model", f"{nets.__file__}:build", "--normalise", "half", "--data", "digits", "--measures", "representation"]
GROUPS = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")  # of the first and the second version


@functools.cache
def no_small_disk() -> str:
    """Why a file system of a given size cannot be had here."""
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False).returncode:
            return "a small file system cannot be mounted here: that needs root"
        subprocess.run(["umount", folder], check=True)
    return ""


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` KiB."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def enlarge(folder: Path) -> None:
    """Give a small file system room."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)


def is_full(said: str) -> bool:
    """Whether the last line of a command says that the disk is full."""
    last = said.strip().splitlines()[-1] if said.strip() else ""
    return "No space left on device" in last or "the disk is full" in last


@trial(
    "fault",
    "a disk that becomes full while `score` is at work",
    "one line says so; what was stored is there, and after there is room the next run computes the rest",
    few=1,
    many=15,
    absent=no_small_disk,
)
def full_disk_score(tally: Tally, times: int, folder: Path) -> None:
    draw = random.Random(9)
    scored_whole(folder)
    for number in range(times):
        with disk(folder / f"disk-{number}", draw.randrange(44, 132, 4)) as small:
            score = [*SCORE, "--store", str(small / "scores.db")]
            ended = run(score, folder)
            problem = "" if ended.code == 0 or is_full(ended.said) else f"{ended.code}: {ended.said[-400:]}"
            problem = problem or opens(small / "scores.db")
            there = len(content_of(small / "scores.db")["cells"]) if (small / "scores.db").stat().st_size else 0
            enlarge(small)
            again = run(score, folder)
            problem = problem or ("" if f"{8 - there} cells computed, {there} taken" in again.said else again.said[-400:])
            seen = "clean errors" if ended.code else "there was room"
            tally.count(seen, problem or difference(content_of(small / "scores.db"), content_of(folder / "whole.db")))


@trial(
    "fault",
    "a disk that becomes full while `train` is at work",
    "one line says so, the last checkpoint is whole; after there is room `--resume` gives the bytes of an unbroken run",
    few=1,
    many=15,
    absent=no_small_disk,
)
def full_disk_train(tally: Tally, times: int, folder: Path) -> None:
    draw = random.Random(10)
    arguments = [*TRAIN, "--epochs", "4", "--keep-every", "1", "--resume"]
    whole = run([*arguments, "--out", "whole"], folder)
    assert whole.code == 0, whole.said
    used = sum(path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file()) // 1024
    for number in range(times):
        with disk(folder / f"disk-{number}", draw.randrange(8, used, 4)) as small:
            ended = run([*arguments, "--out", str(small / "run")], folder)
            problem = "" if ended.code == 0 or is_full(ended.said) else f"{ended.code}: {ended.said[-400:]}"
            problem = problem or loads(small / "run" / "last.pt")
            enlarge(small)
            again = run([*arguments, "--out", str(small / "run")], folder)
            problem = problem or ("" if again.code == 0 else again.said[-400:])
            seen = "clean errors" if ended.code else "there was room"
            tally.count(seen, problem or same_file(small / "run" / "last.pt", folder / "whole" / "last.pt"))


@trial(
    "fault",
    "a folder that may not be written, under `score`, `train`, `study`, `report`, `export`, `views`",
    "one line says so, before anything is computed; nothing is changed",
    few=6,
    many=6,
)
def read_only_folder(tally: Tally, times: int, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:  # which nobody may enter, as the folder of the tests must not be
        place = Path(name)
        place.chmod(0o777)
        _read_only(tally, times, place)


def _read_only(tally: Tally, times: int, folder: Path) -> None:
    two_checkpoints(folder)
    (folder / "study.toml").write_text(
        'name = "s"\n[data]\nname = "digits"\n[train]\narch = "convnet"\n[[grid]]\nmethod = "simclr"\n'
    )
    assert run([*SCORE, "--measures", "representation"], folder).code == 0
    sealed = folder / "sealed"
    sealed.mkdir()
    sealed.chmod(0o555)
    verbs = [
        [*SCORE, "--store", "sealed/scores.db"],
        [*TRAIN, "--epochs", "1", "--out", "sealed/run"],
        ["study", "study.toml", "--out", "sealed/study"],
        ["report", "scores.db", "--out", "sealed/report"],
        ["export", "scores.db", "--out", "sealed/scores.csv"],
        ["views", "a", "--data", "digits", "--subset", "300", "--out", "sealed/views"],
    ]
    for number in range(times):
        ended = run(verbs[number % len(verbs)], folder, prepare="nobody" if os.geteuid() == 0 else "")
        lines = [line for line in ended.said.strip().splitlines() if line.startswith("ssa-analyze: ")]
        clean = ended.code == 1 and len(lines) == 1 and "cells computed" not in ended.said
        tally.count("clean errors", "" if clean and not list(sealed.iterdir()) else f"{ended.code}: {ended.said[-400:]}")


@trial(
    "fault",
    "a measure that raises in one of three checkpoints",
    "its cell has failed with the error in a line, the others are computed, exit code 1",
    few=1,
    many=5,
)
def raising_measure(tally: Tally, times: int, folder: Path) -> None:
    for fault, name in ((nets.FINE, "fine-1"), (nets.RAISES, "raises"), (nets.FINE, "fine-2")):
        nets.write(folder / f"{name}.pt", fault, seed=len(name))
    for number in range(times):
        workers = ["--workers", str(1 + number % 2)]
        score = ["score", "fine-1.pt", "raises.pt", "fine-2.pt", *NETS, "--subset", "300", "--store", f"{number}.db", *workers]
        ended = run(score, folder)
        tally.count("failed alone", failed_alone(ended.code, folder / f"{number}.db", "raises.pt", "ArithmeticError: broken"))


def failed_alone(code: int, store: Path, name: str, error: str, others: int = 2) -> str:
    """What is wrong where only the cell of one checkpoint should have failed, with an error that begins so."""
    cells = content_of(store)["cells"]
    failed = [(row[2], row[8]) for row in cells if row[7] == "failed"]
    fine = [row for row in cells if row[7] == "ok"]
    if code == 1 and len(fine) == others and len(failed) == 1 and failed[0][0] == name and failed[0][1].startswith(error):
        return ""
    return f"it ended with {code}, {len(fine)} cells are fine, failed are {failed}"


@trial(
    "fault",
    "a measure that hangs, asleep or inside a library that holds Python's lock, with `--cell-timeout`",
    "its cell has failed for that reason, the others are computed; it takes little longer than the time allowed",
    few=1,
    many=6,
)
def hanging_measure(tally: Tally, times: int, folder: Path) -> None:
    for fault, name in (
        (nets.FINE, "fine-1"),
        (nets.FINE, "fine-2"),
        (nets.HANGS, "asleep"),
        (nets.HANGS_WITH_THE_LOCK, "locked"),
    ):
        nets.write(folder / f"{name}.pt", fault, seed=len(name))
    common = [*NETS, "--subset", "300"]
    quick = run(["score", "fine-1.pt", "fine-2.pt", *common, "--store", "quick.db", "--cell-timeout", "10m"], folder)
    limit = max(8, round(quick.seconds))
    for number in range(times):
        name = ("locked", "asleep")[number % 2]
        store = ["--store", f"{number}.db", "--workers", str(1 + number // 2 % 2)]
        score = ["score", "fine-1.pt", f"{name}.pt", "fine-2.pt", *common, *store, "--cell-timeout", f"{limit}s"]
        ended = run(score, folder)
        problem = failed_alone(ended.code, folder / f"{number}.db", f"{name}.pt", "took longer than")
        problem = problem or ("  0 ms  failed" in ended.said and "a cell that was ended is said to have taken no time")
        late = ended.seconds > limit + 4 * quick.seconds + 10
        tally.count(f"{name}: failed alone", problem or (f"it took {ended.seconds:.0f} s" if late else ""))
    tally.notes.append(f"{limit} s allowed")


def no_memory_limit() -> str:
    """Why a group of processes cannot be given little memory here."""
    root = _memory_groups()
    if root is None:
        return "control groups of memory cannot be written here: that needs root"
    from ssa_analysis.running.executors.local import oom_kills

    return "" if oom_kills() is not None else "the system does not count what it kills for want of memory"


@functools.cache
def _memory_groups() -> Path | None:
    for root in GROUPS:
        probe = root / "ssa-analyze-probe"
        try:
            probe.mkdir()
            limited = any((probe / name).exists() for name in LIMITS)
            probe.rmdir()
        except OSError:
            continue
        if limited:
            return root
    return None


LIMITS = ("memory.limit_in_bytes", "memory.max")


@contextmanager
def memory_limit(size: int) -> Iterator[Path]:
    """A control group whose processes may take ``size`` bytes together."""
    root = _memory_groups()
    assert root is not None
    group = root / f"ssa-analyze-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    try:
        for name in LIMITS:
            if (group / name).exists():
                (group / name).write_text(str(size))
        yield group
    finally:
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:  # the processes in it are just ending
                time.sleep(0.1)


@trial(
    "fault",
    "a worker that the system kills for want of memory (a control group of 2 GiB)",
    "its cell is tried again in batches of a quarter: one that then fits is stored with the numbers of a net that has the same "
    "weights and no such want, one that does not has failed for that reason; the rest goes on",
    few=1,
    many=5,
    absent=no_memory_limit,
)
def out_of_memory(tally: Tally, times: int, folder: Path) -> None:
    """Of 256 images, as many as a measure gives them at once, the nets take 2 and 4 GiB, of 128 the half of it."""
    faults = ((nets.FINE, "fine"), (nets.TAKES_MEMORY, "much"), (nets.TAKES_TOO_MUCH, "too-much"))
    for fault, name in faults:
        nets.write(folder / f"{name}.pt", fault)
    for number in range(times):
        store = folder / f"{number}.db"
        names = [f"{name}.pt" for _, name in faults]
        with memory_limit(LIMIT) as group:
            score = ["score", *names, *NETS, "--subset", "900", "--store", store.name, "--cell-timeout", "20m"]
            ended = Running(score, folder, prepare="in_group", prepared=(group,)).ended()
        problem = failed_alone(ended.code, store, "too-much.pt", "the worker process ended (killed, for want of memory)")
        if not problem and "in batches of 0.25 of their size, since memory was short" not in ended.said:
            problem = f"nothing was tried again with less: {ended.said[-600:]}"
        if not problem:
            fine, much = (values_of(store, f"{name}.pt") for name in ("fine", "much"))
            problem = "" if fine and much == pytest.approx(fine, rel=1e-4, nan_ok=True) else f"{much} instead of {fine}"
        tally.count("one fits at the second try, one never, one at once", problem)


LIMIT = 2 * 2**30


def values_of(store: Path, name: str) -> dict[str, float]:
    """The scores of a checkpoint by their names."""
    with Store(store) as opened:
        frame = opened.frame()
    own = frame[frame["path"] == name]
    return dict(zip(own["name"], own["value"], strict=True))


@trial(
    "fault",
    "`score` in one process, killed in the middle of a checkpoint that is too much for the machine, then run again",
    "the next run gives that checkpoint a process of its own, where it fails alone; the rest is computed first",
    few=1,
    many=5,
    absent=no_memory_limit,
)
def killed_for_memory_in_one_process(tally: Tally, times: int, folder: Path) -> None:
    for fault, name in ((nets.TAKES_TOO_MUCH, "too-much"), (nets.FINE, "fine-1"), (nets.FINE, "fine-2")):
        nets.write(folder / f"{name}.pt", fault, seed=len(name))
    for number in range(times):
        score = ["score", "too-much.pt", "fine-1.pt", "fine-2.pt", *NETS, "--subset", "900", "--store", f"{number}.db"]
        with memory_limit(LIMIT) as group:
            first = Running(score, folder, prepare="in_group", prepared=(group,)).ended()
            second = Running(score, folder, prepare="in_group", prepared=(group,)).ended()
        problem = "" if first.code == -9 else f"the first run was not killed: {first.code}"
        if "which now has a process of its own" not in second.said:
            problem = problem or f"the second run: {second.said[-500:]}"
        error = "the worker process ended (killed, for want of memory)"
        problem = problem or failed_alone(second.code, folder / f"{number}.db", "too-much.pt", error)
        tally.count("failed alone at the second run", problem)
