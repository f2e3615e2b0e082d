"""Where jobs run. A job is a function that yields results; only the driver sees them, and only it writes the store."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch

from ssa_analysis.errors import SettingsError, SSAError
from ssa_analysis.progress import progress_is_shown, show_progress
from ssa_analysis.registry import Registry


@dataclass(frozen=True)
class Job:
    """``function(**arguments)`` must be importable by name, picklable in its arguments, and yield its results."""

    key: str
    function: Callable[..., Iterator[Any]]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """``kind`` is ``value`` (one yielded result), ``failed`` (``value`` is the message) or ``done``."""

    key: str
    kind: str
    value: Any = None


class Executor(Protocol):
    """Runs jobs and yields their events in the order they happen."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Every job ends in exactly one ``done`` or ``failed``."""
        ...


EXECUTORS: Registry[Callable[[int], Executor]] = Registry("executor")


def _events(job: Job) -> Iterator[Event]:
    try:
        for value in job.function(**job.arguments):
            yield Event(job.key, "value", value)
    except SSAError as error:
        yield Event(job.key, "failed", str(error))
    except Exception as error:
        yield Event(job.key, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
    else:
        yield Event(job.key, "done")


class InProcessExecutor:
    """One job after the other, here."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """See :class:`Executor`."""
        for job in jobs:
            yield from _events(job)


def _serve(connection: Connection, threads: int, progress: bool) -> None:
    """A worker: receive a job, send its events, until there is no more."""
    torch.set_num_threads(threads)
    if progress:
        show_progress()
    try:
        while (job := connection.recv()) is not None:
            for event in _events(job):
                try:
                    connection.send(event)
                except (pickle.PicklingError, TypeError, AttributeError) as error:
                    connection.send(Event(job.key, "failed", f"a result cannot be sent between processes ({error})"))
                    break
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the driver is gone or was interrupted; there is nobody left to tell


class ProcessExecutor:
    """Several spawned processes; a worker that dies fails its job and is replaced."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.threads = max(1, (os.cpu_count() or 1) // workers)

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """See :class:`Executor`."""
        context = multiprocessing.get_context("spawn")
        waiting = list(reversed(jobs))
        busy: dict[Connection, tuple[Any, Job]] = {}

        def start() -> None:
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self.threads, progress_is_shown()), daemon=True)
            process.start()
            theirs.close()
            assign(mine, process)

        def assign(connection: Connection, process: Any) -> None:
            job = waiting.pop() if waiting else None
            with suppress(ConnectionError):  # a worker that has died between two jobs; for a job, recv() will tell
                connection.send(job)
            if job is not None:
                busy[connection] = (process, job)
                return
            busy.pop(connection, None)
            process.join()
            connection.close()

        try:
            for _ in range(min(self.workers, len(jobs))):
                start()
            while busy:
                for ready in wait(list(busy)):
                    assert isinstance(ready, Connection)
                    process, job = busy[ready]
                    try:
                        event = ready.recv()
                    except (EOFError, ConnectionError):
                        process.join()
                        busy.pop(ready)
                        ready.close()
                        reason = "killed, perhaps for memory" if process.exitcode == -9 else f"exit code {process.exitcode}"
                        yield Event(job.key, "failed", f"the worker process ended ({reason})")
                        if waiting:
                            start()
                        continue
                    yield event
                    if event.kind != "value":
                        assign(ready, process)
        finally:
            for process, _ in busy.values():
                process.terminate()


def make_local(workers: int) -> Executor:
    """In this process for one worker, in spawned ones for more."""
    if workers < 1:
        raise SettingsError(f"the number of workers must be at least 1, got {workers}")
    return InProcessExecutor() if workers == 1 else ProcessExecutor(workers)


EXECUTORS.add("local", make_local)
