"""Trials of a power loss: what the system is asked to write, and in which order, as strace sees it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from commands import TRAIN
from trial import Tally, trial


def no_strace() -> str:
    """Why system calls cannot be seen."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    seen = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return "processes may not be traced here" if seen.returncode else ""


@trial(
    "crash",
    "the system calls of `train`, seen by strace, as a power loss would find them",
    "every file that takes another's place is written, then flushed to the disk, then renamed, then its folder is "
    "flushed; a row of the log is flushed before the checkpoint that says its epoch",
    few=1,
    many=1,
    absent=no_strace,
)
def power_loss(tally: Tally, times: int, folder: Path) -> None:
    trace = folder / "trace"
    calls = "openat,open,creat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,close,dup,dup2,dup3"
    strace = ["strace", "-f", "-y", "-qq", "-s", "16", "-e", f"trace={calls}", "-o", str(trace)]
    command = [
        sys.executable,
        "-m",
        "ssa_analysis",
        *TRAIN,
        "--epochs",
        str(times + 2),
        "--keep-every",
        "1",
        "--out",
        str(folder / "run"),
    ]
    done = subprocess.run([*strace, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-600:]
    for outcome, problem in orders(trace.read_text(errors="replace"), str(folder / "run")):
        tally.count(outcome, problem)


def orders(trace: str, place: str) -> list[tuple[str, str]]:
    """For each rename in ``place`` and each append to its log: what it was, and what was out of order."""
    dirty: dict[str, bool] = {}  # path -> written to since it was flushed
    found: list[tuple[str, str]] = []
    waiting = ""  # the folder that must be flushed next
    for line in trace.splitlines():
        if write := re.search(r"\b(?:write|pwrite64|writev)\(\d+<([^>]+)>", line):
            path = write[1]
            if path.startswith(place):
                dirty[path] = True
        elif flush := re.search(r"\b(?:fsync|fdatasync)\(\d+<([^>]+)>", line):
            dirty[flush[1]] = False
            if flush[1] == waiting:
                waiting = ""
            if flush[1].endswith("log.csv"):
                found.append(("flushed rows", ""))
        elif rename := re.search(r'\brename(?:at2?)?\(.*?"([^"]*)".*?"([^"]*)"', line):
            source, target = rename[1], rename[2]
            if not target.startswith(place):
                continue
            problem = f"{target} took its place before it was flushed" if dirty.get(source, True) else ""
            problem = problem or (f"{waiting} was not flushed after a rename" if waiting else "")
            log = str(Path(place) / "log.csv")
            if target.endswith("last.pt") and dirty.get(log, True):
                problem = problem or "the log was not flushed before the checkpoint"
            found.append(("renames", problem))
            waiting = str(Path(target).parent)
    if waiting:
        found.append(("renames", f"{waiting} was not flushed after the last rename"))
    return found
