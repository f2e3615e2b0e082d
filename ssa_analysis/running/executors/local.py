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
        context = multiprocessing.get_context("spawn")
        fresh = iter(jobs)
        again: list[tuple[Tries, Job]] = []
        busy: dict[Connection, _Worker] = {}

        def take() -> tuple[Tries, Job] | None:
            if again:
                return again.pop()
            job = None if stop_requested() else next(fresh, None)
            return None if job is None else (Tries(job), job)

        def start(gpu: int | None, taken: tuple[Tries, Job]) -> None:
            mine, theirs = context.Pipe()
            arguments = (theirs, self.threads, progress_is_shown(), gpu)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            with interrupts_held():
                process.start()
            theirs.close()
            assign(mine, process, gpu, taken)

        def assign(connection: Connection, process: Any, gpu: int | None, taken: tuple[Tries, Job] | None) -> None:
            tries, job = taken if taken is not None else (None, None)
            with suppress(ConnectionError):  # a worker that has died between two jobs; for a job, recv() will tell
                connection.send(job)
            if tries is not None:
                busy[connection] = _Worker(process, gpu, tries)
                return
            busy.pop(connection, None)
            process.join()
            connection.close()

        def stop() -> None:
            for worker in busy.values():
                with suppress(OSError):  # it has just ended
                    os.kill(worker.process.pid, signal.SIGINT)

        seen = oom_kills()
        try:
            with told_of_a_stop(stop):
                for number in range(self.workers):
                    if (taken := take()) is None:
                        break
                    start(number % self.gpus if self.gpus else None, taken)
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
                            kills, seen = seen, oom_kills()
                            starved = code == -signal.SIGKILL and (seen is None or seen != kills)
                            reason = f"exit code {code}" if code != -signal.SIGKILL else "killed"
                            reason += ", for want of memory" if starved and seen is not None else ""
                            told, job = worker.tries.lost(f"the worker process ended ({reason})", starved, code == TOO_LATE)
                            yield from told
                            if job is not None:
                                again.append((worker.tries, job))
                            if (taken := take()) is not None:
                                start(worker.gpu, taken)
                            continue
                        if event.kind == "begun" and stop_requested():  # it could not hear it before
                            stop()
                        passed_on = worker.tries.heard(event)
                        if passed_on is not None:
                            yield passed_on
                        if event.kind not in ("begun", "value"):
                            assign(ready, worker.process, worker.gpu, take())
        finally:
            for worker in busy.values():
                worker.process.kill()


def make_local(settings: ExecutorSettings) -> Executor:
    """In this process for one worker, in spawned ones for more; by default one for each GPU, one where there is none."""
    gpus = torch.cuda.device_count() if settings.device == "cuda" else 0  # cuda:1 is that one for all
    workers = settings.workers or max(1, gpus)
    return InProcessExecutor() if workers == 1 and not settings.isolated else ProcessExecutor(workers, gpus)


EXECUTORS.add("local", ExecutorKind("spawned processes on this machine, one for each GPU", make_local))
