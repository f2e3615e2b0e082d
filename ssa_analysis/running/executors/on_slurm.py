"""Jobs under SLURM, by submitit; its results come through files in a folder that all nodes share."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ssa_analysis.checkpoints.writing import make_folder, write_atomically
from ssa_analysis.errors import SettingsError
from ssa_analysis.running.executors.base import EXECUTORS, Event, Executor, ExecutorKind, ExecutorSettings, Job, Tries, events_of
from ssa_analysis.stopping import stop_requested


def _import_submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise SettingsError("the executor 'slurm' needs submitit; run: pip install 'ssa-analysis[slurm]'") from error
    return submitit


def write_events(job: Job, spool: Path) -> None:
    """What a SLURM job does: each event becomes a file ``spool/NUMBER``, whole or not there."""
    for count, event in enumerate(events_of(job, in_worker=True)):
        try:
            content = pickle.dumps(event)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            failed = Event(job.key, "failed", f"a result cannot be sent between processes ({error})")
            write_atomically(spool / f"{count:06d}", pickle.dumps(failed))
            return
        write_atomically(spool / f"{count:06d}", content)


class SlurmExecutor:
    """One SLURM job a job; a job that is killed, preempted or loses its node is submitted again.

    Args:
        folder: for submitit's logs and the results on their way, on a file system that all nodes share.
        workers: jobs at a time; None: all at once, and SLURM decides.
        cluster: ``slurm``, or ``local`` for submitit's own processes on this machine.
        parameters: submitit's, such as ``slurm_partition``, ``timeout_min``, ``gpus_per_node``.
        poll: seconds between two looks at the results.
    """

    def __init__(
        self,
        folder: Path,
        workers: int | None = None,
        cluster: str = "slurm",
        parameters: Mapping[str, Any] | None = None,
        poll: float = 2.0,
    ) -> None:
        self.folder, self.workers, self.cluster, self.poll = Path(folder), workers, cluster, poll
        self.parameters = dict(parameters or {})

    def run(self, jobs: Iterable[Job]) -> Iterator[Event]:
        """See :class:`Executor`."""
        fresh = iter(jobs)
        first = next(fresh, None)
        if first is None:
            return
        submitit = _import_submitit()
        folder = make_folder(self.folder)
        try:
            executor = submitit.AutoExecutor(folder=folder / "%j", cluster=self.cluster)
            executor.update_parameters(name="ssa-analyze", **self.parameters)
        except (RuntimeError, TypeError, ValueError, NameError) as error:
            raise SettingsError(f"the executor 'slurm' cannot be used here ({error})") from error
        spools = Path(tempfile.mkdtemp(prefix="results-", dir=folder))
        try:
            yield from self._run(executor, spools, chain([first], fresh))
        finally:
            shutil.rmtree(spools, ignore_errors=True)

    def _run(self, executor: Any, spools: Path, jobs: Iterable[Job]) -> Iterator[Event]:
        again: list[tuple[Tries, Job]] = []
        fresh = ((Tries(job), job) for job in jobs)
        busy: list[_Submitted] = []
        over: list[_Submitted] = []
        try:
            while True:
                room = None if self.workers is None else self.workers - len(busy)
                pieces = [] if stop_requested() else list(islice(chain(again, fresh), room))
                again = again[len(pieces) :]
                homes = [Path(tempfile.mkdtemp(dir=spools)) for _ in pieces]
                with executor.batch() if pieces else nullcontext():  # one array job
                    submitted = [executor.submit(write_events, job, home) for (_, job), home in zip(pieces, homes, strict=True)]
                busy += [_Submitted(s, home, tries) for s, home, (tries, _) in zip(submitted, homes, pieces, strict=True)]
                if not busy:
                    return
                idle = True
                for one in list(busy):
                    if stop_requested() and not one.tries.job.each:  # it goes on from what it has saved
                        one.handle.cancel()
                        one.ended = True
                        yield Event(one.tries.job.key, "stopped")
                    finished = one.handle.done()  # before the look, so that nothing is missed after it
                    for event in one.fresh() if not one.ended else ():
                        idle = False
                        passed_on = one.tries.heard(event)
                        if passed_on is not None:
                            yield passed_on
                        if event.kind not in ("begun", "value"):
                            one.ended = True
                        elif event.kind == "value" and stop_requested():
                            one.handle.cancel()
                            one.ended = True
                            yield Event(one.tries.job.key, "stopped")
                            break
                    if finished or one.ended:
                        busy.remove(one)
                        over.append(one)
                    if finished and not one.ended:
                        state = str(one.handle.state)
                        reason = f"the job {one.handle.job_id} ended ({state})"
                        told, job = one.tries.lost(reason, "OUT_OF_ME" in state, one.tries.late(self.poll))
                        yield from told
                        if job is not None:
                            again.append((one.tries, job))
                if idle and busy:
                    time.sleep(self.poll)
        finally:
            for one in busy:
                with suppress(Exception):  # the run ends anyway
                    one.handle.cancel()
            for one in (*over, *busy) if self.cluster == "local" else ():
                with suppress(Exception):
                    one.handle.wait()  # processes of ours; they have said their last word


class _Submitted:
    """A submitted job and what has been read of its events."""

    def __init__(self, handle: Any, spool: Path, tries: Tries) -> None:
        self.handle, self.spool, self.tries = handle, spool, tries
        self.read, self.ended = 0, False

    def fresh(self) -> Iterator[Event]:
        """Events that were not read yet; our own files, in a folder that only this user can write."""
        while (path := self.spool / f"{self.read:06d}").is_file():
            event = pickle.loads(path.read_bytes())
            path.unlink()
            self.read += 1
            yield event


def make_slurm(settings: ExecutorSettings) -> Executor:
    """Options ``folder`` (``slurm-jobs``), ``cluster`` and submitit's parameters, whole numbers read as such."""
    _import_submitit()
    values: dict[str, Any] = {k: int(v) if v.isdigit() else v for k, v in settings.options.items()}
    folder, cluster = Path(str(values.pop("folder", "slurm-jobs"))).absolute(), str(values.pop("cluster", "slurm"))
    if settings.needs_gpu:
        values.setdefault("gpus_per_node", 1)
    return SlurmExecutor(folder, settings.workers, cluster, values)


SUBMITIT = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node", "stderr_to_stdout", "slurm_*")
EXECUTORS.add("slurm", ExecutorKind("SLURM jobs by submitit", make_slurm, ("folder", "cluster", *SUBMITIT)))
