"""Jobs on this machine: here, or in spawned processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ssa_analysis.progress import progress_is_shown, show_progress
from ssa_analysis.running.executors.base import EXECUTORS, Event, Executor, ExecutorKind, ExecutorSettings, Job, Tries, events_of


class InProcessExecutor:
    """One job after the other, here."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """See :class:`Executor`."""
        for job in jobs:
            yield from events_of(job)


def _serve(connection: Connection, threads: int, progress: bool, gpu: int | None) -> None:
    """A worker: receive a job, send its events, until there is no more."""
    if gpu is not None:  # before anything touches CUDA
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    torch.set_num_threads(threads)
    if progress:
        show_progress()
    try:
        while (job := connection.recv()) is not None:
            for event in events_of(job):
                try:
                    connection.send(event)
                except (pickle.PicklingError, TypeError, AttributeError) as error:
                    connection.send(Event(job.key, "failed", f"a result cannot be sent between processes ({error})"))
                    break
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the driver is gone or was interrupted; there is nobody left to tell


@dataclass
class _Worker:
    process: Any
    gpu: int | None
    tries: Tries


class ProcessExecutor:
    """Several spawned processes, each with a GPU of its own where there are any; a worker that dies is replaced.

    Args:
        workers: processes. gpus: GPUs that they share out among themselves; 0 leaves them to see all.
    """

    def __init__(self, workers: int, gpus: int = 0) -> None:
        self.workers, self.gpus = workers, gpus
        self.threads = max(1, (os.cpu_count() or 1) // workers)

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """See :class:`Executor`."""
        context = multiprocessing.get_context("spawn")
        waiting = list(reversed([(Tries(job), job) for job in jobs]))
        busy: dict[Connection, _Worker] = {}

        def start(gpu: int | None) -> None:
            mine, theirs = context.Pipe()
            arguments = (theirs, self.threads, progress_is_shown(), gpu)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            assign(mine, process, gpu)

        def assign(connection: Connection, process: Any, gpu: int | None) -> None:
            tries, job = waiting.pop() if waiting else (None, None)
            with suppress(ConnectionError):  # a worker that has died between two jobs; for a job, recv() will tell
                connection.send(job)
            if tries is not None:
                busy[connection] = _Worker(process, gpu, tries)
                return
            busy.pop(connection, None)
            process.join()
            connection.close()

        try:
            for number in range(min(self.workers, len(jobs))):
                start(number % self.gpus if self.gpus else None)
            while busy:
                for ready in wait(list(busy)):
                    assert isinstance(ready, Connection)
                    worker = busy[ready]
                    try:
                        event = ready.recv()
                    except (EOFError, ConnectionError):
                        worker.process.join()
                        busy.pop(ready)
                        ready.close()
                        code = worker.process.exitcode
                        reason = "killed, perhaps for memory" if code == -9 else f"exit code {code}"
                        told, again = worker.tries.lost(f"the worker process ended ({reason})")
                        yield from told
                        if again is not None:
                            waiting.append((worker.tries, again))
                        if waiting:
                            start(worker.gpu)
                        continue
                    passed_on = worker.tries.heard(event)
                    if passed_on is not None:
                        yield passed_on
                    if event.kind != "value":
                        assign(ready, worker.process, worker.gpu)
        finally:
            for worker in busy.values():
                worker.process.terminate()


def make_local(settings: ExecutorSettings) -> Executor:
    """In this process for one worker, in spawned ones for more; by default one for each GPU, one where there is none."""
    gpus = torch.cuda.device_count() if settings.device == "cuda" else 0  # cuda:1 is that one for all
    workers = settings.workers or max(1, gpus)
    return InProcessExecutor() if workers == 1 else ProcessExecutor(workers, gpus)


EXECUTORS.add("local", ExecutorKind("spawned processes on this machine, one for each GPU", make_local))
