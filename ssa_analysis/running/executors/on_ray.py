"""Jobs on a Ray cluster: an address, or a local cluster that is started here."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

from ssa_analysis.errors import SettingsError
from ssa_analysis.running.executors.base import EXECUTORS, Event, Executor, ExecutorKind, ExecutorSettings, Job, Tries, events_of
from ssa_analysis.stopping import stop_requested

DELAY = 1.0  # seconds that an event may be on its way


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise SettingsError("the executor 'ray' needs Ray; run: pip install 'ssa-analysis[ray]'") from error
    return ray


def _check_reachable(address: str) -> None:
    """SettingsError unless something answers at ``host:port``; Ray itself would go on trying for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        if address != "auto":
            raise SettingsError(f"the address of a Ray cluster is HOST:PORT, ray://HOST:PORT or auto, got {address!r}")
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise SettingsError(f"no Ray cluster at {address!r} ({error})") from error


def _work(job: Job) -> Iterator[Event]:
    """What a Ray task does."""
    yield from events_of(job, in_worker=True)


class RayExecutor:
    """One Ray task a job, whose results come as they are yielded; a job whose node dies goes on on another one.

    Args:
        address: of a cluster (``host:port``, ``ray://...``, ``auto``); empty: a cluster that has been joined already, or
            else one on this machine, which ends with the run.
        workers: tasks at a time; None: as many as the cluster has room for.
        cpus, gpus: that each task takes.

    The checkpoints, the data and, for training, the output folder must lie on a file system that all nodes share, and
    all need the same packages.
    """

    def __init__(self, address: str = "", workers: int | None = None, cpus: float = 1.0, gpus: float = 0.0) -> None:
        self.address, self.workers, self.cpus, self.gpus = address, workers, cpus, gpus

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """See :class:`Executor`."""
        fresh = iter(jobs)
        first = next(fresh, None)
        if first is None:
            return
        ray = _import_ray()
        joined = ray.is_initialized()
        if not joined:
            if self.address:
                _check_reachable(self.address)
            try:
                ray.init(address=self.address or "local", include_dashboard=False, log_to_driver=False, logging_level="error")
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise SettingsError(f"no Ray cluster at {self.address!r} ({str(error).splitlines()[0]})") from error
        try:
            yield from self._run(ray, chain([first], fresh))
        finally:
            if not joined:
                ray.shutdown()

    def _run(self, ray: Any, jobs: Iterable[Job]) -> Iterator[Event]:
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": 0, "num_returns": "streaming"}
        remote = ray.remote(**options)(_work)
        waiting: list[tuple[Tries, Job]] = []
        fresh = ((Tries(job), job) for job in jobs)
        busy: dict[Any, Tries] = {}

        def cancel(stream: Any) -> None:
            with suppress(Exception):  # it has ended, or the cluster has
                ray.cancel(stream, force=True)

        try:
            while True:
                while not stop_requested() and (self.workers is None or len(busy) < self.workers):
                    taken = waiting.pop() if waiting else next(fresh, None)
                    if taken is None:
                        break
                    busy[remote.remote(taken[1])] = taken[0]
                for stream in [stream for stream, tries in busy.items() if stop_requested() and not tries.job.each]:
                    cancel(stream)  # it goes on from what it has saved
                    yield Event(busy.pop(stream).job.key, "stopped")
                if not busy:
                    return
                ready, _ = ray.wait(list(busy), num_returns=1, timeout=1.0, fetch_local=False)
                if not ready:
                    continue
                stream = ready[0]
                tries = busy[stream]
                starved = False
                try:
                    event = ray.get(next(stream))
                except StopIteration:  # without a last event: the worker ended before it could say so
                    reason: str | None = "the Ray task ended early"
                except ray.exceptions.RayTaskError as error:
                    reason = f"the Ray task failed ({str(error.cause or error).splitlines()[-1]})"
                except ray.exceptions.RayError as error:
                    reason = f"the Ray worker was lost ({type(error).__name__})"
                    starved = isinstance(error, ray.exceptions.OutOfMemoryError)
                else:
                    reason = None
                    passed_on = tries.heard(event)
                    if passed_on is not None:
                        yield passed_on
                    if event.kind not in ("begun", "value"):
                        busy.pop(stream)
                    elif event.kind == "value" and stop_requested():
                        cancel(stream)
                        yield Event(busy.pop(stream).job.key, "stopped")
                if reason is not None:
                    busy.pop(stream)
                    told, again = tries.lost(reason, starved, tries.late(DELAY))
                    yield from told
                    if again is not None:
                        waiting.append((tries, again))
        finally:
            for stream in busy:
                cancel(stream)


def make_ray(settings: ExecutorSettings) -> Executor:
    """Options ``address``, ``cpus`` (1) and ``gpus`` (1 where the device is cuda) of each job."""
    _import_ray()
    options = settings.options
    try:
        cpus, gpus = float(options.get("cpus", 1)), float(options.get("gpus", 1 if settings.needs_gpu else 0))
    except ValueError as error:
        raise SettingsError(f"cpus and gpus of the executor 'ray' must be numbers ({error})") from error
    return RayExecutor(options.get("address", ""), settings.workers, cpus, gpus)


EXECUTORS.add("ray", ExecutorKind("tasks on a Ray cluster, or a local one", make_ray, ("address", "cpus", "gpus")))
