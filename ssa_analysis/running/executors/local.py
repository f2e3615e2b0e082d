"""Jobs on this machine: here, or in spawned processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from ssa_analysis.progress import progress_is_shown, show_progress
from ssa_analysis.running.executors.base import EXECUTORS, Event, Executor, ExecutorKind, ExecutorSettings, Job, Tries, events_of
from ssa_analysis.stopping import TOO_LATE, follow_the_driver, interrupts_held, stop_requested, told_of_a_stop


class InProcessExecutor:
    """One job after the other, here."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """See :class:`Executor`."""
        for job in jobs:
            yield from events_of(job)
            if stop_requested():
                return


def _serve(connection: Connection, threads: int, progress: bool, gpu: int | None) -> None:
    """A worker: receive a job, send its events, until there is no more."""
    if gpu is not None:  # before anything touches CUDA
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    follow_the_driver()
    torch.set_num_threads(threads)
    if progress:
        show_progress()
    try:
        while (job := connection.recv()) is not None:
            for event in events_of(job, in_worker=True):
                try:
                    connection.send(event)
                except (pickle.PicklingError, TypeError, AttributeError) as error:
                    connection.send(Event(job.key, "failed", f"a result cannot be sent between processes ({error})"))
                    break
    except (EOFError, ConnectionError):
        pass  # the driver is gone; there is nobody left to tell


@dataclass
class _Worker:
    process: Any
    gpu: int | None
    tries: Tries


def oom_kills() -> int | None:
    """How many processes the system has killed for want of memory since it was started; None where it does not say."""
    with suppress(OSError, ValueError):
        counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        return int(counts["oom_kill"]) if "oom_kill" in counts else None
    return None


class ProcessExecutor:
    """Several spawned processes, each with a GPU of its own where there are any; a worker that dies is replaced.

    Args:
        workers: processes, which share out this one's threads. gpus: GPUs that they share out among themselves; 0 leaves them
            to see all.
    """

    def __init__(self, workers: int, gpus: int = 0) -> None:
        self.workers, self.gpus = workers, gpus
        self.threads = max(1, torch.get_num_threads() // workers)

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """See :class:`Executor`."""
        yield from _Pool(self.workers, self.gpus, self.threads, jobs).events()


class _Pool:
    """The workers of one run, by the connections to them."""

    def __init__(self, workers: int, gpus: int, threads: int, jobs: Iterable[Job]) -> None:
        self.workers, self.gpus, self.threads = workers, gpus, threads
        self.context = multiprocessing.get_context("spawn")
        self.fresh = iter(jobs)
        self.again: list[tuple[Tries, Job]] = []
        self.busy: dict[Connection, _Worker] = {}
        self.kills = oom_kills()

    def events(self) -> Iterator[Event]:
        """Of all jobs; closing the iterator ends the workers."""
        try:
            with told_of_a_stop(self.stop):
                for number in range(self.workers):
                    self.start(number % self.gpus if self.gpus else None)
                while self.busy:
                    for ready in wait(list(self.busy)):
                        assert isinstance(ready, Connection)
                        yield from self.hear(ready)
        finally:
            for worker in self.busy.values():
                worker.process.kill()

    def stop(self) -> None:
        """Pass a request to stop on to the workers."""
        for worker in self.busy.values():
            with suppress(OSError):  # it has just ended
                os.kill(worker.process.pid, signal.SIGINT)

    def take(self) -> tuple[Tries, Job] | None:
        """The next job to begin, None where there is none or a stop was asked for."""
        if self.again:
            return self.again.pop()
        job = None if stop_requested() else next(self.fresh, None)
        return None if job is None else (Tries(job), job)

    def start(self, gpu: int | None) -> None:
        """A new worker for the next job, if there is one."""
        taken = self.take()
        if taken is None:
            return
        mine, theirs = self.context.Pipe()
        arguments = (theirs, self.threads, progress_is_shown(), gpu)
        process = self.context.Process(target=_serve, args=arguments, daemon=True)
        with interrupts_held():
            process.start()
        theirs.close()
        self.busy[mine] = _Worker(process, gpu, taken[0])
        self.send(mine, taken[1])

    def send(self, connection: Connection, job: Job | None) -> None:
        """A job to a worker; None ends it."""
        with suppress(ConnectionError):  # it has died between two jobs; for a job, recv() will tell
            connection.send(job)

    def hear(self, connection: Connection) -> Iterator[Event]:
        """What a worker has to say: an event, or by its silence that it has died."""
        worker = self.busy[connection]
        try:
            event = connection.recv()
        except (EOFError, ConnectionError):
            yield from self.bury(connection)
            return
        if event.kind == "begun" and stop_requested():  # it could not hear it before
            self.stop()
        passed_on = worker.tries.heard(event)
        if passed_on is not None:
            yield passed_on
        if event.kind in ("begun", "value"):
            return
        taken = self.take()
        if taken is not None:
            worker.tries = taken[0]
            self.send(connection, taken[1])
            return
        self.send(connection, None)
        del self.busy[connection]
        worker.process.join()
        connection.close()

    def bury(self, connection: Connection) -> Iterator[Event]:
        """What the end of a worker means for its job; another worker takes its place."""
        worker = self.busy.pop(connection)
        worker.process.join()
        connection.close()
        code = worker.process.exitcode
        before, self.kills = self.kills, oom_kills()
        starved = code == -signal.SIGKILL and (self.kills is None or self.kills != before)
        reason = f"exit code {code}" if code != -signal.SIGKILL else "killed"
        reason += ", for want of memory" if starved and self.kills is not None else ""
        told, job = worker.tries.lost(f"the worker process ended ({reason})", starved, code == TOO_LATE)
        yield from told
        if job is not None:
            self.again.append((worker.tries, job))
        self.start(worker.gpu)


def make_local(settings: ExecutorSettings) -> Executor:
    """In this process for one worker, in spawned ones for more; by default one for each GPU, one where there is none."""
    gpus = torch.cuda.device_count() if settings.device == "cuda" else 0  # cuda:1 is that one for all
    workers = settings.workers or max(1, gpus)
    return InProcessExecutor() if workers == 1 and not settings.isolated else ProcessExecutor(workers, gpus)


EXECUTORS.add("local", ExecutorKind("spawned processes on this machine, one for each GPU", make_local))
