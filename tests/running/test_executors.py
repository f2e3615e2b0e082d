"""Executors: every job ends exactly once, and whatever a job does to its worker stays its own affair."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssa_analysis.errors import MeasureError, SettingsError
from ssa_analysis.running.executors import (
    Event,
    ExecutorSettings,
    InProcessExecutor,
    Job,
    ProcessExecutor,
    make_executor,
)

# Jobs stand at the top of the module: a spawned worker finds them by name.


def squares(count: int) -> Iterator[int]:
    for number in range(count):
        yield number**2


def explains_itself(message: str) -> Iterator[int]:
    yield 1
    raise MeasureError(message)


def breaks() -> Iterator[int]:
    yield from ()
    raise ZeroDivisionError("first line\nsecond line")


def exits() -> Iterator[int]:
    yield 1
    os._exit(7)


def is_killed() -> Iterator[int]:
    yield 1
    os.kill(os.getpid(), signal.SIGKILL)


def sends_what_cannot_be_sent() -> Iterator[Any]:
    yield threading.Lock()


def dies_after_its_end() -> Iterator[int]:
    threading.Timer(0.05, os._exit, [3]).start()
    yield 1


def says_who_it_is_and_sleeps() -> Iterator[int]:
    yield os.getpid()
    time.sleep(300)


HARMLESS = [
    Job("none", squares, {"count": 0}),
    Job("some", squares, {"count": 5}),
    Job("explains", explains_itself, {"message": "too few images"}),
    Job("breaks", breaks),
    Job("more", squares, {"count": 3}),
]
# each of the first three takes a worker with it; two workers, so the later jobs need replacements
DEADLY = [Job("exits", exits), Job("killed", is_killed), Job("unsendable", sends_what_cannot_be_sent)]


def by_key(events: list[Event]) -> dict[str, list[tuple[str, Any]]]:
    found: dict[str, list[tuple[str, Any]]] = {}
    for event in events:
        found.setdefault(event.key, []).append((event.kind, event.value))
    return found


@pytest.fixture(scope="module")
def in_process() -> list[Event]:
    return list(InProcessExecutor().run(HARMLESS))


@pytest.fixture(scope="module")
def in_workers() -> list[Event]:
    return list(ProcessExecutor(2).run([*DEADLY, *HARMLESS]))


def test_in_process_events(in_process: list[Event]) -> None:
    assert by_key(in_process) == {
        "none": [("done", None)],
        "some": [("value", n) for n in (0, 1, 4, 9, 16)] + [("done", None)],
        "explains": [("value", 1), ("failed", "too few images")],
        "breaks": [("failed", "ZeroDivisionError: first line")],
        "more": [("value", 0), ("value", 1), ("value", 4), ("done", None)],
    }


def test_workers_give_the_same_events(in_process: list[Event], in_workers: list[Event]) -> None:
    found = by_key(in_workers)
    assert {key: found[key] for key in (job.key for job in HARMLESS)} == by_key(in_process)


def test_every_job_ends_exactly_once_and_last(in_workers: list[Event]) -> None:
    ends = Counter(event.key for event in in_workers if event.kind != "value")
    assert ends == {job.key: 1 for job in [*DEADLY, *HARMLESS]}
    assert all(events[-1][0] != "value" for events in by_key(in_workers).values())


def test_a_worker_that_exits_fails_its_job(in_workers: list[Event]) -> None:
    assert by_key(in_workers)["exits"] == [("value", 1), ("failed", "the worker process ended (exit code 7)")]


def test_a_worker_that_is_killed_fails_its_job(in_workers: list[Event]) -> None:
    assert by_key(in_workers)["killed"] == [("value", 1), ("failed", "the worker process ended (killed)")]


def test_a_result_that_cannot_be_sent_fails_its_job(in_workers: list[Event]) -> None:
    (kind, message), *rest = by_key(in_workers)["unsendable"]
    assert kind == "failed"
    assert "pickle" in message
    assert rest == []


def test_no_worker_is_left_behind(in_workers: list[Event]) -> None:
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("forked_workers")
def test_a_worker_that_dies_between_two_jobs_fails_only_the_next() -> None:
    """The driver is slow: when it turns to the worker again, the worker is gone."""
    jobs = [Job("first", dies_after_its_end), Job("second", squares, {"count": 2}), Job("third", squares, {"count": 2})]
    ends = {}
    for event in ProcessExecutor(1).run(jobs):
        if event.kind != "value":
            ends[event.key] = event.kind
            time.sleep(0.5 if event.key == "first" else 0)
    assert ends == {"first": "done", "second": "failed", "third": "done"}


@pytest.mark.usefixtures("forked_workers")
def test_workers_end_when_the_driver_stops_early() -> None:
    run = ProcessExecutor(1).run([Job("sleeps", says_who_it_is_and_sleeps)])
    pid = next(run).value
    assert [process.pid for process in multiprocessing.active_children()] == [pid]
    run.close()  # what an interrupt does to the generator
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


def test_in_process_stops_between_results() -> None:
    run = InProcessExecutor().run([Job("a", squares, {"count": 3}), Job("b", squares, {"count": 3})])
    assert [next(run).value, next(run).value] == [0, 1]
    run.close()
    assert list(run) == []


def test_no_jobs_no_events() -> None:
    assert list(InProcessExecutor().run([])) == list(ProcessExecutor(2).run([])) == []


def test_local_chooses_by_the_number_of_workers() -> None:
    assert isinstance(make_executor("local", ExecutorSettings()), InProcessExecutor)
    assert isinstance(make_executor("local", ExecutorSettings(1)), InProcessExecutor)
    assert isinstance(make_executor("local", ExecutorSettings(2)), ProcessExecutor)
    with pytest.raises(SettingsError, match="at least 1, got 0"):
        ExecutorSettings(0)
    with pytest.raises(SettingsError, match=r"unknown executor 'locl'; did you mean local\?"):
        make_executor("locl", ExecutorSettings())
    with pytest.raises(SettingsError, match="the executor 'local' has no option 'adress'; it has none"):
        make_executor("local", ExecutorSettings(2, options={"adress": "x"}))


def drives(told: Any) -> None:
    """A driver that tells its worker's process id and waits for it."""
    for event in ProcessExecutor(1).run([Job("sleeps", says_who_it_is_and_sleeps)]):
        told.send(event.value)


def test_workers_end_when_their_driver_is_killed() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    driver = context.Process(target=drives, args=(theirs,))
    driver.start()
    worker = ours.recv()
    driver.kill()
    driver.join()
    deadline = time.monotonic() + 20
    while is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(worker)


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
