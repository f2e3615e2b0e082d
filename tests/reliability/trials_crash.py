"""Trials that kill: ``score``, ``study`` and ``train`` at random moments, and then again to the end."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from commands import SCORE, TRAIN, loads, opens, same_file, same_rows, two_checkpoints
from forked import Running, content_of, difference, run
from trial import Tally, trial

from ssa_analysis.training.logs import LOG_COLUMNS

LIVES = 4  # kills at most before a run may come to its end
STUDY = """
name = "killed"
[data]
name = "digits"
subset = 600

[train]
arch = "convnet"
width = 4
projector = [16, 8]
epochs = 4
batch = 64
lr = 0.1
warmup = 0
knn_every = 0
record = ["representation"]
record_every = 2

[score]
measures = ["downstream", "representation"]

[[grid]]
method = ["simclr", "ssa-clr"]
"""

Look = Callable[[Path], str]


def kills(
    tally: Tally,
    times: int,
    folder: Path,
    arguments: list[str],
    prepare: Callable[[Path], None],
    look: Look,
    compare: Look,
    seed: int,
) -> None:
    """Kill a command ``times`` times, at moments spread over the time that it takes, and let it end after a few of them.

    Args:
        prepare: fills an empty folder. look: after each kill, what is wrong in the folder. compare: at each end.
    """
    draw = random.Random(seed)
    whole = folder / "whole"
    whole.mkdir()
    prepare(whole)
    run(["--version"], folder)  # the server has imported everything
    first = run(arguments, whole)
    if first.code:
        tally.count("broken", f"the unbroken run ended with {first.code}: {first.said[-500:]}")
        return
    killed = lives = 0
    while killed < times:
        lives += 1
        place = folder / f"life-{lives}"
        place.mkdir()
        prepare(place)
        for _ in range(min(LIVES, times - killed)):
            ended = Running(arguments, place).kill_after(draw.uniform(0, 1.1 * first.seconds))
            if ended.code == -9:
                killed += 1
                problem = look(place)
                tally.count("kills", f"after a kill: {problem}" if problem else "")
            elif ended.code:
                tally.count("broken", f"a run after a kill ended with {ended.code}: {ended.said[-500:]}")
                break
        ended = run(arguments, place)
        if ended.code:
            tally.count("broken", f"the last run ended with {ended.code}: {ended.said[-500:]}")
        elif problem := compare(place):
            tally.failures.append(f"at the end: {problem}")
        if left := [path.name for path in place.rglob(".*") if path.is_file()]:
            tally.failures.append(f"at the end there are leftovers: {left}")
        shutil.rmtree(place)
    tally.notes.append(f"{lives} whole runs, an unbroken one takes {first.seconds:.1f} s")


@trial(
    "crash",
    "`score` killed with SIGKILL at random moments, then run again",
    "the store opens after each kill; at the end it equals an unbroken run's to the bit, no cell twice, none lost, no "
    "file left over",
    few=2,
    many=50,
)
def score_killed(tally: Tally, times: int, folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    two_checkpoints(source)

    def prepare(place: Path) -> None:
        for name in ("a", "b"):
            (place / name).symlink_to(source / name)

    def compare(place: Path) -> str:
        return difference(content_of(place / "scores.db"), content_of(folder / "whole" / "scores.db"))

    kills(tally, times, folder, SCORE, prepare, lambda place: opens(place / "scores.db"), compare, seed=1)


@trial(
    "crash",
    "`train --resume` killed with SIGKILL at random moments, then run again",
    "every checkpoint that is there loads; at the end all are the bytes of an unbroken run's, and so are the logs but "
    "for the seconds",
    few=2,
    many=50,
)
def train_killed(tally: Tally, times: int, folder: Path) -> None:
    arguments = [*TRAIN, "--method", "ssa-clr", "--epochs", "6", "--keep-every", "2", "--record", "representation",
                 "--record-every", "2", "--resume", "--out", "run"]  # fmt: skip

    def look(place: Path) -> str:
        return next((problem for path in sorted(place.rglob("*.pt")) if (problem := loads(path))), "")

    def compare(place: Path) -> str:
        whole = folder / "whole" / "run"
        files = [same_file(place / "run" / path.relative_to(whole), path) for path in sorted(whole.rglob("*.pt"))]
        logs = [same_rows(place / "run" / name, whole / name, columns) for name, columns in LOGS.items()]
        return next((problem for problem in (*files, *logs) if problem), "")

    kills(tally, times, folder, arguments, lambda place: None, look, compare, seed=2)


LOGS = {"log.csv": LOG_COLUMNS, "records.csv": ("epoch",)}


@trial(
    "crash",
    "`study` killed with SIGKILL at random moments, then run again",
    "the store opens and checkpoints load after each kill; at the end checkpoints, store and logs equal an unbroken "
    "run's to the bit",
    few=2,
    many=50,
)
def study_killed(tally: Tally, times: int, folder: Path) -> None:
    def prepare(place: Path) -> None:
        (place / "study.toml").write_text(STUDY)

    def look(place: Path) -> str:
        found = [loads(path) for path in sorted(place.rglob("*.pt"))]
        return opens(place / "study" / "scores.db") or next((problem for problem in found if problem), "")

    def compare(place: Path) -> str:
        whole = folder / "whole" / "study"
        store = difference(content_of(place / "study" / "scores.db"), content_of(whole / "scores.db"))
        files = [same_file(place / "study" / path.relative_to(whole), path) for path in sorted(whole.rglob("*.pt"))]
        logs = [
            same_rows(path, whole / path.relative_to(place / "study"), LOGS[path.name])
            for path in sorted(place.rglob("*.csv"))
            if path.name in LOGS
        ]
        page = "" if (place / "study" / "report" / "index.html").is_file() else "there is no report"
        return next((problem for problem in (store, *files, *logs, page) if problem), "")

    kills(tally, times, folder, ["study", "study.toml", "--out", "study"], prepare, look, compare, seed=3)
