"""Trials of Ctrl-C, of runs that share a store, and of what changes while a run is at work."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import time
from pathlib import Path

from commands import SCORE, TRAIN, computed, loads, opens, same_file, scored_whole, two_checkpoints, unlike_whole
from forked import Running, content_of, run
from trial import Tally, trial

from ssa_analysis.running.store import Store
from ssa_analysis.training.logs import LOG_COLUMNS, whole_rows

EPOCHS = 30  # of the training that is interrupted


def interrupt_scoring(tally: Tally, times: int, folder: Path, presses: int, seed: int) -> None:
    """Press Ctrl-C once or twice at random moments of a run with one or two workers, then run it again to the end."""
    draw, seconds = random.Random(seed), scored_whole(folder)
    for number in range(times):
        store = folder / f"{number}.db"
        running = Running([*SCORE, "--store", store.name, "--workers", str(1 + number % 2)], folder)
        running.says("cells to compute")
        time.sleep(draw.uniform(0, 0.8 * seconds))
        running.interrupt()
        if presses == 2:
            running.says("stopping after", 5)
            running.interrupt()
        asked = time.monotonic()
        ended = running.ended()
        took, there = time.monotonic() - asked, len(content_of(store)["cells"])
        stopped = ended.code == 130
        problem = "" if stopped or (ended.code == 0 and there == 8) else f"it ended with {ended.code}: {ended.said[-400:]}"
        if presses == 2 and took >= 5:
            problem = problem or f"it took {took:.1f} s"
        if presses == 1 and computed(ended.said) != there:
            problem = problem or f"{there} cells stored: {ended.said[-400:]}"
        problem = problem or ("Traceback" in ended.said and ended.said[-800:]) or opens(store)
        again = run([*SCORE, "--store", store.name], folder)
        if again.code or computed(again.said) != 8 - there:
            problem = problem or f"the next run: {again.said[-400:]}"
        seen = ("stopped after the cell", "stopped at once")[presses - 1] if stopped else "ended before it"
        tally.count(seen, problem or unlike_whole(store))


@trial(
    "fault",
    "Ctrl-C once in `score`, with one and with two workers",
    "the cells in hand are finished and stored, then it ends with 130; the next run computes the rest, and the store "
    "equals an unbroken run's",
    few=2,
    many=30,
)
def interrupted_once(tally: Tally, times: int, folder: Path) -> None:
    interrupt_scoring(tally, times, folder, presses=1, seed=4)


@trial(
    "fault",
    "Ctrl-C twice in `score`, with one and with two workers",
    "it ends with 130 within five seconds, the store is intact; the next run computes the rest, and the store equals an "
    "unbroken run's",
    few=2,
    many=30,
)
def interrupted_twice(tally: Tally, times: int, folder: Path) -> None:
    interrupt_scoring(tally, times, folder, presses=2, seed=5)


@trial(
    "fault",
    "Ctrl-C once in `train`",
    "the epoch in hand is finished and saved, then it ends with 130; `--resume` gives the bytes of an unbroken run",
    few=2,
    many=20,
)
def interrupted_training(tally: Tally, times: int, folder: Path) -> None:
    draw = random.Random(6)
    arguments = [*TRAIN, "--method", "simclr-sam", "--epochs", str(EPOCHS)]
    whole = run([*arguments, "--out", "whole"], folder)
    assert whole.code == 0, whole.said
    for number in range(times):
        out = folder / f"run-{number}"
        running = Running([*arguments, "--out", out.name], folder)
        running.says(f"[{draw.randint(1, EPOCHS - 5)}/{EPOCHS}]")
        running.interrupt()
        ended = running.ended()
        rows, problem = whole_rows(out / "log.csv", LOG_COLUMNS), loads(out / "last.pt")
        seen = "stopped after the epoch" if ended.code == 130 else "ended before it"
        if ended.code == 130 and f"[{len(rows)}/{EPOCHS}]" not in ended.said:
            problem = f"{len(rows)} epochs in the log: {ended.said[-400:]}"
        last = [line for line in ended.said.splitlines() if line.startswith(f"[{len(rows)}/{EPOCHS}]")]
        if ended.code == 130 and any(line.endswith("left") for line in last):
            problem = f"it says that there is time left: {ended.said[-400:]}"
        again = run([*arguments, "--resume", "--out", out.name], folder)
        problem = problem or ("" if ended.code in (0, 130) and again.code == 0 else f"{ended.said[-300:]} {again.said[-300:]}")
        tally.count(seen, problem or same_file(out / "last.pt", folder / "whole" / "last.pt"))


@trial(
    "fault",
    "two `score` runs on one store at once, of the same cells",
    "both end well; each cell is computed by one of them, and the store equals that of one run",
    few=1,
    many=10,
)
def two_runs_on_one_store(tally: Tally, times: int, folder: Path) -> None:
    draw = random.Random(7)
    seconds = scored_whole(folder)
    shares = []
    for number in range(times):
        store = folder / f"{number}.db"
        first = Running([*SCORE, "--store", store.name], folder)
        time.sleep(draw.uniform(0, seconds / 2))
        second = Running([*SCORE, "--store", store.name, "--workers", str(1 + number % 2)], folder)
        both = [first.ended(), second.ended()]
        problem = next((f"ended with {ended.code}: {ended.said[-400:]}" for ended in both if ended.code), "")
        counts = [computed(ended.said) for ended in both]
        problem = problem or ("" if sum(counts) == 8 else f"{counts} cells were computed instead of 8 in all")
        tally.count("both ended well", problem or unlike_whole(store))
        shares.append(counts)
    tally.notes.append(f"shares of 8 cells: {', '.join(f'{a}+{b}' for a, b in shares)}")


@trial(
    "fault",
    "the store held by another process while results wait to be written",
    "it says so and waits; nothing is lost",
    few=1,
    many=5,
)
def held_store(tally: Tally, times: int, folder: Path) -> None:
    seconds = scored_whole(folder)
    for number in range(times):
        store = folder / f"{number}.db"
        Store(store).close()
        running = Running([*SCORE, "--store", store.name], folder, prepare="impatient", prepared=(0.3,))
        running.says("cells to compute")
        with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            told = running.says("a result waits to be written", seconds + 30)
            time.sleep(1)
            other.execute("ROLLBACK")
        ended = running.ended()
        problem = "" if told and ended.code == 0 else f"{ended.code}: {ended.said[-400:]}"
        tally.count("waited", problem or unlike_whole(store))


@trial(
    "fault",
    "the store held by another process as a command begins",
    "one line says so, before anything is computed",
    few=1,
    many=5,
)
def held_from_the_start(tally: Tally, times: int, folder: Path) -> None:
    two_checkpoints(folder)
    store = folder / "scores.db"
    Store(store).close()
    for _ in range(times):
        with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            ended = run(SCORE, folder, prepare="impatient", prepared=(0.3,))
            other.execute("ROLLBACK")
        clean = (
            ended.code == 1
            and ended.said.strip() == "ssa-analyze: scores.db: another process holds it; try again when that has ended"
        )
        tally.count("clean errors", "" if clean and not content_of(store)["cells"] else ended.said[-400:])


@trial(
    "fault",
    "a checkpoint replaced while it is scored",
    "what is measured after that has failed and says why; nothing of the other file stands under this one's hash",
    few=1,
    many=15,
)
def replaced_checkpoint(tally: Tally, times: int, folder: Path) -> None:
    draw = random.Random(8)
    two_checkpoints(folder)
    score = ["score", "c", *SCORE[3:]]
    shutil.copytree(folder / "a", folder / "c")
    whole = run([*score, "--store", "whole.db"], folder)
    wanted = {row[0]: row for row in content_of(folder / "whole.db")["cells"]}
    values = [repr(row) for row in content_of(folder / "whole.db")["scores"]]
    for number in range(times):
        shutil.copy(folder / "a" / "last.pt", folder / "c" / "last.pt")
        running = Running([*score, "--store", f"{number}.db"], folder)
        time.sleep(draw.uniform(0, whole.seconds))
        shutil.copy(folder / "b" / "last.pt", folder / "c" / "new.pt")
        os.replace(folder / "c" / "new.pt", folder / "c" / "last.pt")
        ended = running.ended()
        content = content_of(folder / f"{number}.db") if (folder / f"{number}.db").exists() else {"cells": [], "scores": []}
        ours = [row for row in content["cells"] if row[0] in wanted]
        failed = [row for row in ours if row[7] == "failed"]
        problem = next((f"another reason: {row[8]}" for row in failed if "changed while it was being scored" not in row[8]), "")
        keys = {row[0] for row in ours}
        if any(row[0] in keys and repr(row) not in values for row in content["scores"]):
            problem = "numbers of the other file stand under this one's hash"
        problem = problem or ("Traceback" in ended.said and ended.said[-600:])
        problem = problem or ("" if ended.code == (1 if failed else 0) else f"it ended with {ended.code}: {ended.said[-300:]}")
        seen = f"{len(failed)} of 4 cells refused" if ours else "replaced before it was hashed"
        tally.count(seen, problem)


@trial(
    "fault",
    "a clock that goes back an hour at every look",
    "the scores are those of any clock; the newest cell is the one written last; a time budget is kept",
    few=1,
    many=3,
)
def clock(tally: Tally, times: int, folder: Path) -> None:
    scored_whole(folder)
    back = {"prepare": "clock_that_goes_back"}
    for number in range(times):
        store = folder / f"{number}.db"
        problem = ""
        for extra in (["--seed", "1"], ["--time-budget", "10m"]):
            ended = run([*SCORE, *extra, "--store", store.name], folder, **back)
            problem = problem or ("" if ended.code == 0 else ended.said[-400:])
        with Store(store) as opened, Store(folder / "whole.db") as whole:
            ours, theirs = (s.frame().sort_values(["checkpoint", "measure", "name"]) for s in (opened, whole))
        same = ours["seed"].eq(0).all() and repr(ours["value"].tolist()) == repr(theirs["value"].tolist())
        tally.count("the same scores", problem or ("" if same else "other scores, or those of the older seed"))
